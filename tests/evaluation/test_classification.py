import numpy as np
import pytest

from medvlp_lite.evaluation.classification import (
    apply_platt,
    auc,
    auc_table,
    best_threshold,
    calibration_curve,
    decide,
    expected_calibration_error,
    max_f1,
    mean_max_f1,
    platt_scaling,
    resampled_auc,
    roc_points,
)  # fmt: skip

NAN = float("nan")


def slow_auc(labels, scores):
    """The share of (positive, negative) pairs in the right order; a tie counts half."""
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, a in zip(scores, labels) if a == 1 for n, b in zip(scores, labels) if b == 0
    ]  # fmt: skip
    return sum(wins) / len(wins)


def test_auc_equals_counting_pairs_and_ignores_unknown():
    generator = np.random.default_rng(0)
    labels = generator.choice([0.0, 1.0, NAN], 60)
    scores = generator.integers(0, 9, 60).astype(float)
    assert auc(labels, scores) == pytest.approx(slow_auc(labels, scores))
    flipped = np.where(np.isnan(labels), 0.0, labels)
    assert auc(labels, scores) != pytest.approx(auc(flipped, scores)), "unknown must not count as negative"


def test_auc_limits():
    assert auc(np.array([0.0, 0, 1, 1]), np.array([1.0, 2, 3, 4])) == 1
    assert auc(np.array([0.0, 0, 1, 1]), np.zeros(4)) == 0.5
    assert np.isnan(auc(np.array([1.0, 1, NAN]), np.zeros(3)))
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        auc(np.array([1.0, 0]), np.array([NAN, 1]))


def test_table_intervals_cover_and_skip_one_sided_classes():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, (300, 3)).astype(float)
    labels[:, 2] = 1
    scores = labels + generator.normal(0, 1, labels.shape)
    table = auc_table(labels, scores, ["a", "b", "c"], resamples=60)
    assert set(table.per_class) == {"a", "b"}
    for interval in [*table.per_class.values(), table.macro]:
        assert interval.low < interval.value < interval.high
    assert table.macro.value == pytest.approx(np.mean([table.per_class[n].value for n in "ab"]))


def test_all_resamples_at_once_equal_a_loop_over_them():
    generator = np.random.default_rng(8)
    labels, scores = generator.choice([0.0, 1.0, NAN], 40), generator.integers(0, 9, 40).astype(float)
    counts = np.vstack([generator.integers(0, 4, (20, 40)), np.zeros((1, 40), int), (labels == 1).astype(int)])
    slow = [auc(np.repeat(labels, row), np.repeat(scores, row)) for row in counts]
    assert resampled_auc(labels, scores, counts) == pytest.approx(slow, nan_ok=True)
    assert np.isnan(slow[-2:]).all(), "a resample with one class only has no AUC"


def test_a_table_rests_on_at_least_a_thousand_resamples_of_patients(monkeypatch):
    from medvlp_lite.evaluation import classification

    seen = []
    monkeypatch.setattr(
        classification, "resampled_auc", lambda y, s, counts: seen.append(counts) or np.ones(len(counts))
    )
    auc_table(np.array([[0.0], [1], [1]]), np.zeros((3, 1)), ["a"], groups=["p", "q", "q"])
    assert len(seen[0]) >= 1000 and (seen[0][:, 1] == seen[0][:, 2]).all()


def test_patients_are_resampled_whole():
    generator = np.random.default_rng(2)
    labels = np.repeat(generator.integers(0, 2, 60), 5).astype(float)[:, None]
    scores = np.repeat(generator.normal(0, 1, 60), 5)[:, None] + labels
    patients = np.repeat(np.arange(60), 5).astype(str)
    width = lambda table: table.macro.high - table.macro.low  # noqa: E731
    alone, grouped = (auc_table(labels, scores, ["a"], groups=g, resamples=200) for g in (None, patients))
    assert width(grouped) > 1.5 * width(alone)


def test_table_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit together"):
        auc_table(np.zeros((3, 2)), np.zeros((3, 1)), ["a"])
    with pytest.raises(ValueError, match="nothing can be scored"):
        auc_table(np.ones((3, 1)), np.zeros((3, 1)), ["a"])


def test_best_threshold_equals_trying_them_all():
    generator = np.random.default_rng(3)
    labels, scores = generator.choice([0.0, 1.0, NAN], 80), generator.normal(size=80).round(1)
    tried = max(decide(labels, scores, t, "x").f1 for t in np.unique(scores))
    assert decide(labels, scores, best_threshold(labels, scores), "x").f1 == pytest.approx(tried)
    with pytest.raises(ValueError, match="no positive label"):
        best_threshold(np.zeros(3), np.zeros(3))


def test_choosing_on_test_is_never_worse_and_is_named():
    generator = np.random.default_rng(4)
    val, test = ((y := generator.integers(0, 2, 40).astype(float), y + generator.normal(0, 1.5, 40)) for _ in range(2))
    honest, flattered = max_f1(test, val), max_f1(test, threshold_from="test")
    assert honest.f1 <= flattered.f1 and (honest.chosen_on, flattered.chosen_on) == ("val", "test")
    with pytest.raises(ValueError, match="needs val="):
        max_f1(test)
    with pytest.raises(ValueError, match="must be 'val' or 'test'"):
        max_f1(test, val, "train")


def test_the_released_rules_for_accuracy_at_the_best_threshold():
    labels, scores = np.array([0.0, 0, 1, 0, 1, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.35, 0.6, 0.7, 0.4, 0.9])
    own, strict = (max_f1((labels, scores), threshold_from="test", rule=rule) for rule in ("scores", "medklip"))
    assert own.threshold == strict.threshold == 0.6 and own.f1 == strict.f1
    assert (own.accuracy, strict.accuracy) == (0.875, 0.75), "the score at the threshold itself does not count"
    labels, scores = np.array([1.0, 0, 0, 1, 0, 0, 0, 0, 0]), np.arange(9, 0, -1) / 10
    own, tied = (max_f1((labels, scores), threshold_from="test", rule=rule) for rule in ("scores", "medfilip"))
    assert own.f1 == pytest.approx(tied.f1) and (own.accuracy, tied.accuracy) == (7 / 9, 8 / 9)
    with pytest.raises(ValueError, match="rule must be one of"):
        max_f1((labels, scores), threshold_from="test", rule="f2")


def test_the_grid_rule_equals_trying_every_thousandth():
    generator = np.random.default_rng(0)
    for _ in range(20):
        labels, scores = generator.integers(0, 2, 20).astype(float), generator.uniform(-1, 1, 20)
        labels[0] = 1.0
        tries = [decide(labels, scores, t, "") for t in np.arange(-1, 1, 0.001)]
        best = max(one.f1 for one in tries)
        found = max_f1((labels, scores), threshold_from="test", rule="medfilip")
        assert found.f1 == pytest.approx(best)
        assert found.accuracy == max(one.accuracy for one in tries if np.isclose(one.f1, best))


def test_decision_by_hand():
    decision = decide(np.array([1.0, 1, 0, 0, NAN]), np.array([0.9, 0.2, 0.8, 0.1, 0.9]), 0.5, "val")
    assert (decision.sensitivity, decision.specificity, decision.accuracy, decision.f1) == (0.5, 0.5, 0.5, 0.5)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="a score is NaN"):
        decide(np.array([1.0, 0.0]), np.array([NAN, 0.1]), 0.5, "val")
    decide(np.array([1.0, NAN]), np.array([0.9, NAN]), 0.5, "val")


def test_calibration_by_hand_and_limits():
    labels, probabilities = np.array([0.0, 1, 1, 1, NAN]), np.array([0.25, 0.25, 0.95, 0.95, 0.5])
    curve = calibration_curve(labels, probabilities)
    assert curve["count"].tolist() == [2, 2] and curve["observed"].tolist() == [0.5, 1.0]
    assert expected_calibration_error(labels, probabilities) == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)
    assert expected_calibration_error(np.array([0.0, 1]), np.array([0.0, 1])) == 0
    with pytest.raises(ValueError, match="must lie in"):
        calibration_curve(labels, probabilities * 2)


def test_platt_scaling_makes_scores_honest():
    generator = np.random.default_rng(5)
    truth = 1 / (1 + np.exp(-generator.normal(0, 2, 4000)))
    labels = (generator.random(4000) < truth).astype(float)
    scores = 7 + 0.01 * np.log(truth / (1 - truth))
    fitted = apply_platt(scores, *platt_scaling(labels[:2000], scores[:2000]))
    assert expected_calibration_error(labels[2000:], fitted[2000:]) < 0.05


def test_means_over_classes_that_both_parts_can_judge():
    generator = np.random.default_rng(7)
    labels = {part: generator.integers(0, 2, (30, 3)).astype(float) for part in ("val", "test")}
    labels["val"][:, 2] = 0
    scores = {part: generator.normal(size=(30, 3)) for part in labels}
    rows = [max_f1(*((labels[p][:, c], scores[p][:, c]) for p in ("test", "val"))) for c in (0, 1)]
    found = mean_max_f1(labels, scores)
    assert found == {"accuracy": np.mean([r.accuracy for r in rows]), "f1": np.mean([r.f1 for r in rows]), "classes": 2}
    nothing = mean_max_f1({part: np.zeros((4, 1)) for part in labels}, {part: np.zeros((4, 1)) for part in labels})
    assert np.isnan(nothing["f1"]) and nothing["classes"] == 0


def test_roc_points_begin_and_end_in_the_corners():
    false_positive, true_positive = roc_points(np.array([0.0, 1, 0, 1, NAN]), np.array([0.1, 0.4, 0.3, 0.9, 0.2]))
    assert false_positive[0] == true_positive[0] == 0 and false_positive[-1] == true_positive[-1] == 1

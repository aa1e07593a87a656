import numpy as np
import pytest

from medvlp_lite.evaluation import staging as st


def made_up(count=300, classes=4, seed=0, sharp=2.0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) + sharp * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth, probabilities


def test_five_metrics_equal_the_counts():
    truth, probabilities = made_up()
    answer, scores = probabilities.argmax(1), st.stage_scores(truth, probabilities)
    sensitivity, specificity, f1, areas = [], [], [], []
    for k in range(4):
        tp, fn = np.sum((truth == k) & (answer == k)), np.sum((truth == k) & (answer != k))
        fp, tn = np.sum((truth != k) & (answer == k)), np.sum((truth != k) & (answer != k))
        sensitivity.append(tp / (tp + fn))
        specificity.append(tn / (tn + fp))
        f1.append(2 * tp / (2 * tp + fp + fn))
        pairs = probabilities[truth == k, k][:, None] - probabilities[truth != k, k][None]
        areas.append(np.mean(pairs > 0) + 0.5 * np.mean(pairs == 0))
    expected = [np.mean(truth == answer), *(np.mean(v) for v in (sensitivity, specificity, f1, areas))]
    assert [scores.accuracy, scores.sensitivity, scores.specificity, scores.f1, scores.auc] == pytest.approx(expected)
    assert scores.mean == pytest.approx(np.mean(expected))
    perfect = st.stage_scores(np.arange(4), np.eye(4))
    assert perfect.mean == 1


def test_a_stage_that_does_not_occur_is_left_out_and_bad_input_is_refused():
    truth, probabilities = made_up()
    rows = truth != 3
    scores = st.stage_scores(truth[rows], probabilities[rows])
    assert not np.isnan(scores.mean) and 0 < scores.auc < 1
    with pytest.raises(ValueError, match="do not fit together"):
        st.stage_scores(truth[:5], probabilities)
    with pytest.raises(ValueError, match=r"truth must lie in 0\.\.3"):
        st.stage_scores(truth - 1, probabilities)
    with pytest.raises(ValueError, match="sum to 1"):
        st.stage_scores(truth, probabilities * 2)
    with pytest.raises(ValueError, match="without NaN"):
        st.stage_scores(truth, np.where(np.arange(len(truth))[:, None] == 7, np.nan, probabilities))


def test_confusion_and_the_pair_most_confused():
    counts = st.confusion(np.array([0, 0, 1, 3]), np.array([0, 1, 1, 0]))
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    counts = np.array([[900, 90, 0, 0], [60, 500, 0, 0], [0, 0, 60, 40], [0, 0, 30, 70]])
    assert st.most_confused(counts) == (2, 3), "70 of 200 beats 150 of 1550"
    assert st.most_confused(np.diag([3, 4, 5])) is None, "every answer is right"
    assert st.most_confused(np.array([[75, 25, 0], [35, 35, 30], [0, 0, 100]])) == (0, 1), "both directions count"


def test_quadratic_kappa():
    first = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    assert st.quadratic_kappa(first, first) == 1
    assert st.quadratic_kappa(first, 3 - first) == pytest.approx(-1)
    assert st.quadratic_kappa(np.zeros(5, int), np.zeros(5, int)) == 1, "one class, read alike"
    assert st.quadratic_kappa(np.zeros(5, int), np.ones(5, int)) == 0
    for second in (np.where(first == 3, -1, first), first + 1, np.where(first == 3, np.nan, first)):
        with pytest.raises(ValueError, match=r"must lie in 0\.\.3"):
            st.quadratic_kappa(first, second)
    with pytest.raises(ValueError, match="two readings of the same cases"):
        st.quadratic_kappa(first, first[:4])
    near, far = first.copy(), first.copy()
    near[0], far[0] = 1, 3
    assert 1 > st.quadratic_kappa(first, near) > st.quadratic_kappa(first, far)
    weights = (np.subtract.outer(range(4), range(4))) ** 2
    counts = st.confusion(first, far)
    chance = np.outer(counts.sum(1), counts.sum(0)) / len(first)
    assert st.quadratic_kappa(first, far) == pytest.approx(1 - (weights * counts).sum() / (weights * chance).sum())


def test_calibration_error_of_the_given_answer():
    truth = np.array([0, 0, 0, 1])
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert st.calibration_error(truth, probabilities) == pytest.approx(0)
    assert st.calibration_error(np.zeros(4, dtype=int), probabilities) == pytest.approx(0.25)


def test_risk_coverage_by_hand_and_its_area():
    unsure, correct = np.array([0.3, 0.1, 0.2, 0.4]), np.array([0, 1, 1, 0], dtype=bool)
    coverage, risk = st.risk_coverage(unsure, correct)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1] and risk == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert st.aurc(unsure, correct) == pytest.approx((1 / 3 + 1 / 2) / 4)
    with pytest.raises(ValueError, match="no NaN"):
        st.risk_coverage(np.array([np.nan]), np.array([1]))


def test_ties_do_not_depend_on_the_order():
    correct = np.array([1, 0, 0, 1, 0], dtype=bool)
    flat = st.risk_coverage(np.full(5, 0.5), correct)[1]
    assert flat == pytest.approx([0.6] * 5) and st.aurc(np.full(5, 0.5), correct) == pytest.approx(0.6)
    order = np.array([4, 2, 0, 1, 3])
    unsure = np.array([0.1, 0.2, 0.2, 0.2, 0.3])
    assert st.aurc(unsure, correct) == pytest.approx(st.aurc(unsure[order], correct[order]))


def test_the_best_order_has_the_smallest_area_and_a_random_one_the_error_rate():
    correct = np.random.default_rng(1).random(4000) < 0.7
    assert st.aurc(~correct * 1.0, correct) < st.aurc(np.arange(4000.0), correct)
    assert st.aurc(np.arange(4000.0), correct) == pytest.approx(0.3, abs=0.03)


def test_selection_counts_what_is_kept():
    chosen = st.select(np.array([0.1, 0.2, 0.3, 0.3]), np.array([1, 0, 1, 1]), 0.3)
    assert (chosen.coverage, chosen.referral, chosen.accuracy.value) == (0.5, 0.5, 0.5)
    assert 0 < chosen.accuracy.low < 0.5 < chosen.accuracy.high < 1
    nothing = st.select(np.array([0.1]), np.array([1]), 0.0)
    assert nothing.referral == 1 and np.isnan(nothing.accuracy.value)


def test_conformal_sets_by_hand():
    calibration = (np.array([0, 0, 0]), np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]))
    values = st.conformal_p_values(calibration, np.array([[0.95, 0.05], [0.6, 0.4]]))
    assert values.tolist() == [[1.0, 0.25], [0.75, 0.5]]
    assert st.conformal_sets(calibration, np.array([[0.6, 0.4]]), alpha=0.5).tolist() == [[True, False]]
    second = np.sort(values, axis=1)[:, -2]
    for level, most in zip(second, np.sort(values, axis=1)[:, -1]):
        row = np.flatnonzero(second == level)
        for alpha, size in ((level - 0.01, 2), (level, 1), (most, 0)):
            assert (values[row] > alpha).sum(axis=1).tolist() == [size]
    with pytest.raises(ValueError, match="differ in stages"):
        st.conformal_p_values(calibration, np.array([[0.6, 0.3, 0.1]]))
    with pytest.raises(ValueError, match="without NaN"):
        st.conformal_p_values(calibration, np.array([[0.6, np.nan]]))
    with pytest.raises(ValueError, match="alpha must lie"):
        st.conformal_sets(calibration, np.array([[0.6, 0.4]]), alpha=0)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_conformal_sets_hold_the_truth_as_often_as_they_promise(alpha):
    held = []
    for seed in range(100, 400):
        truth, probabilities = made_up(400, seed=seed, sharp=1.5)
        sets = st.conformal_sets((truth[:100], probabilities[:100]), probabilities[100:], alpha)
        held.append(sets[np.arange(300), truth[100:]].mean())
    assert np.mean(held) == pytest.approx(1 - alpha, abs=0.01)


def test_recall_per_class_and_a_class_that_is_no_longer_answered():
    counts = np.array([[8, 2, 0], [5, 5, 0], [0, 0, 0]])
    assert st.recall_per_class(counts)[:2] == pytest.approx([0.8, 0.5]) and np.isnan(st.recall_per_class(counts)[2])
    truth = np.repeat(np.arange(4), 25)
    honest = st.agreement(truth, 0.91 * np.eye(4)[truth] + 0.03 * np.eye(4)[::-1][truth] + 0.015)
    constant = st.agreement(truth, np.tile([0.4, 0.3, 0.2, 0.1], (100, 1)))
    assert not honest["collapsed"] and honest["recall"] == [1, 1, 1, 1] and honest["macro_f1"] == 1
    assert constant["collapsed"] and constant["recall"] == [1, 0, 0, 0] and constant["kappa"] == 0
    assert constant["balanced_accuracy"] == 0.25 and constant["macro_f1"] == pytest.approx(0.4 / 4)
    truth, probabilities = made_up(sharp=2.5)
    found = st.agreement(truth, probabilities)
    recall = [np.mean(probabilities.argmax(1)[truth == k] == k) for k in range(4)]
    assert found["recall"] == pytest.approx(recall) and found["balanced_accuracy"] == pytest.approx(np.mean(recall))
    assert found["collapsed"] == (min(recall) < 0.05)


def test_conformal_calibration_counts_each_patient_once():
    """Patients with many studies that are easy: studies promise too much, one study per patient holds what it promises."""
    generator, held = np.random.default_rng(3), {"studies": [], "patients": []}
    for _ in range(300):
        easy = generator.random(60) < 0.5
        patients = np.repeat(np.arange(60), np.where(easy, 6, 1))
        calibration = _answers(easy[patients], generator)
        truth, probabilities = _answers(generator.random(200) < 0.5, generator)
        for kind, names in (("studies", None), ("patients", [str(p) for p in patients])):
            sets = st.conformal_sets(calibration, probabilities, 0.2, names)
            held[kind].append(sets[np.arange(200), truth].mean())
    assert np.mean(held["patients"]) >= 0.79 and np.mean(held["studies"]) < 0.75
    with pytest.raises(ValueError, match="3 patients do not fit"):
        st.conformal_p_values(calibration, probabilities, ["a", "b", "c"])


def _answers(easy, generator):
    right = np.where(easy, 0.95, generator.uniform(0.2, 0.9, len(easy)))
    truth = generator.integers(0, 2, len(easy))
    rows = np.arange(len(easy))
    probabilities = np.empty((len(easy), 2))
    probabilities[rows, truth], probabilities[rows, 1 - truth] = right, 1 - right
    return truth, probabilities


def test_one_study_of_each_patient_is_drawn():
    patients = ["a", "b", "a", "c", "a"]
    draws = [st.one_study_each(patients, seed) for seed in range(60)]
    assert all(sorted(np.asarray(patients)[rows]) == ["a", "b", "c"] for rows in draws)
    assert {rows[0] for rows in draws} | {rows[-1] for rows in draws} >= {0, 4}, "any of a patient's studies"


def test_quality_of_uncertainty_by_hand():
    truth = np.array([0, 1, 1, 0])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    val = np.array([0, 1, 0]), np.array([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    answers = st.StageAnswers(truth, probabilities, ["a", "b", "c", "c"], val, ["x", "y", "z"])
    assert answers.correct.tolist() == [True, True, False, True]
    found = st.uncertainty_quality(answers)
    assert set(found) == {"max", "normalised", "entropy", "margin", "conformal"}
    assert found["max"]["accuracy_kept"]["100%"] == 0.75 and found["max"]["auc"] == 1
    assert found["max"]["aurc"] == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    conformal = st.conformal_quality(answers, alpha=0.3)
    sets = st.conformal_sets(val, probabilities, 0.3)
    held = sets[np.arange(4), truth].astype(float)
    assert conformal["held"] == pytest.approx((held[0] + held[1] + (held[2] + held[3]) / 2) / 3)
    theta = st.theta_quality(answers)
    assert set(theta) == set(st.THETA_RULES) and 0 <= theta["coverage"]["test"]["coverage"] <= 1

import numpy as np
import pytest

from medvlp_lite.evaluation.linear_probe import class_probe, cross_validated, fit_probe, linear_probe, probe_scores


def test_linear_probe_learns_lines_and_only_lines():
    rng = np.random.default_rng(1)

    def part(count):
        features = rng.standard_normal((count, 6))
        labels = np.stack([features[:, 0] > 0.3, features[:, 1] * features[:, 2] > 0], axis=1).astype(float)
        labels[:5, 0] = np.nan
        return features, labels

    results = linear_probe(part(1200), part(300), part(300), shares=(0.05, 1.0))
    assert list(results) == ["5 %", "100 %"] and results["5 %"]["studies"] == 60
    line = linear_probe(*[(f, labels[:, :1]) for f, labels in (part(1200), part(300), part(300))], shares=(1.0,))
    assert line["100 %"]["auc"] > 0.98 and line["100 %"]["f1"] > 0.9
    assert results["100 %"]["auc"] < 0.85, "the product of two features is no line"


def test_linear_probe_skips_what_cannot_be_learned():
    features = np.random.default_rng(2).standard_normal((40, 3))
    labels = np.stack([features[:, 0] > 0, np.zeros(40)], axis=1).astype(float)
    part = (features, labels)
    assert linear_probe(part, part, part, shares=(1.0,))["100 %"]["classes"] == 1
    one_kind = (features, 0 * labels)
    with pytest.raises(ValueError, match=r"no class can be probed: .* missing in training \(40 studies\)$"):
        linear_probe(*[(f, y[:, :1]) for f, y in (one_kind, part, part)], shares=(1.0,))
    with pytest.raises(ValueError, match=r"missing in validation and test$"):
        linear_probe(*[(f, y[:, :1]) for f, y in (part, one_kind, one_kind)], shares=(1.0,))


def test_every_seed_draws_its_own_studies_and_smaller_shares_are_parts_of_larger_ones():
    """With 10 % of 40 rows, the seed decides which 4 the probe sees: two seeds see others, one seed always the same."""
    features = np.arange(40.0)[:, None]
    labels = (np.arange(40) % 2).astype(float)[:, None]
    part = (np.random.default_rng(0).normal(size=(30, 1)), (np.arange(30) % 2).astype(float)[:, None])
    seen = {}

    def watch(seed):
        import medvlp_lite.evaluation.linear_probe as module

        rows, before = [], module.probe_scores
        module.probe_scores = lambda train, *parts: rows.append(set(train[0][:, 0])) or before(train, *parts)
        try:
            linear_probe((features, labels), part, part, shares=(0.2, 0.5), seed=seed)
        finally:
            module.probe_scores = before
        return rows

    seen = {seed: watch(seed) for seed in (0, 1)}
    assert seen[0][0] < seen[0][1] and len(seen[0][0]) == 8
    assert seen[0][0] != seen[1][0] and watch(0) == seen[0]


def test_strength_is_the_one_with_the_smallest_loss_on_validation():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(60, 20))
    labels = (features[:, 0] + rng.normal(size=60) > 0).astype(float)
    train, val = (features[:30], labels[:30]), (features[30:], labels[30:])
    losses = {}
    for strength in (0.001, 0.1, 10.0):
        chosen = fit_probe(train, val, (strength,)).probabilities(val[0])
        losses[strength] = -np.log(chosen[np.arange(30), val[1].astype(int)]).mean()
    assert fit_probe(train, val, (0.001, 0.1, 10.0)).strength == min(losses, key=losses.get)
    with pytest.raises(ValueError, match="at least two classes"):
        fit_probe((features, np.zeros(60)), val)


def test_unknown_labels_change_nothing_and_one_sided_columns_stay_empty():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(50, 3))
    labels = np.stack([features[:, 0] > 0, np.ones(50)], axis=1).astype(float)
    more = np.vstack([features, 100 * np.ones((5, 3))]), np.vstack([labels, np.full((5, 2), np.nan)])
    plain, padded = (probe_scores(train, (features, labels))[0] for train in ((features, labels), more))
    assert np.allclose(plain[:, 0], padded[:, 0]) and np.isnan(plain[:, 1]).all()


def test_a_probe_of_several_classes_reads_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    truth = np.arange(80) % 4
    clear = [(np.eye(4)[truth] + 0.01 * rng.normal(size=(80, 4)), truth) for _ in range(3)]
    noise = [(rng.normal(size=(80, 4)), truth) for _ in range(3)]
    found = class_probe(*clear)
    assert found["accuracy"] == 1 and found["macro_auc"] == 1 and np.trace(found["confusion"]) == 80
    assert class_probe(*noise)["accuracy"] < 0.5


def test_no_group_is_judged_by_a_probe_that_saw_it():
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(20), 3)
    labels = rng.integers(0, 4, 20)[groups]
    leak = np.eye(20)[groups]
    answers = cross_validated(leak, labels, groups, 4)
    assert np.mean(answers.argmax(1) == labels) < 0.5, "a group's own column was zero in training"
    assert np.allclose(answers.sum(axis=1), 1)
    with pytest.raises(ValueError, match="too few for 20 folds"):
        cross_validated(leak, labels, groups, 4, folds=20)

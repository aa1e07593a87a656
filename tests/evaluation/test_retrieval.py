import itertools

import numpy as np
import pytest

from medvlp_lite.evaluation.retrieval import retrieval


def test_precision_and_recall_by_hand():
    scores = np.array([[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]])
    relevant = np.array([[True, False, False, True], [True, True, True, False]])
    found = retrieval(scores, relevant, cutoffs=(1, 2, 3))
    assert found.precision == pytest.approx({1: 0.5, 2: 0.5, 3: 0.5})
    assert found.recall == pytest.approx({1: 0.25, 2: (1 / 2 + 1 / 3) / 2, 3: (1 / 2 + 2 / 3) / 2})
    assert found.hit == pytest.approx({1: 0.5, 2: 1.0, 3: 1.0})
    assert found.ceiling == pytest.approx({1: 1.0, 2: 1.0, 3: 5 / 6})
    assert found.queries == 2 and found.chance == pytest.approx(5 / 8)


def test_a_slow_loop_agrees_on_random_rankings():
    rng = np.random.default_rng(0)
    scores, relevant = rng.random((30, 12)), rng.random((30, 12)) < 0.2
    relevant[:, 0] |= ~relevant.any(axis=1)
    for k in (1, 3, 10):
        slow = []
        for row, truth in zip(scores, relevant):
            best = sorted(range(12), key=lambda j: -row[j])[:k]
            slow.append(sum(truth[j] for j in best) / k)
        assert retrieval(scores, relevant, (k,)).precision[k] == pytest.approx(np.mean(slow))


def test_ties_earn_what_a_random_order_earns():
    scores, relevant = np.zeros((1, 5)), np.array([[True, True, False, False, False]])
    found = retrieval(scores, relevant, (1, 2))
    orders = list(itertools.permutations(range(5)))
    for k in (1, 2):
        hits = [sum(relevant[0][list(order[:k])]) for order in orders]
        assert found.precision[k] == pytest.approx(np.mean(hits) / k)
        assert found.hit[k] == pytest.approx(np.mean([h > 0 for h in hits]))
    assert found.precision[1] == pytest.approx(found.chance)


def test_queries_with_nothing_to_find_are_left_out_and_large_k_is_all():
    found = retrieval(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[True, False], [False, False]]), (1, 10))
    assert found.queries == 1 and found.precision == {1: 1.0, 10: 0.5} and found.recall[10] == 1.0
    assert found.ceiling[10] == found.chance == 0.5, "all items, in any order"
    with pytest.raises(ValueError, match="no query has a relevant item"):
        retrieval(np.zeros((1, 2)), np.zeros((1, 2), bool))
    with pytest.raises(ValueError, match="must be one"):
        retrieval(np.zeros((1, 2)), np.zeros((2, 1), bool))
    with pytest.raises(ValueError, match="cutoffs must be 1 or more"):
        retrieval(np.zeros((1, 2)), np.ones((1, 2), bool), (0, 1))
    with pytest.raises(ValueError, match="1 scores are NaN"):
        retrieval(np.array([[np.nan, 0.0]]), np.ones((1, 2), bool))

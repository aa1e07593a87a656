import numpy as np
import pytest

from medvlp_lite.evaluation.intervals import interval_of, mean_ci, prediction_interval, resample_counts


def test_patients_are_drawn_whole_and_as_many_as_there_are():
    counts = resample_counts(6, ["a", "a", "b", "c", "c", "c"], resamples=500, seed=1)
    assert counts.shape == (500, 6)
    assert (counts[:, 0] == counts[:, 1]).all() and (counts[:, 3] == counts[:, 5]).all()
    assert (counts[:, [0, 2, 3]].sum(axis=1) == 3).all() and counts.mean() == pytest.approx(1, abs=0.1)
    assert np.array_equal(counts, resample_counts(6, ["a", "a", "b", "c", "c", "c"], resamples=500, seed=1))
    with pytest.raises(ValueError, match="2 groups do not fit 3 studies"):
        resample_counts(3, ["a", "b"])


def test_interval_draws_patients_whole():
    values = np.repeat(np.random.default_rng(0).normal(size=20), 10)
    alone = interval_of(np.mean, values)
    whole = interval_of(np.mean, values, groups=[str(i // 10) for i in range(200)])
    assert whole.high - whole.low > 2 * (alone.high - alone.low) and alone.value == whole.value


def test_the_bootstrap_of_a_mean_is_as_wide_as_the_formula_says():
    values = np.random.default_rng(1).normal(size=400)
    found = interval_of(np.mean, values, resamples=2000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)


def test_mean_over_seeds():
    spread = mean_ci([0.7, 0.8, 0.9])
    assert spread.value == pytest.approx(0.8) and spread.high - spread.value == pytest.approx(
        4.303 * 0.1 / 3**0.5, rel=1e-3
    )
    assert np.isnan(mean_ci([0.7]).low) and str(spread).startswith("0.800 [0.552")


def test_a_further_seed_falls_into_the_prediction_interval_as_often_as_promised():
    generator = np.random.default_rng(2)
    inside = []
    for _ in range(2000):
        *seeds, further = generator.normal(size=4)
        bounds = prediction_interval(seeds)
        inside.append(bounds.low <= further <= bounds.high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)

"""How sure is a number? Bootstraps that draw patients whole, and Student's t over seeds.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of a symmetric interval, as from ``mean_ci``; NaN without bounds."""
        return self.high - self.value

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if np.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]")


def percentile_interval(value: float, draws: np.ndarray) -> Interval:
    """``value`` with the 2.5th and 97.5th percentile of what resamples (R,) gave; NaN draws are passed over."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def resample_counts(count: int, groups: Sequence[str] | None = None, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:  # fmt: skip
    """How often each of ``count`` studies stands in each bootstrap resample: int (resamples, count).

    ``groups`` (count,) names the patient of each study; patients are drawn with replacement, with all their studies.
    Raises ValueError when groups do not fit.
    """
    if groups is not None and len(groups) != count:
        raise ValueError(f"{len(groups)} groups do not fit {count} studies")
    _, member = np.unique(np.arange(count) if groups is None else np.asarray(groups), return_inverse=True)
    patients, generator = int(member.max()) + 1, np.random.default_rng(seed)
    drawn = (np.bincount(generator.integers(0, patients, patients), minlength=patients) for _ in range(resamples))
    return np.stack([counts[member] for counts in drawn])


def interval_of(
    measure: Callable[..., float],
    *arrays: np.ndarray,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A measure of arrays of one length with its bootstrap interval; ``groups`` names patients, drawn whole."""
    rows = np.arange(len(arrays[0]))
    drawn = (np.repeat(rows, counts) for counts in resample_counts(len(rows), groups, resamples, seed))
    return percentile_interval(measure(*arrays), np.asarray([measure(*(array[row] for array in arrays)) for row in drawn]))  # fmt: skip


def mean_ci(values: Sequence[float]) -> Interval:
    """Mean over seeds with a 95 % interval from Student's t; the interval of a single value is NaN."""
    return _around_mean(values, lambda count: 1 / count)


def prediction_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds, and where 95 % of further seeds would lie; NaN bounds for a single value."""
    return _around_mean(values, lambda count: 1 + 1 / count)


def _around_mean(values: Sequence[float], share_of_variance: Callable[[int], float]) -> Interval:
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return Interval(float(values.mean()), float("nan"), float("nan"))
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) * np.sqrt(share_of_variance(len(values)))
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))

"""From paired differences to a verdict: Student's t, a margin that matters, Holm's correction, and power.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medvlp_lite.evaluation.intervals import Interval

SUPPORTED, CONTRADICTED, NO_DIFFERENCE, INCONCLUSIVE = "supported", "contradicted", "no difference", "inconclusive"
VERDICTS = (SUPPORTED, CONTRADICTED, NO_DIFFERENCE, INCONCLUSIVE)
ALPHA, POWER = 0.05, 0.8


def verdict_of(effect: Interval, delta: float) -> str:
    """One of ``VERDICTS`` from a 95 % interval that is oriented in the paper's direction; ``delta`` > 0 is what matters.

    Above 0: supported; below 0: contradicted; else inside +-delta: no difference; else, or with NaN bounds, inconclusive.
    Raises ValueError for a delta that is not positive.
    """
    if not delta > 0:
        raise ValueError(f"delta must be above 0, got {delta}")
    if effect.low > 0:
        return SUPPORTED
    if effect.high < 0:
        return CONTRADICTED
    return NO_DIFFERENCE if -delta <= effect.low and effect.high <= delta else INCONCLUSIVE


def p_value(differences: Sequence[float]) -> float:
    """Two-sided p of a paired t-test of "no difference"; NaN for fewer than two pairs."""
    from scipy.stats import t

    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return math.nan
    error = values.std(ddof=1) / math.sqrt(len(values))
    if error == 0:
        return 0.0 if values.mean() else 1.0
    return float(2 * t.sf(abs(values.mean()) / error, len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p, in the order given: reject where it is below alpha, and one false rejection among all is rarer than alpha.

    A NaN stays NaN and counts for no test. Raises ValueError for a p outside [0, 1].
    """
    p = np.asarray(p_values, dtype=float)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"a p-value lies in [0, 1]; got {p.min()} to {p.max()}")
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = p.copy()
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()


def verdict_after_holm(effect: Interval, delta: float, adjusted_p: float) -> str:
    """The verdict when a difference counts only if its adjusted p is below .05; else margin or nothing remains."""
    raw = verdict_of(effect, delta)
    if raw not in (SUPPORTED, CONTRADICTED) or adjusted_p < ALPHA:
        return raw
    return NO_DIFFERENCE if -delta <= effect.low and effect.high <= delta else INCONCLUSIVE


def smallest_detectable(sd: float, n: int, power: float = POWER) -> float:
    """The smallest true mean of ``n`` paired differences, of standard deviation ``sd``, that the t-test finds with probability ``power``.

    NaN for fewer than two pairs. Raises ValueError for a negative sd, or a power that does not lie between .05 and 1.
    """
    from scipy.optimize import brentq

    if sd < 0 or not ALPHA < power < 1:
        raise ValueError(f"need sd >= 0 and {ALPHA} < power < 1, got sd {sd} and power {power}")
    if n < 2:
        return math.nan
    return float(brentq(lambda shift: power_of_t(shift, n) - power, 0, 1000)) * sd / math.sqrt(n)


def power_of_t(shift: float, n: int) -> float:
    """How often a two-sided paired t-test of ``n`` pairs rejects when the true mean is ``shift`` standard errors from 0.

    The rejections of a normal mean, averaged over what the sample's standard deviation may be (a chi distribution).
    """
    from scipy.stats import chi2, norm, t

    quantiles = (np.arange(4000) + 0.5) / 4000
    bar = t.ppf(1 - ALPHA / 2, n - 1) * np.sqrt(chi2.ppf(quantiles, n - 1) / (n - 1))
    return float(np.mean(norm.sf(bar - shift) + norm.cdf(-bar - shift)))

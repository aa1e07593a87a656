"""Checkers of the exercises of chapter 08_uncertainty_staging."""

from collections.abc import Callable

import numpy as np

from medvlp_lite.notebook import exercise, require
from medvlp_lite.systems.mskpt_staging import MSKPTStaging
from medvlp_lite.training import History


def answered_cases(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Uncertainties (N,) in [0, 0.75] and whether each answer is right: certain ones are right more often."""
    uncertainties = rng.uniform(0, 0.75, count)
    return uncertainties, rng.random(count) < 1 - 0.75 * uncertainties


@exercise(Callable, "a function of (uncertainties, right) that gives a threshold")
def check_honest_threshold(answer: Callable) -> None:
    """A threshold that reaches 90 % right on the population, not only where it was chosen."""
    rng = np.random.default_rng(0)
    uncertainties, right = answered_cases(rng, 100_000)
    met, coverage = [], []
    for _ in range(60):
        kept = uncertainties < float(answer(*answered_cases(rng, 400)))
        met.append(bool(kept.any()) and right[kept].mean() >= 0.9)
        coverage.append(kept.mean())
    share = np.mean(coverage)
    require(share >= 0.15, f"It keeps {share:.0%} of the cases on average; referring nearly everybody is no help.")
    require(np.mean(met) >= 0.8, f"On the whole population it reaches 90 % in {np.mean(met):.0%} of the draws.")


@exercise(tuple, "the pair (system, history)")
def check_full_distillation(answer: tuple) -> None:
    """Stage 2 trained with both banks at full weight."""
    require(len(answer) == 2, "Two things: the trained system and what fit returned.")
    system, history = answer
    require(isinstance(system, MSKPTStaging), "The first is an MSKPTStaging.")
    weights = system.config.text_weight, system.config.data_weight
    require(weights == (1.0, 1.0), "Both banks count once.")
    require(isinstance(history, History), "The second is what fit returned.")
    require({"labels", "text", "data"} <= set(history.terms), "It did not learn from labels and both banks.")

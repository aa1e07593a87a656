"""How good is a staging, and how good is its doubt? Metrics over stages, agreement, risk against coverage, conformal sets (C-2, P-24, P-25).

Truth is int (N,) in 0..K-1, probabilities are (N, K). Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score, recall_score

from medvlp_lite.evaluation.classification import (
    Interval,
    _interval,
    _resamples,
    auc,
    expected_calibration_error,
    image_batches,
)
from medvlp_lite.studies import StudyDataset


@torch.no_grad()
def stage_probabilities(system, dataset: StudyDataset) -> np.ndarray:
    """The probabilities of every stage for every image, (N, K), from a system that has ``probabilities``."""
    system.eval()
    found = [system.probabilities(images).float().cpu() for images in image_batches(dataset, system.device)]
    return torch.cat(found).numpy()


@dataclass(frozen=True)
class StageScores:
    """Exact-match accuracy, macro one-vs-rest sensitivity, specificity, F1 and AUC, and the mean of the five (P-25)."""

    accuracy: float
    sensitivity: float
    specificity: float
    f1: float
    auc: float

    @property
    def mean(self) -> float:
        """The paper's "average value" of the five metrics."""
        return (self.accuracy + self.sensitivity + self.specificity + self.f1 + self.auc) / 5


def stage_scores(truth: np.ndarray, probabilities: np.ndarray) -> StageScores:
    """The five metrics of C-2 over stages, macro one-vs-rest (P-25; the macro form is a reconstruction).

    A stage that does not occur in ``truth`` is left out of the macro means. Raises ValueError when shapes do not fit, there is
    no case, or rows are no distributions.
    """
    truth = _checked(truth, probabilities)
    classes, answer = probabilities.shape[1], probabilities.argmax(axis=1)
    here = [k for k in range(classes) if (truth == k).any()]
    specificity = [float(np.mean(answer[truth != k] != k)) for k in here if (truth != k).any()]
    areas = [auc((truth == k).astype(float), probabilities[:, k]) for k in here if (truth != k).any()]
    return StageScores(
        accuracy=float(np.mean(answer == truth)),
        sensitivity=float(recall_score(truth, answer, labels=here, average="macro", zero_division=0)),
        specificity=float(np.mean(specificity)) if specificity else float("nan"),
        f1=float(f1_score(truth, answer, labels=here, average="macro", zero_division=0)),
        auc=float(np.mean(areas)) if areas else float("nan"),
    )


def _checked(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    truth = np.asarray(truth)
    if probabilities.ndim != 2 or truth.shape != probabilities.shape[:1] or not len(truth):
        raise ValueError(f"truth {truth.shape} and probabilities {probabilities.shape} do not fit together")
    if truth.min() < 0 or truth.max() >= probabilities.shape[1]:
        raise ValueError(f"truth must lie in 0..{probabilities.shape[1] - 1}, got {truth.min()}..{truth.max()}")
    _check_rows(probabilities)
    return truth


def _check_rows(probabilities: np.ndarray) -> None:
    if not ((probabilities >= 0).all() and (np.abs(probabilities.sum(axis=1) - 1) <= 1e-3).all()):  # NaN fails both
        raise ValueError("each row of probabilities must be non-negative, without NaN, and sum to 1")


def confusion(truth: np.ndarray, answer: np.ndarray, classes: int = 4) -> np.ndarray:
    """Counts (K, K): row r, column c were r and were called c."""
    return confusion_matrix(truth, answer, labels=list(range(classes)))


def most_confused(counts: np.ndarray) -> tuple[int, int] | None:
    """The two classes that are most often taken for each other, as a share of their cases; None where every answer is right.

    Shares and not counts, because a frequent class is confused more often by its size alone.
    """
    mixed, total = counts + counts.T, counts.sum(axis=1)
    share = np.triu(mixed / np.maximum(total[:, None] + total[None], 1), 1)
    if not share.any():
        return None
    first, second = np.unravel_index(np.argmax(share), share.shape)
    return int(first), int(second)


def quadratic_kappa(first: np.ndarray, second: np.ndarray, classes: int = 4) -> float:
    """Agreement of two readers, or of a reader and a model, on an ordered scale: 1 is perfect, 0 is chance.

    A disagreement costs the square of its distance; equal readings agree perfectly, even if all of one class. Raises ValueError
    for shapes that differ, no case, or a class outside 0..K-1.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or not first.size:
        raise ValueError(f"need two readings of the same cases, got shapes {first.shape} and {second.shape}")
    if not all(reading.min() >= 0 and reading.max() < classes for reading in (first, second)):
        raise ValueError(f"readings must lie in 0..{classes - 1}; leave out cases that one of them did not read")
    if (first == second).all():
        return 1.0
    return float(cohen_kappa_score(first, second, weights="quadratic", labels=list(range(classes))))


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the answer given: gap between its probability and how often it is right."""
    right = (probabilities.argmax(axis=1) == truth).astype(float)
    return expected_calibration_error(right, probabilities.max(axis=1), bins)


def interval_of(
    measure: Callable[..., float], *arrays: np.ndarray, groups: Sequence[str] | None = None, resamples: int = 200, seed: int = 0
) -> Interval:  # fmt: skip
    """A measure of arrays of one length with its 95 % percentile bootstrap; ``groups`` names patients, drawn whole."""
    rows = _resamples(len(arrays[0]), groups, resamples, seed)
    return _interval(measure(*arrays), np.asarray([measure(*(array[row] for array in arrays)) for row in rows]))


def risk_coverage(unsure: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage 1/N ... 1 and the share of errors among the kept, when the surest are kept first: two arrays (N,).

    Cases of equal uncertainty share their errors evenly, so that the order in which they stand does not matter.
    Raises ValueError for no case or NaN.
    """
    if not len(unsure) or np.isnan(unsure).any():
        raise ValueError(f"need at least one case and no NaN, got {len(unsure)} cases")
    _, place = np.unique(unsure, return_inverse=True)
    size = np.bincount(place)
    share = np.bincount(place, weights=1 - np.asarray(correct, dtype=float)) / size
    kept = np.arange(1, len(unsure) + 1)
    return kept / len(unsure), np.cumsum(np.repeat(share, size)) / kept


def aurc(unsure: np.ndarray, correct: np.ndarray) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages, 0 is best; a random order gives the error rate."""
    return float(risk_coverage(unsure, correct)[1].mean())


@dataclass(frozen=True)
class Selection:
    """What a threshold keeps: share kept, share referred, and how many of the kept are right, with a 95 % Wilson interval."""

    coverage: float
    referral: float
    accuracy: Interval


def select(unsure: np.ndarray, correct: np.ndarray, theta: float) -> Selection:
    """What u < ``theta`` keeps of N answers (P-24); accuracy is NaN when nothing is kept."""
    from scipy.stats import binomtest

    kept = np.asarray(unsure) < theta
    coverage = float(kept.mean())
    if not kept.any():
        return Selection(0.0, 1.0, Interval(float("nan"), float("nan"), float("nan")))
    right = int(np.asarray(correct)[kept].sum())
    bounds = binomtest(right, int(kept.sum())).proportion_ci(0.95, "wilson")
    return Selection(coverage, 1 - coverage, Interval(right / int(kept.sum()), float(bounds.low), float(bounds.high)))


def conformal_p_values(calibration: tuple[np.ndarray, np.ndarray], probabilities: np.ndarray) -> np.ndarray:
    """For every case and stage, how usual that stage would be there: p-values (N, K) in (0, 1], by split conformal prediction.

    ``calibration`` = (truth, probabilities) of validation cases; a stage is as strange as 1 - p of it. For cases drawn as the
    calibration cases were, the set {k: p-value > alpha} misses the truth in at most a share alpha on average, whatever the model.
    A case's second largest p-value serves as an uncertainty: from that alpha on its set holds one stage at most, and from its
    largest p-value on none. A step beyond the paper. Raises ValueError when the calibration does not fit, has another number of
    stages than ``probabilities``, or rows are no distributions.
    """
    truth = _checked(*calibration)
    if probabilities.shape[1:] != calibration[1].shape[1:]:
        raise ValueError(f"probabilities {probabilities.shape} and calibration {calibration[1].shape} differ in stages")
    _check_rows(probabilities)
    usual = np.sort(calibration[1][np.arange(len(truth)), truth])  # from strange to usual
    return (1 + np.searchsorted(usual, probabilities, side="right")) / (len(usual) + 1)


def conformal_sets(
    calibration: tuple[np.ndarray, np.ndarray], probabilities: np.ndarray, alpha: float = 0.1
) -> np.ndarray:
    """The stages that cannot be ruled out, bool (N, K); they hold the truth in at least 1 - ``alpha`` of cases on average.

    Raises ValueError for alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    return conformal_p_values(calibration, probabilities) > alpha

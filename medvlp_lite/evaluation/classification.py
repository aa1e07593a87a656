"""From scores to AUC with an interval, thresholds, and calibration.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from medvlp_lite.evaluation.intervals import RESAMPLES, Interval, percentile_interval, resample_counts


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve over the known labels (N,): 0.5 is chance; NaN when one of the two classes is missing.

    Labels are 1, 0 or NaN for unknown; unknown rows are left out, never counted as negative. Equation C-2.
    Raises ValueError when a score is NaN.
    """
    known = ~np.isnan(labels)
    if np.isnan(scores[known]).any():
        raise ValueError(f"{int(np.isnan(scores[known]).sum())} of {int(known.sum())} scores are NaN")
    if len(np.unique(labels[known])) < 2:
        return float("nan")
    return float(roc_auc_score(labels[known], scores[known]))


def resampled_auc(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUC (R,) of R resamples that hold study n ``counts[r, n]`` times, all at once; NaN where a class is missing.

    Studies are sorted by score once; each resample then adds up, value by value, the pairs it holds in the right order,
    ties as a half (C-2). ``labels`` and ``scores`` are (N,), ``counts`` (R, N).
    """
    known = np.flatnonzero(~np.isnan(labels))
    order = known[np.argsort(scores[known], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    drawn, positive = counts[:, order], labels[order] == 1
    positives, negatives = (np.add.reduceat(drawn * rows, starts, axis=1) for rows in (positive, ~positive))
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, (positives * below).sum(axis=1) / pairs, np.nan)


@dataclass(frozen=True)
class AucTable:
    """AUC per class with bootstrap intervals, and their macro mean over the classes that have one."""

    per_class: dict[str, Interval]
    macro: Interval


def auc_table(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str], *, groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES, seed: int = 0,
) -> AucTable:  # fmt: skip
    """AUC per class and macro, with percentile bootstrap intervals (95 %).

    ``labels`` and ``scores`` are (N, Q); ``groups`` (N,) names patients, resampled whole so that two studies of one patient
    never count as two. A class with only one kind of known label is left out of the macro mean.
    Raises ValueError when shapes differ or no class can be scored.
    """
    if labels.shape != scores.shape or labels.shape[1] != len(names):
        raise ValueError(f"labels {labels.shape}, scores {scores.shape} and {len(names)} names do not fit together")
    values = np.asarray([auc(labels[:, c], scores[:, c]) for c in range(len(names))])
    scored = np.flatnonzero(~np.isnan(values))
    if not len(scored):
        raise ValueError("no class has both positive and negative studies; nothing can be scored")
    counts = resample_counts(len(labels), groups, resamples, seed)
    draws = np.stack([resampled_auc(labels[:, c], scores[:, c], counts) for c in scored])
    per_class = {names[c]: percentile_interval(values[c], own) for c, own in zip(scored, draws)}
    return AucTable(per_class, percentile_interval(values[scored].mean(), np.nanmean(draws, axis=0)))


@dataclass(frozen=True)
class Decision:
    """What a threshold gives on known labels: F1, accuracy, sensitivity, specificity (C-2), and where it was chosen."""

    threshold: float
    chosen_on: str
    f1: float
    accuracy: float
    sensitivity: float
    specificity: float


F1_RULES = ("scores", "medklip", "medfilip")


def best_threshold(labels: np.ndarray, scores: np.ndarray, rule: str = "scores") -> float:
    """The score at which "score >= threshold" has the largest F1 on the known labels (C-3).

    Candidates are the scores themselves, the lowest of equals wins. ``rule`` "medfilip" tries -1, -0.999, ... 0.999 instead,
    and of equals takes the most accurate, as the released code does. Raises ValueError when no known label is positive.
    """
    known = ~np.isnan(labels)
    if not (labels[known] == 1).any():
        raise ValueError("no positive label to choose a threshold on")
    if rule == "medfilip":
        return float(max(np.arange(-1000, 1000) / 1000, key=lambda t: _f1_then_accuracy(decide(labels, scores, t, ""))))
    precision, recall, thresholds = precision_recall_curve(labels[known], scores[known])
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(np.argmax(f1[:-1]))])


def _f1_then_accuracy(decision: Decision) -> tuple[float, float]:
    return round(decision.f1, 9), decision.accuracy


def decide(
    labels: np.ndarray, scores: np.ndarray, threshold: float, chosen_on: str, strict_accuracy: bool = False
) -> Decision:
    """Count what "score >= threshold" gets right on the known labels (C-2).

    ``strict_accuracy`` counts "score > threshold" for the accuracy alone, as the official MedKLIP code does.
    Raises ValueError for a score that is NaN.
    """
    known = ~np.isnan(labels)
    labels, scores = labels[known], scores[known]
    if np.isnan(scores).any():
        raise ValueError("a score is NaN; nothing can be decided on it")
    truth, positive = labels == 1, scores >= threshold
    tp, tn = int((truth & positive).sum()), int((~truth & ~positive).sum())
    fp, fn = int((~truth & positive).sum()), int((truth & ~positive).sum())
    right = int((truth == (scores > threshold)).sum()) if strict_accuracy else tp + tn
    return Decision(
        threshold=threshold,
        chosen_on=chosen_on,
        f1=2 * tp / max(2 * tp + fp + fn, 1),
        accuracy=right / max(len(truth), 1),
        sensitivity=tp / max(tp + fn, 1),
        specificity=tn / max(tn + fp, 1),
    )


def mean_max_f1(
    labels: dict[str, np.ndarray], scores: dict[str, np.ndarray], threshold_from: str = "val"
) -> dict[str, float]:
    """Mean "f1" and "accuracy" over the "classes" that are positive in both parts, each at its best threshold (C-3).

    ``labels`` and ``scores`` hold (N, Q) of "val" and "test". NaN when there is no such class.
    """
    rows = [
        max_f1((labels["test"][:, c], scores["test"][:, c]), (labels["val"][:, c], scores["val"][:, c]), threshold_from)
        for c in range(labels["test"].shape[1])
        if all((labels[part][:, c] == 1).any() for part in ("val", "test"))
    ]
    mean = {name: float(np.mean([getattr(row, name) for row in rows])) if rows else float("nan") for name in ("accuracy", "f1")}  # fmt: skip
    return {**mean, "classes": len(rows)}


def max_f1(
    test: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray] | None = None,
    threshold_from: str = "val",
    rule: str = "scores",
) -> Decision:
    """F1 and accuracy on ``test`` = (labels, scores) at the F1-best threshold (C-3).

    ``threshold_from`` "val" is honest. "test" picks the threshold on the labels it is then judged by, as the MedKLIP and
    MedFILIP papers do, which flatters. ``rule`` "medklip" and "medfilip" follow the released scripts to the last tie: see
    ``decide`` and ``best_threshold``. Raises ValueError for an unknown choice, or when "val" is asked for and not given.
    """
    if threshold_from not in ("val", "test"):
        raise ValueError(f"threshold_from must be 'val' or 'test', got {threshold_from!r}")
    if rule not in F1_RULES:
        raise ValueError(f"rule must be one of {F1_RULES}, got {rule!r}")
    if threshold_from == "val" and val is None:
        raise ValueError("threshold_from='val' needs val=(labels, scores)")
    source = val if threshold_from == "val" else test
    return decide(*test, best_threshold(*source, rule), threshold_from, strict_accuracy=rule == "medklip")


def calibration_curve(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> dict[str, np.ndarray]:
    """Mean predicted probability and observed share of positives in equal-width bins, with counts; empty bins are left out.

    Raises ValueError when a probability lies outside [0, 1].
    """
    known = ~np.isnan(labels)
    labels, probabilities = labels[known], probabilities[known]
    if len(probabilities) and (probabilities.min() < 0 or probabilities.max() > 1):
        raise ValueError(
            f"probabilities must lie in [0, 1], got {probabilities.min():.3g} to {probabilities.max():.3g}"
        )
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    used = np.unique(place)
    return {
        "predicted": np.asarray([probabilities[place == b].mean() for b in used]),
        "observed": np.asarray([labels[place == b].mean() for b in used]),
        "count": np.asarray([(place == b).sum() for b in used]),
    }


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """The mean gap between predicted and observed share over ``calibration_curve``'s bins, weighted by counts; 0 is best."""
    curve = calibration_curve(labels, probabilities, bins)
    if not curve["count"].sum():
        return float("nan")
    return float(np.average(np.abs(curve["predicted"] - curve["observed"]), weights=curve["count"]))


def platt_scaling(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the logistic curve that turns scores into probabilities, fitted on validation labels."""
    from sklearn.linear_model import LogisticRegression

    known = ~np.isnan(labels)
    spread = float(scores[known].std()) or 1.0
    model = LogisticRegression(C=1e6).fit(scores[known, None] / spread, labels[known].astype(int))
    return float(model.coef_[0, 0]) / spread, float(model.intercept_[0])


def apply_platt(scores: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """Probabilities from scores with the numbers of ``platt_scaling``."""
    return 1 / (1 + np.exp(-(slope * scores + offset)))


def roc_points(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of every threshold on the known labels."""
    known = ~np.isnan(labels)
    false_positive, true_positive, _ = roc_curve(labels[known], scores[known])
    return false_positive, true_positive

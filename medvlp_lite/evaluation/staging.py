"""How good is a staging, and how good is its uncertainty? Metrics over stages, agreement, risk against coverage, conformal sets (C-2, P-24, P-25).

Truth is int (N,) in 0..K-1, probabilities are (N, K). Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score, recall_score

from medvlp_lite.components.uncertainty_staging import SCORES, choose_theta, uncertainty
from medvlp_lite.evaluation.activation import stage_map_energy
from medvlp_lite.evaluation.classification import auc, expected_calibration_error
from medvlp_lite.evaluation.inference import Parts, patients_of, stage_probabilities
from medvlp_lite.evaluation.intervals import Interval
from medvlp_lite.systems.base import System
from medvlp_lite.systems.mskpt_staging import DISEASE

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
TARGET = 0.8  # share of kept answers that shall be right
COLLAPSED = 0.05  # a class recalled less often than this is no longer answered
SEEN = 1000  # training images that over-fitting is measured on
THETA_RULES: dict[str, dict[str, float]] = {
    "accuracy": {"target": TARGET},
    "accuracy, 90 % sure": {"target": TARGET, "confidence": 0.9},
    "coverage": {"target": 0.8},
    "youden": {},
}


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


def recall_per_class(counts: np.ndarray) -> np.ndarray:
    """The share of each class's cases that was called so, from confusion counts (K, K): (K,), NaN for a class without case."""
    with np.errstate(invalid="ignore"):
        return np.diag(counts) / counts.sum(axis=1)


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
    equal = (first == second).all()
    return 1.0 if equal else float(cohen_kappa_score(first, second, labels=range(classes), weights="quadratic"))


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the answer given: gap between its probability and how often it is right."""
    right = (probabilities.argmax(axis=1) == truth).astype(float)
    return expected_calibration_error(right, probabilities.max(axis=1), bins)


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


def one_study_each(patients: Sequence[str], seed: int = 0) -> np.ndarray:
    """The place of one study of every patient, drawn at random; in rising order."""
    order = np.random.default_rng(seed).permutation(len(patients))
    _, first = np.unique(np.asarray(patients)[order], return_index=True)
    return np.sort(order[first])


def conformal_p_values(
    calibration: tuple[np.ndarray, np.ndarray], probabilities: np.ndarray, patients: Sequence[str] | None = None
) -> np.ndarray:
    """For every case and stage, how usual that stage would be there: p-values (N, K) in (0, 1], by split conformal prediction.

    ``calibration`` = (truth, probabilities) of validation cases; a stage is as strange as 1 - p of it. ``patients`` names the
    patient of each: one study of each calibrates, since two of one patient are no two cases. For a case of a new patient drawn
    as those were, the set {k: p-value > alpha} misses the truth in at most a share alpha on average, whatever the model.
    A case's second largest p-value serves as an uncertainty: from that alpha on its set holds one stage at most, and from its
    largest p-value on none. A step beyond the paper. Raises ValueError when the calibration does not fit, has another number of
    stages than ``probabilities``, or rows are no distributions.
    """
    truth, known = _checked(*calibration), calibration[1]
    if patients is not None and len(patients) != len(truth):
        raise ValueError(f"{len(patients)} patients do not fit {len(truth)} calibration cases")
    if probabilities.shape[1:] != known.shape[1:]:
        raise ValueError(f"probabilities {probabilities.shape} and calibration {known.shape} differ in stages")
    _check_rows(probabilities)
    rows = np.arange(len(truth)) if patients is None else one_study_each(patients)
    usual = np.sort(known[rows, truth[rows]])  # from strange to usual
    return (1 + np.searchsorted(usual, probabilities, side="right")) / (len(usual) + 1)


def conformal_sets(
    calibration: tuple[np.ndarray, np.ndarray], probabilities: np.ndarray, alpha: float = 0.1,
    patients: Sequence[str] | None = None,
) -> np.ndarray:  # fmt: skip
    """The stages that cannot be ruled out, bool (N, K); they hold the truth in at least 1 - ``alpha`` of cases on average.

    Raises ValueError for alpha outside (0, 1), or as ``conformal_p_values`` does.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    return conformal_p_values(calibration, probabilities, patients) > alpha


@dataclass(frozen=True)
class StageAnswers:
    """Truth (N,), probabilities (N, K) and patients (N,) of a test part and of the validation part that serves for choosing."""

    truth: np.ndarray
    probabilities: np.ndarray
    patients: list[str]
    val: tuple[np.ndarray, np.ndarray]
    val_patients: list[str]

    @classmethod
    def of(cls, system: System, data: Parts) -> StageAnswers:
        """What a system that has ``probabilities`` answers."""
        val = data.val.stages, stage_probabilities(system, data.val)
        test = stage_probabilities(system, data.test)
        return cls(data.test.stages, test, patients_of(data.test), val, patients_of(data.val))

    @property
    def correct(self) -> np.ndarray:
        """Where the most probable stage is the true one: bool (N,)."""
        return self.probabilities.argmax(axis=1) == self.truth


def staging_measures(system: System, data: Parts) -> dict[str, Any]:
    """All that is recorded of a staging system; "overfitting" is accuracy on training images minus accuracy on test images."""
    answers, seen = StageAnswers.of(system, data), data.train.subset(range(min(SEEN, len(data.train))))
    known = float(np.mean(stage_probabilities(system, seen).argmax(axis=1) == seen.stages))
    return {
        **agreement(answers.truth, answers.probabilities),
        "train_accuracy": known,
        "overfitting": known - float(answers.correct.mean()),
        "doubt": uncertainty_quality(answers),
        "theta": theta_quality(answers),
        "conformal": conformal_quality(answers),
        "grad_cam": stage_map_energy(system, data.test, DISEASE),
    }


def macro_f1_on_val(system: System, data: Parts) -> float:
    """Macro F1 on the validation part: the point of a validation curve."""
    return stage_scores(data.val.stages, stage_probabilities(system, data.val)).f1


def agreement(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """The five metrics, macro F1, quadratic kappa, balanced accuracy, recall per class, confusion and calibration.

    "collapsed" says that some class that occurs is recalled in less than 5 % of its cases: such a system serves no figure.
    """
    scores, classes = stage_scores(truth, probabilities), probabilities.shape[1]
    counts = confusion(truth, probabilities.argmax(axis=1), classes)
    recall, pair = recall_per_class(counts), most_confused(counts)
    return {
        "scores": {**asdict(scores), "mean": scores.mean},
        "macro_f1": scores.f1,
        "balanced_accuracy": scores.sensitivity,
        "kappa": quadratic_kappa(truth, probabilities.argmax(axis=1), classes),
        "recall": recall.tolist(),
        "lowest_recall": float(np.nanmin(recall)),
        "collapsed": bool(np.nanmin(recall) < COLLAPSED),
        "auc_by_stage": [auc((truth == k).astype(float), probabilities[:, k]) for k in range(classes)],
        "confusion": counts.tolist(),
        "most_confused": pair and list(pair),
        "calibration_error": calibration_error(truth, probabilities),
    }


def uncertainty_scores(
    val: tuple[np.ndarray, np.ndarray], probabilities: np.ndarray, patients: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Every uncertainty (N,) of probabilities (N, K), by name: those of P-15, and the conformal one calibrated on ``val``."""
    scores = {kind: uncertainty(torch.as_tensor(probabilities), kind).cpu().numpy() for kind in SCORES}
    return {**scores, "conformal": np.sort(conformal_p_values(val, probabilities, patients), axis=1)[:, -2]}


def uncertainty_quality(answers: StageAnswers) -> dict[str, Any]:
    """For each uncertainty: area under risk-coverage, AUC for "the answer is wrong", accuracy of the kept at each coverage."""
    found = {}
    for kind, unsure in uncertainty_scores(answers.val, answers.probabilities, answers.val_patients).items():
        coverage, risk = risk_coverage(unsure, answers.correct)
        kept = {f"{share:.0%}": 1 - float(risk[np.searchsorted(coverage, share - 1e-9)]) for share in COVERAGES}
        found[kind] = {"aurc": float(risk.mean()), "auc": auc(1.0 - answers.correct, unsure), "accuracy_kept": kept}
    return found


def theta_quality(answers: StageAnswers) -> dict[str, Any]:
    """Each rule for theta, chosen on validation answers, and what it keeps of the validation and the test part."""
    parts = {"val": answers.val, "test": (answers.truth, answers.probabilities)}
    unsure = {part: uncertainty(torch.as_tensor(p)).cpu().numpy() for part, (_, p) in parts.items()}
    correct = {part: p.argmax(axis=1) == truth for part, (truth, p) in parts.items()}
    found: dict[str, Any] = {}
    for name, options in THETA_RULES.items():
        theta = choose_theta(unsure["val"], correct["val"], name.split(",")[0], **options)
        kept = {part: asdict(select(unsure[part], correct[part], theta)) for part in parts}
        found[name] = {"theta": theta, "target": options.get("target"), **kept}
    return found


def conformal_quality(answers: StageAnswers, alpha: float = 0.1) -> dict[str, float]:
    """What sets that promise 1 - ``alpha`` hold, calibrated on one study per patient and counted patient by patient."""
    sets = conformal_sets(answers.val, answers.probabilities, alpha, answers.val_patients)
    _, place, studies = np.unique(answers.patients, return_inverse=True, return_counts=True)
    share = 1 / studies[place]
    size = sets.sum(axis=1)
    held = sets[np.arange(len(sets)), answers.truth]
    means = {"held": held, "size": size, "single": size == 1}
    return {"promised": 1 - alpha, **{name: float(np.average(row, weights=share)) for name, row in means.items()}}

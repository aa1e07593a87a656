"""Staging that knows when it does not know: MSK-PT's weighted loss, feature banks, gated distillation, triage (P-14 to P-25).

The paper's formulas are lost: every one here is a reconstruction, with its alternatives as switches.
Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from medvlp_lite.components.prototype_alignment import mean_where, require_labels

SCORES = ("max", "normalised", "entropy", "margin")
WEIGHTS = ("linear", "gate", "exp", "focal_like", "none")
POOLINGS = ("mean", "mean_max")
THETA_RULES = ("accuracy", "youden", "coverage")


def _full(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()


def pool_features(maps: torch.Tensor, pooling: str = "mean_max") -> torch.Tensor:
    """Feature maps (B, C, h, w) as the vectors that a classifier reads (P-14): "mean" (B, C), or "mean_max" (B, 2 C).

    The mean tells how much of a texture there is, the maximum whether there is any. Raises ValueError for another pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    mean = maps.mean(dim=(2, 3))
    return mean if pooling == "mean" else torch.cat([mean, maps.amax(dim=(2, 3))], dim=1)


def balanced_weights(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Class weights (K,) inverse to how often each class occurs among ``labels`` (N,), -1 for none; their mean over samples is 1."""
    counts = torch.bincount(labels[labels >= 0].long(), minlength=classes)
    return counts.sum() / (classes * counts.clamp(min=1))


def uncertainty(probabilities: torch.Tensor, kind: str = "max") -> torch.Tensor:
    """The uncertainty (...) of a distribution (..., K): equation P-15, a reconstruction.

    "max": 1 - max p in [0, 1 - 1/K]. "normalised": the same divided by 1 - 1/K. "entropy": divided by log K. "margin": 1 minus
    the gap between the two largest. The last three lie in [0, 1]. Raises ValueError for another kind or fewer than two classes.
    """
    classes = probabilities.shape[-1]
    if kind not in SCORES or classes < 2:
        raise ValueError(f"need one of {', '.join(SCORES)} and at least 2 classes, got {kind!r} and {classes}")
    if kind == "entropy":
        return torch.special.entr(probabilities).sum(dim=-1) / math.log(classes)
    first, second = probabilities.topk(2, dim=-1).values.unbind(dim=-1)
    if kind == "margin":
        return 1 - (first - second)
    return (1 - first) / (1 - 1 / classes) if kind == "normalised" else 1 - first


def sample_weights(uncertainties: torch.Tensor, kind: str = "linear", threshold: float = 0.5) -> torch.Tensor:
    """The weight of each sample in the cross-entropy, from its uncertainty u (B,): equation P-16, a reconstruction.

    "linear" 1 - u, "gate" 1 where u <= ``threshold`` else 0, "exp" e^-u, "focal_like" 1 + u (emphasises the uncertain, against
    the paper's purpose), "none" 1. Raises ValueError for another kind.
    """
    if kind not in WEIGHTS:
        raise ValueError(f"weight must be one of {', '.join(WEIGHTS)}, got {kind!r}")
    forms = {
        "linear": lambda u: 1 - u,
        "gate": lambda u: (u <= threshold).to(u.dtype),
        "exp": lambda u: torch.exp(-u),
        "focal_like": lambda u: 1 + u,
        "none": torch.ones_like,
    }
    return forms[kind](uncertainties)


def weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, weight: str = "linear", score: str = "max", threshold: float = 0.5,
    detach: bool = True, class_weights: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Cross-entropy of logits (B, K), each sample weighted by how sure the model is of it: P-14 and P-16, a reconstruction.

    ``labels`` (B,) hold 0 to K - 1, or -1 for a sample without label, which is left out; zero, with zero gradient, when none
    has one. ``weight`` and ``threshold`` as in ``sample_weights``, ``score`` as in ``uncertainty``. Without ``detach`` the
    weight is learned too, and whenever p of the true class is the largest and below 1/e the gradient pushes it down.
    ``class_weights`` (K,), such as ``balanced_weights``, multiply the loss of each class's samples. Raises ValueError when
    shapes do not fit or a label is out of range.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}")
    require_labels(labels, logits.shape[1])
    logits = _full(logits)
    # P-15, P-16: how uncertain the model is of each sample, and the weight that follows
    weights = sample_weights(uncertainty(logits.softmax(dim=-1), score), weight, threshold)
    # P-14, weighted
    losses = F.cross_entropy(logits, labels.clamp(min=-1), class_weights, ignore_index=-1, reduction="none")
    return mean_where((weights.detach() if detach else weights) * losses, labels >= 0)


def class_bank(vectors: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """One unit vector per class, the normalised mean of its members: (K, d) from vectors (N, d): P-18 and P-19, reconstructions.

    With report vectors it is the "shared text feature", with image vectors the "shared data feature". Rows labelled -1 are left
    out. Carries no gradient. Raises ValueError naming a class that has no member.
    """
    empty = [k for k in range(classes) if not (labels == k).any()]
    if empty:
        raise ValueError(f"no labelled sample of class {empty[0]}: label at least one of each, or describe it in words")
    vectors = _full(vectors.detach())
    return F.normalize(torch.stack([vectors[labels == k].mean(dim=0) for k in range(classes)]), dim=-1)


def bank_logits(vectors: torch.Tensor, bank: torch.Tensor, scale: float = 1 / 0.07) -> torch.Tensor:
    """Cosine of vectors (B, d) with a bank (K, d), times ``scale``: logits (B, K), equation P-20, a reconstruction.

    Raises ValueError when the widths differ.
    """
    if vectors.shape[-1] != bank.shape[-1]:
        raise ValueError(f"vectors have width {vectors.shape[-1]} but the bank has width {bank.shape[-1]}")
    return scale * F.normalize(_full(vectors), dim=-1) @ F.normalize(bank, dim=-1).t()


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 1.0, keep: torch.Tensor | None = None
) -> torch.Tensor:
    """KL from the teacher's softened answer to the student's, logits (B, K), times temperature squared: P-21, a reconstruction.

    The mean over the samples that ``keep`` (B,) marks, all by default; zero, with zero gradient, when none is. Zero when both
    answer alike; the teacher gets no gradient. Raises ValueError for other shapes or a temperature that is not positive.
    """
    if student.shape != teacher.shape or temperature <= 0:
        raise ValueError(
            f"need logits of one shape and temperature > 0, got {tuple(student.shape)}, {tuple(teacher.shape)}, {temperature}"
        )
    target = (_full(teacher.detach()) / temperature).log_softmax(dim=-1)
    answer = (_full(student) / temperature).log_softmax(dim=-1)
    losses = F.kl_div(answer, target, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * (losses.mean() if keep is None else mean_where(losses, keep))


def hint_loss(student: torch.Tensor, teacher: torch.Tensor, *, keep: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of 1 - cosine between vectors (B, d) of student and teacher, the teacher fixed: the alternative to P-19's bank.

    The mean over the samples that ``keep`` (B,) marks, as in ``distillation_loss``.
    """
    apart = 1 - F.cosine_similarity(_full(student), _full(teacher.detach()), dim=-1)
    return apart.mean() if keep is None else mean_where(apart, keep)


def choose_theta(
    uncertainties: np.ndarray,
    correct: np.ndarray,
    rule: str = "accuracy",
    *,
    target: float = 0.9,
    confidence: float = 0.0,
) -> float:
    """The threshold under which answers are kept (u < theta), from validation answers (N,): P-24, a reconstruction.

    "accuracy": keep as many as possible with at least ``target`` of them right. "coverage": keep the share ``target``. "youden":
    separate right from wrong best (TPR - FPR). With ``confidence`` above 0, "accuracy" asks that of the lower Clopper-Pearson
    bound at that level, a step beyond the paper: a threshold that just reaches the target on validation tends to miss it
    elsewhere. Cases of equal u are kept or referred together. 0.0, which refers everybody, when the target cannot be reached.
    Raises ValueError for another rule, no answers, NaN or a target outside (0, 1].
    """
    if rule not in THETA_RULES or not len(uncertainties) or not 0 < target <= 1:
        raise ValueError(
            f"need answers, a rule of {', '.join(THETA_RULES)} and 0 < target <= 1, got {rule!r}, {target}"
        )
    if missing := int(np.isnan(uncertainties).sum()):
        raise ValueError(f"{missing} of {len(uncertainties)} uncertainties are NaN")
    # how many are kept, and how many of them are right, when all up to each level are kept
    levels, place = np.unique(uncertainties, return_inverse=True)
    kept = np.cumsum(np.bincount(place))
    right = np.cumsum(np.bincount(place, weights=np.asarray(correct, dtype=float)))
    if rule == "coverage":
        last = int(np.argmax(kept >= target * len(uncertainties) - 1e-9))
    elif rule == "youden":
        wrong = kept - right
        last = int(np.argmax(right / max(right[-1], 1) - wrong / max(wrong[-1], 1)))
    else:
        good = np.flatnonzero(_lower_bound(right, kept, confidence) >= target)
        if not good.size:
            return 0.0
        last = int(good[-1])
    # half-way to the next level
    above = levels[last + 1] if last + 1 < len(levels) else 1.0 + levels[last]
    return float((levels[last] + above) / 2)


def _lower_bound(right: np.ndarray, kept: np.ndarray, confidence: float) -> np.ndarray:
    if not confidence:
        return right / kept
    from scipy.stats import beta

    return np.where(right > 0, beta.ppf(1 - confidence, np.maximum(right, 1e-9), kept - right + 1), 0.0)


@dataclass(frozen=True)
class Triage:
    """The answer to each of N cases: stage, uncertainty, and whether it is reliable (else: refer to a radiologist)."""

    stage: np.ndarray
    uncertainty: np.ndarray
    reliable: np.ndarray


def triage(probabilities: np.ndarray, theta: float, kind: str = "max") -> Triage:
    """The most likely class of probabilities (N, K), its uncertainty, and reliable where u < theta: P-23, a reconstruction.

    A case that lies on the threshold is referred.
    """
    found = uncertainty(torch.as_tensor(probabilities), kind).cpu().numpy()
    return Triage(np.asarray(probabilities).argmax(axis=1), found, found < theta)

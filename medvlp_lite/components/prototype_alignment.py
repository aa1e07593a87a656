"""Aligning images and reports by category instead of pair by pair: MSK-PT's prototype-wise part (P-9 to P-12).

The paper's formulas are lost; every equation here is a reconstruction. Built in chapter 07_prototype_alignment.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, epsilon: float = 0.05, iterations: int = 3) -> torch.Tensor:
    """Soft codes (B, M) from similarities of B samples to M prototypes, all prototypes used about equally: P-11.

    exp(scores / ``epsilon``) is scaled ``iterations`` times, every prototype to 1 / M and every sample to 1 / B, and at last
    every sample to 1. In logarithms, so no similarity is too large; no gradient. Rows sum to 1; columns tend to B / M.
    Raises ValueError for another shape, or unless epsilon > 0 and iterations >= 1.
    """
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores must be (samples, prototypes), got {tuple(scores.shape)}")
    if epsilon <= 0 or iterations < 1:
        raise ValueError(f"need epsilon > 0 and iterations >= 1, got {epsilon} and {iterations}")
    plan = scores.detach().to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    for _ in range(iterations):  # sums of 1, not 1 / M and 1 / B: the constants cancel in the next line
        plan = plan - plan.logsumexp(dim=0, keepdim=True)
        plan = plan - plan.logsumexp(dim=1, keepdim=True)
    return plan.exp()


def swapped_prediction(
    images: torch.Tensor,
    texts: torch.Tensor,
    prototypes: torch.Tensor,
    *,
    temperature: float = 0.2,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> torch.Tensor:
    """Each modality must predict the cluster code of the other: equations P-10 and P-12, a scalar >= 0.

    ``images`` and ``texts`` are unit vectors (B, d), ``prototypes`` unit rows (M, d). Codes come from ``sinkhorn`` and carry
    no gradient. Raises ValueError when the shapes do not fit.
    """
    if images.shape != texts.shape or images.shape[-1] != prototypes.shape[-1]:
        raise ValueError(
            f"images {tuple(images.shape)}, texts {tuple(texts.shape)} and prototypes {tuple(prototypes.shape)} do not fit"
        )
    to_images, to_texts = images @ prototypes.t(), texts @ prototypes.t()
    # each side's soft code (P-11) ...
    codes = [sinkhorn(scores, epsilon, iterations) for scores in (to_images, to_texts)]
    # ... is what the other side must predict (P-12)
    wanted_of_text = (codes[0] * F.log_softmax(to_texts / temperature, dim=-1)).sum(dim=-1)
    wanted_of_image = (codes[1] * F.log_softmax(to_images / temperature, dim=-1)).sum(dim=-1)
    return -(wanted_of_text + wanted_of_image).mean() / 2


class ClusterPrototypes(nn.Module):
    """M trainable prototypes of width d shared by both modalities, used at length 1: equation P-9.

    ``forward(images, texts)`` is ``swapped_prediction`` against them; in training it first brings them back to length 1. No label is used.
    """

    def __init__(self, count: int, width: int, *, temperature: float = 0.2, epsilon: float = 0.05, iterations: int = 3):
        super().__init__()
        self.vectors = nn.Parameter(F.normalize(torch.randn(count, width), dim=-1))
        self.options = {"temperature": temperature, "epsilon": epsilon, "iterations": iterations}

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.vectors.copy_(F.normalize(self.vectors, dim=-1))
        vectors = self.vectors if self.training else F.normalize(self.vectors, dim=-1)
        return swapped_prediction(images, texts, vectors, **self.options)


def require_labels(labels: torch.Tensor, classes: int) -> None:
    """Raise ValueError for a class number of ``classes`` or more. Labels on a GPU are not looked at: it would have to wait."""
    if labels.device.type == "cpu" and len(labels) and labels.max() >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, or be negative for none, got {int(labels.max())}")


def mean_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The mean of ``values`` (B,) over those ``chosen`` (B,) bool; zero, with zero gradient, when none is."""
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)


def class_prototype_loss(
    vectors: torch.Tensor, prototypes: torch.Tensor, labels: torch.Tensor, temperature: float = 0.2
) -> torch.Tensor:
    """Each vector must be nearest to the other modality's prototype of its class: one half of P-12's class form.

    ``vectors`` (B, d) and ``prototypes`` (K, d) are unit rows, ``labels`` (B,) 0 to K - 1 or negative for unlabelled, which
    is left out. A prototype of zeros has not been seen: neither it nor its class takes part. Zero, with zero gradient, when
    nothing else is labelled. Raises ValueError for a label of K or more.
    """
    require_labels(labels, len(prototypes))
    unseen = ~prototypes.any(dim=-1)
    known = (labels >= 0) & ~unseen[labels.clamp(min=0)]
    logits = vectors @ prototypes.detach().t().to(vectors.dtype) / temperature
    logits = logits.masked_fill(unseen & ~unseen.all(), float("-inf"))
    losses = F.cross_entropy(logits, torch.where(known, labels, -1), ignore_index=-1, reduction="none")
    return mean_where(losses, known)


class ClassPrototypes(nn.Module):
    """One prototype per class and modality, a running mean of the class's vectors: P-12 with class prototypes.

    ``forward(images, texts, labels)`` takes unit vectors (B, d) and labels (B,), negative for unlabelled. In training it
    first moves the prototypes towards the batch's class means (share 1 - ``momentum``; a class seen for the first time is
    taken as it is). No gradient reaches a prototype. Raises ValueError for a label of K or more.
    """

    def __init__(self, classes: int, width: int, *, temperature: float = 0.2, momentum: float = 0.9):
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        self.register_buffer("images", torch.zeros(classes, width))
        self.register_buffer("texts", torch.zeros(classes, width))

    def forward(self, images: torch.Tensor, texts: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        require_labels(labels, len(self.images))
        if self.training:
            self._move(self.images, images, labels)
            self._move(self.texts, texts, labels)
        to_texts = class_prototype_loss(images, self.texts, labels, self.temperature)
        to_images = class_prototype_loss(texts, self.images, labels, self.temperature)
        return (to_texts + to_images) / 2

    @torch.no_grad()
    def _move(self, prototypes: torch.Tensor, vectors: torch.Tensor, labels: torch.Tensor) -> None:
        members = labels.unsqueeze(0) == torch.arange(len(prototypes), device=labels.device).unsqueeze(1)  # (K, B)
        means = F.normalize(members.to(prototypes.dtype) @ vectors.to(prototypes.dtype), dim=-1)
        moved = F.normalize(self.momentum * prototypes + (1 - self.momentum) * means, dim=-1)
        prototypes.copy_(torch.where(members.any(dim=1, keepdim=True), moved, prototypes))


def same_class(labels: torch.Tensor) -> torch.Tensor:
    """Which pairs count as positive: bool (B, B), true on the diagonal and where both labels (B,) are known and equal."""
    equal = (labels.unsqueeze(0) == labels.unsqueeze(1)) & (labels >= 0)
    return equal | torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def supervised_contrast(similarity: torch.Tensor, positives: torch.Tensor, temperature: float = 0.07) -> torch.Tensor:
    """Cross-modal supervised contrast of a similarity matrix (B, B): P-12 by supervised contrast.

    Every anchor's loss is the mean of -log softmax over its ``positives`` (B, B) bool, at least one per row and column; the
    result is the mean of both directions, which is InfoNCE (C-1) when only the diagonal is positive.
    Raises ValueError when shapes differ or an anchor has no positive.
    """
    if similarity.ndim != 2 or similarity.shape != positives.shape:
        raise ValueError(f"similarity {tuple(similarity.shape)} does not fit positives {tuple(positives.shape)}")
    if positives.device.type == "cpu" and not (positives.any(dim=0).all() and positives.any(dim=1).all()):
        raise ValueError("an anchor has no positive partner; every row and column of positives needs at least one")
    logits, losses = similarity / temperature, []
    for rows, wanted in ((logits, positives), (logits.t(), positives.t())):
        share = F.log_softmax(rows, dim=-1)
        losses.append(-(share * wanted).sum(dim=-1) / wanted.sum(dim=-1))
    return torch.stack(losses).mean()

"""Soft labels between images and structured labels: the semantic similarity matrix and what it replaces (F-5, F-8, F-12).

N images own M structured labels together; ``owners`` (M,) says which image each one belongs to. An image may own none.
Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CROSS_ENTROPIES = ("bce", "softmax")
MSE_SCALES = ("cosine", "scaled")


def text_similarity(vectors: torch.Tensor) -> torch.Tensor:
    """Cosine similarity s of every structured label with every other: (M, d) to (M, M), in [-1, 1] (F-5, first half)."""
    unit = F.normalize(vectors, dim=-1)
    return unit @ unit.t()


def similarity_labels(
    similarity: torch.Tensor,
    owners: torch.Tensor,
    images: int,
    *,
    categories: torch.Tensor | None = None,
    clamp_min: float | None = 0.0,
    power: float = 1.0,
) -> torch.Tensor:
    """The semantic similarity matrix Y (N, M): how near label j comes to the nearest label that image i owns (F-5).

    ``similarity`` (M, M), ``owners`` (M,) in 0..``images`` - 1. With ``categories`` (M,), similarities across categories
    become 0 before the maximum, as in the released code; None keeps them, as in the paper. ``clamp_min`` lifts negative
    entries; None leaves them, as the released code does. ``power`` above 1 sharpens: what is nearly alike falls, 1 stays 1.
    An image's own labels keep their self-similarity, 1 for cosines; an image without labels gets a row of zeros. Raises
    ValueError when shapes or owners do not fit, and for a power not above 0 or of negative numbers.
    """
    _check_owners(owners, images)
    if power <= 0 or (power != 1 and (clamp_min is None or clamp_min < 0)):
        raise ValueError(f"power must be above 0, and 1 where negative similarities stay; got {power}")
    count = len(owners)
    if similarity.shape != (count, count):
        raise ValueError(f"similarity must be ({count}, {count}) for {count} labels, got {tuple(similarity.shape)}")
    # similarity of every label with every label, gated by category (released code)
    if categories is not None:
        similarity = similarity * _same(categories, count).to(similarity.dtype)
    # the maximum over the labels that an image owns
    labels = similarity.new_full((images, count), -torch.inf)
    labels = labels.scatter_reduce(0, owners.view(-1, 1).expand(-1, count), similarity, reduce="amax")
    labels = labels.masked_fill(~_owned(owners, images).any(dim=1, keepdim=True), 0.0)
    return labels if clamp_min is None else labels.clamp(min=clamp_min) ** power


def identity_labels(owners: torch.Tensor, images: int) -> torch.Tensor:
    """Y (N, M) = 1 where label j belongs to image i, else 0; one text per image gives the identity matrix (F-12).

    Raises ValueError for owners outside 0..``images`` - 1.
    """
    _check_owners(owners, images)
    return _owned(owners, images).float()


def multi_hot_labels(owners: torch.Tensor, groups: torch.Tensor, images: int) -> torch.Tensor:
    """Y (N, M) = 1 where image i owns some label of label j's group, else 0 (F-12).

    ``groups`` (M,) numbers the categories, which is the paper's multi-hot matrix, or the label texts, which counts only
    equal texts as equal. Raises ValueError when shapes or owners do not fit.
    """
    _check_owners(owners, images)
    same = _same(groups, len(owners)).float()
    return (_owned(owners, images).float() @ same > 0).float()


def _owned(owners: torch.Tensor, images: int) -> torch.Tensor:
    return owners.view(1, -1) == torch.arange(images, device=owners.device).view(-1, 1)


def _same(groups: torch.Tensor, count: int) -> torch.Tensor:
    if groups.shape != (count,):
        raise ValueError(f"groups must number all {count} labels, got shape {tuple(groups.shape)}")
    return groups.view(-1, 1) == groups.view(1, -1)


def _check_owners(owners: torch.Tensor, images: int) -> None:
    if owners.ndim != 1 or (len(owners) and not 0 <= int(owners.min()) <= int(owners.max()) < images):
        raise ValueError(f"owners must be one number in 0..{images - 1} per label, got {owners.tolist()}")


def itm_terms(
    cosine: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor | float, *, ce: str = "bce", mse_on: str = "cosine"
) -> dict[str, torch.Tensor]:
    """Image-text matching: the two terms "mse" and "ce" whose sum is the loss (F-8); both 0 where there is no label.

    ``cosine`` (N, M) in [-1, 1], ``labels`` (N, M), ``scale`` > 0 multiplies cosines to logits. ``mse_on`` "cosine"
    compares the labels with cosines; "scaled" with logits, as the released code does, which asks for cosines of
    label / scale. ``ce`` "bce" is the binary cross-entropy of the logits (released code); "softmax" is ``soft_cross_entropy``
    of each image's softmax over all labels (the paper's word). Raises ValueError for shapes that differ or an unknown option.
    """
    if cosine.shape != labels.shape:
        raise ValueError(f"cosine {tuple(cosine.shape)} and labels {tuple(labels.shape)} must have one shape")
    if ce not in CROSS_ENTROPIES or mse_on not in MSE_SCALES:
        raise ValueError(f"ce must be one of {CROSS_ENTROPIES} and mse_on one of {MSE_SCALES}, got {ce!r}, {mse_on!r}")
    if not cosine.numel():
        nothing = cosine.sum() * 0.0
        return {"mse": nothing, "ce": nothing}
    logits = cosine * scale
    mse = F.mse_loss(cosine if mse_on == "cosine" else logits, labels)
    match = F.binary_cross_entropy_with_logits if ce == "bce" else soft_cross_entropy
    return {"mse": mse, "ce": match(logits, labels)}


def soft_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row's softmax with soft labels (N, M), averaged over the N rows (F-8, reading b).

    Negative labels count as 0 and each row is brought to sum 1 (a row of zeros stays). The released code, which only logs this
    number, does neither, and divides by N once more.
    """
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32)).clamp(min=0)
    labels = labels / labels.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return -(labels * logits.log_softmax(dim=1)).sum(dim=1).mean()

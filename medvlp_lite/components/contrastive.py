"""Matching whole images with whole reports: symmetric InfoNCE, equation C-1. Built in chapter 03_contrastive_baseline."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def info_nce(similarity: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """Symmetric InfoNCE of a square similarity matrix (B, B) whose diagonal holds the true pairs: equation C-1.

    Row i asks "which report belongs to image i?", column j "which image belongs to report j?"; the loss is the mean of
    both cross-entropies, a scalar >= 0 that is log B when all similarities are equal. ``temperature`` > 0 divides.
    Raises ValueError for a matrix that is not square or a temperature that is not positive.
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be a square matrix (B, B), got {tuple(similarity.shape)}")
    require_positive(temperature)
    logits = similarity / temperature
    pairs = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.t(), pairs)) / 2


def require_positive(temperature: torch.Tensor | float) -> None:
    """Raise ValueError for a temperature that is not positive."""
    if (value := float(torch.as_tensor(temperature).detach())) <= 0:
        raise ValueError(f"temperature must be positive, got {value}")


def nt_xent(images: torch.Tensor, texts: torch.Tensor, temperature: float = 0.07) -> torch.Tensor:
    """SimCLR's form of the contrast: each of the 2B unit vectors must pick its partner among the 2B - 1 others (P-4).

    Vectors of the same modality are negatives too. ``images`` and ``texts`` are (B, d); a scalar >= 0.
    Raises ValueError when shapes differ.
    """
    if images.shape != texts.shape:
        raise ValueError(f"images {tuple(images.shape)} and texts {tuple(texts.shape)} must have one shape")
    both = torch.cat([images, texts])
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    logits = (both @ both.t() / temperature).masked_fill(itself, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(both), device=both.device).roll(len(images)))


def cosine_matrix(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of every image vector (B, d) with every text vector (Q, d): (B, Q) in [-1, 1].

    Raises ValueError when the widths differ.
    """
    if images.shape[-1] != texts.shape[-1]:
        raise ValueError(f"image vectors have width {images.shape[-1]} but text vectors have width {texts.shape[-1]}")
    return F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).t()


def gather_pairs(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors (B, d) of all processes, (B * processes, d), with gradient; unchanged in a single process.

    With the loss taken on the gathered batch in every process and gradients averaged between processes (as
    DistributedDataParallel does), the update equals that of one process with the whole batch.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return vectors
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(vectors.contiguous()), dim=0)

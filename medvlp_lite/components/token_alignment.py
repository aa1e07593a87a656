"""Aligning words with image patches: MSK-PT's token-wise part (P-5 to P-8).

The paper's formulas are lost; every equation here is a reconstruction. Tokens are vectors of length 1; ``mask`` tells words
from padding. Built in chapter 07_prototype_alignment.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from medvlp_lite.components.prototype_alignment import supervised_contrast

GROUPINGS = ("softmax", "sparse")
GROUP = 16  # texts of like length
LEAST_TEMPERATURE = 0.025  # exp(-2 / temperature) must not vanish in single precision


def grouping_weights(
    similarity: torch.Tensor, mask: torch.Tensor | None = None, *, grouping: str = "softmax", temperature: float = 0.1
) -> torch.Tensor:
    """How much each of Q tokens attends each of N others: weights (B, Q, N), every row summing to 1 (P-6).

    ``similarity`` (B, Q, N); ``mask`` (B, N) leaves out padding. "softmax" divides by ``temperature``. "sparse" (after SPARC)
    stretches each row to [0, 1], drops what is below 1 / (number of tokens left in) and rescales; a constant row weighs all
    alike. Raises ValueError for another grouping or a row without any token.
    """
    if grouping not in GROUPINGS:
        raise ValueError(f"grouping must be one of {', '.join(GROUPINGS)}, got {grouping!r}")
    if mask is not None:
        _require_tokens(mask)
    if grouping == "softmax":
        logits = similarity / temperature
        return (logits if mask is None else logits.masked_fill(~mask.unsqueeze(1), -math.inf)).softmax(dim=-1)
    if mask is None:
        mask = torch.ones(len(similarity), similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    outside = ~mask.unsqueeze(1)
    low = similarity.masked_fill(outside, math.inf).amin(dim=-1, keepdim=True)
    high = similarity.masked_fill(outside, -math.inf).amax(dim=-1, keepdim=True)
    flat = high <= low
    stretched = torch.where(flat, torch.ones_like(similarity), (similarity - low) / (high - low).masked_fill(flat, 1.0))
    few = stretched < 1 / mask.sum(dim=-1).view(-1, 1, 1)
    kept = stretched.masked_fill(few | outside, 0.0)
    return kept / kept.sum(dim=-1, keepdim=True)


def clipped_attention(attention: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Token weights (B, L) from attention (B, L): no gradient, clipped to the 10 % and 90 % quantiles of each text's words,
    zero on padding, each row summing to 1 (P-7).
    """
    of_words = attention.detach().float().masked_fill(~mask, math.nan)
    low, high = (torch.nanquantile(of_words, share, dim=-1, keepdim=True) for share in (0.1, 0.9))
    clipped = of_words.clamp(low, high).masked_fill(~mask, 0.0)
    return clipped / clipped.sum(dim=-1, keepdim=True)


def token_alignment(
    patches: torch.Tensor,
    words: torch.Tensor,
    mask: torch.Tensor,
    *,
    temperature: float = 0.1,
    grouping: str = "softmax",
    word_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Each token must recognise its own attended context among those of the *same* pair: equation P-8, a scalar >= 0.

    ``patches`` (B, P, d), ``words`` (B, L, d), ``mask`` (B, L) true for words. ``word_weights`` (B, L) sum to 1 per sample;
    by default all words of a sample count alike (P-7), and so do all patches. Words and patches count half each. In full
    precision whatever the training's. Raises ValueError when shapes do not fit or ``temperature`` is below 0.025.
    """
    _check(patches, words, mask)
    if temperature < LEAST_TEMPERATURE:
        raise ValueError(f"temperature must be at least {LEAST_TEMPERATURE}, got {temperature}")
    weights = mask / mask.sum(dim=-1, keepdim=True) if word_weights is None else word_weights
    options = {"grouping": grouping, "temperature": temperature}
    with torch.autocast(patches.device.type, enabled=False):
        patches, words = (tokens if tokens.dtype == torch.float64 else tokens.float() for tokens in (patches, words))
        if mask.device.type != "cpu":
            return _pair_losses(patches, words, mask, weights, **options).mean()
        losses = []  # on a CPU texts of like length go together, which leaves little padding to compute
        for rows in mask.sum(dim=-1).argsort(descending=True).split(GROUP):
            length = int(mask[rows].any(dim=0).nonzero().max()) + 1
            texts = (tensor.index_select(0, rows)[:, :length] for tensor in (words, mask, weights))
            losses.append(_pair_losses(patches.index_select(0, rows), *texts, **options))
        return torch.cat(losses).mean()


def _pair_losses(
    patches: torch.Tensor, words: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor, **options: Any
) -> torch.Tensor:
    """Equation P-8 for each pair (B,)."""
    similarity = words @ patches.transpose(1, 2)
    # P-5, P-6: what each word sees in the image, and each patch in the report
    of_words = F.normalize(grouping_weights(similarity, **options) @ patches, dim=-1)
    of_patches = F.normalize(grouping_weights(similarity.transpose(1, 2), mask, **options) @ words, dim=-1)
    # P-8, both sides
    text_side = (_recognition(words, of_words, options["temperature"], mask) * weights).sum(dim=-1)
    return (text_side + _recognition(patches, of_patches, options["temperature"]).mean(dim=-1)) / 2


def _recognition(
    tokens: torch.Tensor, contexts: torch.Tensor, temperature: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of both readings of G = tokens contexts' / temperature, rows and columns, for each token (B, n).

    Cosines are at most 1, so that one exponential of G - 1 / temperature serves both directions. Padding gets 0.
    """
    shift = tokens.new_full((1, 1, 1), -1 / temperature)
    shares = torch.baddbmm(shift, tokens, contexts.transpose(1, 2), alpha=1 / temperature).exp()
    own = (tokens * contexts).sum(dim=-1) / temperature + shift[0]
    if mask is None:
        return shares.sum(dim=2).log() + shares.sum(dim=1).log() - 2 * own
    shares = shares * (mask.unsqueeze(1) & mask.unsqueeze(2))
    rows, columns = (shares.sum(dim=axis).masked_fill(~mask, 1.0).log() for axis in (2, 1))
    return (rows + columns - 2 * own).masked_fill(~mask, 0.0)


def batch_token_alignment(
    patches: torch.Tensor,
    words: torch.Tensor,
    mask: torch.Tensor,
    *,
    positives: torch.Tensor | None = None,
    attention_scale: float = 4.0,
    word_scale: float = 5.0,
    pair_scale: float = 10.0,
    compete: bool = True,
) -> torch.Tensor:
    """Words attending to the right image must fit better than to any other image of the batch: a form of P-8.

    Shapes as in ``token_alignment``. Z_ij = log sum over words of text j of exp(``word_scale`` * cosine of the word and what
    it attends to in image i); symmetric contrast on ``pair_scale`` * Z. ``positives`` (B, B) bool adds pairs of one class.
    ``compete`` first shares every patch out among the words, as GLoRIA's code does before its softmax over patches.
    Memory grows with B * B. Raises ValueError when shapes do not fit.
    """
    _check(patches, words, mask)
    texts = torch.arange(len(mask), device=mask.device)
    words, owners, real = words.flatten(0, 1), texts.repeat_interleave(mask.shape[1]), mask.flatten()
    if mask.device.type == "cpu":  # leaves padding out; elsewhere that would have to wait
        words, owners, real = words[real], owners[real], real[real]
    of_text = ((owners == texts.unsqueeze(1)) & real).to(words.dtype)  # (B, N)
    parts = patches.split(1) if mask.device.type == "cpu" else (patches,)  # one image at a time stays in the cache
    options = {"attention_scale": attention_scale, "word_scale": word_scale, "compete": compete}
    scores = torch.cat([_fit_of_texts(part, words, of_text, owners, **options) for part in parts])
    if positives is None:
        positives = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return supervised_contrast(scores, positives, 1 / pair_scale)


def _fit_of_texts(
    patches: torch.Tensor, words: torch.Tensor, of_text: torch.Tensor, owners: torch.Tensor,
    *, attention_scale: float, word_scale: float, compete: bool,
) -> torch.Tensor:  # fmt: skip
    """Z of ``batch_token_alignment``, (b, B), for b images with all N words (N, d), which belong to the texts ``owners`` (N,)."""
    cosines = shares = patches @ words.t()  # (b, P, N)
    if compete:  # softmax over the words of each text
        raised = (cosines - cosines.detach().amax(dim=-1, keepdim=True)).exp()
        shares = raised / (raised @ of_text.t()).index_select(-1, owners).clamp(min=1e-30)
    attention = (attention_scale * shares).softmax(dim=1)
    lengths = (attention.transpose(1, 2) @ patches).norm(dim=-1) * words.norm(dim=-1)
    fit = (attention * cosines).sum(dim=1) / lengths.clamp(min=1e-8)  # in [-1, 1]
    return ((word_scale * fit).exp() @ of_text.t()).log()


def intra_modal_loss(
    images: torch.Tensor, texts: torch.Tensor, *, temperature: float = 0.1, target_temperature: float = 0.1
) -> torch.Tensor:
    """Soft targets instead of "only my own report": the similarity within both modalities teaches the one across (P-8).

    ``images`` and ``texts`` are pooled unit vectors (B, d). Mean Kullback-Leibler divergence from the softmax of the mean of
    both inner similarities (no gradient) to that of text against image; 0 when they agree. Raises ValueError when shapes
    differ.
    """
    if images.shape != texts.shape:
        raise ValueError(f"images {tuple(images.shape)} and texts {tuple(texts.shape)} must have one shape")
    within = (texts @ texts.t() + images @ images.t()).detach() / (2 * target_temperature)
    across = texts @ images.t() / temperature
    return F.kl_div(
        F.log_softmax(across, dim=-1), F.log_softmax(within, dim=-1), reduction="batchmean", log_target=True
    )


def _check(patches: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> None:
    fits = patches.ndim == words.ndim == 3 and patches.shape[::2] == words.shape[::2] and mask.shape == words.shape[:2]
    if not fits:
        raise ValueError(
            f"patches {tuple(patches.shape)}, words {tuple(words.shape)} and mask {tuple(mask.shape)} do not fit; "
            "use (B, P, d), (B, L, d) and (B, L)"
        )
    _require_tokens(mask)


def _require_tokens(mask: torch.Tensor) -> None:
    """A mask on a GPU is not looked at: it would have to wait."""
    if mask.device.type == "cpu" and not mask.any(dim=-1).all():
        raise ValueError("a sample has no token at all; every row of mask needs at least one")

"""Which masked views deserve the most weight? MaCo's importance score, its weighted contrast, its grounding (M-4 to M-11, M-v1).

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.components.contrastive import info_nce, require_positive

WEIGHTINGS = ("joint", "joint_normalised", "split", "logits", "loss", "none")


class ImportanceScore(nn.Linear):
    """One number per image from which patches were visible: w . p + b, equation M-5, an FC layer that starts at zero.

    ``forward(position map (B, N))`` gives (B,). ``importance`` makes it positive; at the start that is ln 2 for all.
    """

    def __init__(self, patches: int):
        super().__init__(patches, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, visible_map: torch.Tensor) -> torch.Tensor:
        return super().forward(visible_map).squeeze(-1)


def importance(scores: torch.Tensor) -> torch.Tensor:
    """Softplus, log(1 + exp(score)) > 0, of any shape: equation M-6."""
    return F.softplus(scores)


def weighted_info_nce(
    similarity: torch.Tensor, weights: torch.Tensor, temperature: torch.Tensor | float, *, weighting: str = "joint",
    detach: bool = True,
) -> torch.Tensor:  # fmt: skip
    """Contrastive loss whose rows count by how informative their visible patches are: equations M-8 and M-8c.

    ``similarity`` (B, B) has images in rows and texts in columns; ``weights`` (B,) > 0 is the importance of each image, for
    row i of both directions. ``weighting``: "joint", weighted logits inside weighted terms (the paper); "joint_normalised",
    the same with weights divided by their mean, so that no score can turn the whole contrast down; "split", the mean of four
    losses, two with weighted logits and two with weighted terms (the released code); "logits" or "loss", one half of that;
    "none". "split" and "loss" divide the terms' weights by their sum, "joint" by B. They carry no gradient unless ``detach``
    is False: then a low score switches the loss off. Raises ValueError for an unknown weighting, shapes that do not fit or a
    temperature that is not positive.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    if similarity.ndim != 2 or similarity.shape != (len(similarity),) * 2 or weights.shape != similarity.shape[:1]:
        shapes = f"{tuple(similarity.shape)}, {tuple(weights.shape)}"
        raise ValueError(f"need similarity (B, B) and weights (B,), got {shapes}")
    if weighting == "none":
        return info_nce(similarity, temperature)
    require_positive(temperature)
    if weighting == "joint_normalised":
        weights, weighting = weights / weights.mean(), "joint"
    logits = torch.stack([similarity, similarity.t()]) / temperature  # (2, B, B): by image, by text
    # importance inside the softmax: row i of both directions times weight i
    by_logits = row_losses(weights.view(1, -1, 1) * logits)
    if weighting == "logits":
        return by_logits.mean()
    # importance outside: each row's term counts by its weight, which learns nothing here
    shares = weights.detach() if detach else weights
    shares = shares / (len(shares) if weighting == "joint" else shares.sum())
    by_terms = (shares * (by_logits if weighting == "joint" else row_losses(logits))).sum(dim=1).mean()
    return (by_logits.mean() + by_terms) / 2 if weighting == "split" else by_terms


def row_losses(logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every row whose true column is its own number: (..., B, B) to (..., B)."""
    return logits.logsumexp(dim=-1) - logits.diagonal(dim1=-2, dim2=-1)


def v1_weights(
    scores: torch.Tensor, group: int = 16, tau1: float = 1.0, tau2: float = 16.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Temperature weights in (1, e] and detached loss weights of the arXiv version, both (B,): equation M-v1.

    Scores (B,) compete by softmax within consecutive groups of ``group``; the last one may be smaller, and the loss
    weights of a group sum to 1. A larger score gives a *larger* temperature. Raises ValueError for a group below 1.
    """
    if group < 1:
        raise ValueError(f"group must be at least 1, got {group}")
    parts = scores.split(group)
    heat = torch.cat([(part / tau1).softmax(dim=0).exp() for part in parts])
    return heat, torch.cat([(part / tau2).softmax(dim=0) for part in parts]).detach()


def v1_alignment(
    similarity: torch.Tensor, scores: torch.Tensor, temperature: torch.Tensor | float, *, group: int = 16
) -> torch.Tensor:
    """The alignment loss of the arXiv version, image to text: equation M-v1.

    ``similarity`` (B, B), ``scores`` (B,) raw. The paper does not say how the B weighted terms become one number: here
    they are summed within a group, where weights sum to 1, and averaged over groups, so that equal scores give a plain mean.
    """
    heat, shares = v1_weights(scores, group)
    return (shares * row_losses(similarity / (heat.unsqueeze(1) * temperature))).sum() / math.ceil(len(scores) / group)


def keep_weights(trace: torch.Tensor, weights: torch.Tensor, step: torch.Tensor, every: int) -> torch.Tensor:
    """A trace (R, N) of an FC layer's ``weights`` (N,), with a further row if this ``step`` (counted from 0) is one to keep.

    Every ``every``-th is; when R rows are full, every second one goes and the interval doubles. Rows not yet written are NaN.
    All on the device of ``trace``: a GPU is not waited for.
    """
    rows = len(trace)
    full_at = every * rows * 2 ** torch.arange(32, device=trace.device)
    thinned = torch.cat([trace[::2], torch.full_like(trace[: rows // 2], torch.nan)])
    trace = torch.where((step == full_at).any(), thinned, trace)
    interval = every * 2 ** (step >= full_at).sum()
    here = (torch.arange(rows, device=trace.device) == step // interval) & (step % interval == 0)
    return torch.where(here.unsqueeze(1), weights, trace)


def kept_steps(rows: int, steps: int, every: int) -> range:
    """The steps that the rows of a trace belong to after ``steps`` of them: what ``keep_weights`` has kept."""
    interval = every
    while steps - 1 >= interval * rows:
        interval *= 2
    return range(0, max(steps, 0), interval)


def zero_shot_probability(images: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Softmax over an affirming and a denying text for each image and class, (B, Q) in (0, 1): equation M-11.

    ``images`` (B, d), ``positive`` and ``negative`` (Q, d), the means of each class's prompts; plain inner products.
    """
    return (images @ (positive - negative).t()).sigmoid()


def patch_weights(weight: torch.Tensor, tau: float | None) -> torch.Tensor:
    """Softmax of the FC layer's weights (N,) over patches at temperature ``tau``: the weight map of M-10, sums to 1.

    None stands for an infinite temperature: every patch 1 / N. Raises ValueError unless ``tau`` is positive.
    """
    if tau is None:
        return torch.full_like(weight, 1 / weight.numel())
    if tau <= 0:
        raise ValueError(f"tau must be positive, got {tau}")
    return (weight / tau).softmax(dim=0)


def phrase_maps(tokens: torch.Tensor, texts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Inner product of every token (B, h, w, d), weighted by (h * w,), with every text (Q, d): maps (B, Q, h, w), M-10."""
    weighted = tokens * weights.view(*tokens.shape[1:3], 1)
    return torch.einsum("bhwd,qd->bqhw", weighted, texts)


def smooth_maps(maps: torch.Tensor, sigma: float = 1.5) -> torch.Tensor:
    """Gaussian smoothing of maps (B, Q, h, w) on their own grid, as the official code does before it upsamples.

    ``sigma`` counts cells, 0 leaves the maps; the kernel ends at 4 sigma and borders are mirrored, edge cell included
    (scipy's "reflect").
    """
    if not sigma:
        return maps
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = (-0.5 * (offsets / sigma) ** 2).exp()
    kernel = kernel / kernel.sum()
    for axis in (2, 3):
        side = maps.shape[axis]
        place = torch.arange(-reach, side + reach, device=maps.device) % (2 * side)
        mirrored = maps.index_select(axis, torch.minimum(place, 2 * side - 1 - place))
        maps = mirrored.unfold(axis, 2 * reach + 1, 1) @ kernel
    return maps


def upsample_maps(maps: torch.Tensor, size: int, mode: str = "bilinear") -> torch.Tensor:
    """Maps (B, Q, h, w) at image resolution (B, Q, size, size): "bilinear" (M-10, corners not aligned) or "nearest".

    Raises ValueError for another mode.
    """
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"mode must be 'bilinear' or 'nearest', got {mode!r}")
    return F.interpolate(maps, size=(size, size), mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))


def sentence_pieces(report: str) -> list[str]:
    """The sentences of a report as MaCo cuts it, at full stops; empty ones and "none" are left out."""
    pieces = [part.strip() for part in report.split(".")]
    return [f"{piece}." for piece in pieces if piece and piece.lower() != "none"]


def sample_sentences(
    ids: torch.Tensor, max_length: int, *, pad: int, start: int, end: int | None = None
) -> torch.Tensor:
    """Word pieces (B, L <= ``max_length``) of k of each report's n sentences in random order, k uniform in 1..n (0 of 0).

    The released code counts empty sentences too. ``ids`` (B, n, l) holds the pieces of each sentence, filled up with ``pad``;
    ``start`` and ``end`` are added.
    """
    batch, device, words = len(ids), ids.device, ids != pad
    there = words.any(dim=2)
    # random order of the sentences that are there, and how many of them stay
    order = torch.rand(there.shape, device=device).masked_fill(~there, 2.0).argsort(dim=1)
    count = (torch.rand(batch, 1, device=device) * there.sum(dim=1, keepdim=True)).floor() + 1
    kept = torch.arange(there.shape[1], device=device) < count
    pick = order.unsqueeze(2).expand_as(ids)
    chosen, words = ids.gather(1, pick).flatten(1), (words.gather(1, pick) & kept.unsqueeze(2)).flatten(1)
    # move the words to the left, in their order
    left = (~words).byte().argsort(dim=1, stable=True)
    chosen = chosen.gather(1, left).masked_fill(~words.gather(1, left), pad)
    lengths, marks = words.sum(dim=1), 1 if end is None else 2
    longest = int(lengths.max()) if device.type == "cpu" else words.shape[1]  # elsewhere the answer would be waited for
    chosen = F.pad(chosen, (1, 1), value=pad)[:, : min(longest + marks, max_length)]
    chosen[:, 0] = start
    return chosen if end is None else chosen.scatter(1, (lengths + 1).clamp(max=chosen.shape[1] - 1).unsqueeze(1), end)

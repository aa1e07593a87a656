"""Asking an image about described entities: MedKLIP's fusion decoder and its two losses (K-6 to K-10).

Labels are 1, 0 or NaN for unknown. Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.encoders.attention import attend


class FusionLayer(nn.Module):
    """One decoder layer, pre-norm, no position codes: equation K-7.

    Queries look at each other, then at the image's local features, then through a two-layer network; each step adds to
    what was there. ``forward(queries (B, Q, d), memory (B, N, d))`` returns the new queries and the cross-attention
    (B, Q, N), averaged over heads; each of its rows sums to 1.
    """

    def __init__(self, width: int = 256, heads: int = 4, feedforward: int = 1024, dropout: float = 0.1):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries = queries + self.dropout(_self_attention(self.self_attn, self.norm1(queries)))
        seen, attention = cross_attention(self.multihead_attn, self.norm2(queries), memory)
        queries = queries + self.dropout(seen)
        hidden = self.dropout(F.relu(self.linear1(self.norm3(queries))))
        return queries + self.dropout(self.linear2(hidden)), attention


def _self_attention(part: nn.MultiheadAttention, states: torch.Tensor) -> torch.Tensor:
    qkv = F.linear(states, part.in_proj_weight, part.in_proj_bias).unflatten(-1, (3, part.num_heads, -1))
    return part.out_proj(attend(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2))


def cross_attention(
    part: nn.MultiheadAttention, queries: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``part`` (queries (B, Q, d), memory (B, N, d)) gives as query, key and value: (B, Q, d), and weights (B, Q, N).

    Few queries look at many places, so their projections move to the query side: (W_q x)^T (W_k m) = (W_k^T W_q x)^T m,
    and W_v (sum of a m) for the sum of a (W_v m); no key or value is made per place. The key's bias adds the same to a
    whole row of scores, which softmax does not see.
    """
    to_query, to_key, to_value = part.in_proj_weight.unflatten(0, (3, part.num_heads, -1))  # (heads, e, d) each
    bias_query, _, bias_value = part.in_proj_bias.unflatten(0, (3, part.num_heads, -1))
    asked = torch.einsum("bqd,hed->bhqe", queries, to_query) + bias_query.unsqueeze(1)
    asked = torch.einsum("bhqe,hed->bhqd", asked * part.head_dim**-0.5, to_key)
    scores = (memory @ asked.flatten(1, 2).transpose(1, 2)).transpose(1, 2)  # so that memory's gradient is in its order
    weights = F.dropout(scores.softmax(dim=-1), part.dropout, part.training).to(memory.dtype)
    seen = (weights @ memory).unflatten(1, (part.num_heads, -1))
    total = weights.sum(dim=-1, keepdim=True).unflatten(1, (part.num_heads, -1))  # 1, but for dropout
    values = torch.einsum("bhqd,hed->bhqe", seen, to_value) + total * bias_value.unsqueeze(1)
    return part.out_proj(values.transpose(1, 2).flatten(2)), weights.unflatten(1, (part.num_heads, -1)).mean(dim=1)


class EntityFusionDecoder(nn.Module):
    """A stack of fusion layers and a last layer norm: equations K-6 and K-7.

    ``forward(queries (B, Q, d), memory (B, N, d))`` returns the fused queries (B, Q, d) and the cross-attention of every
    layer (layers, B, Q, N). Names of its tensors equal those of the official checkpoint. Weight matrices start from a
    normal distribution of spread ``init_std``: 0.02 in the official code, at its widths; None leaves PyTorch's start.
    ``attention_start`` below 1 shrinks the query and key weights of the cross-attention at the start, so that every query
    first looks everywhere alike. ``memory_norm`` puts a layer norm on the memory, which is not in the paper: the queries are
    normalised before they are compared with it, the local features of an image else are not.
    """

    def __init__(
        self, width: int = 256, heads: int = 4, layers: int = 4, feedforward: int = 1024, dropout: float = 0.1,
        init_std: float | None = 0.02, attention_start: float = 1.0, memory_norm: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.layers = nn.ModuleList(FusionLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width) if memory_norm else nn.Identity()
        init_weights(self, init_std)
        for layer in self.layers:
            layer.multihead_attn.in_proj_weight.data[: 2 * width] *= attention_start

    def forward(self, queries: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if queries.shape[-1] != memory.shape[-1] or len(queries) != len(memory):
            raise ValueError(f"queries {tuple(queries.shape)} and memory {tuple(memory.shape)} do not fit together")
        memory, attention = self.memory_norm(memory), []
        for layer in self.layers:
            queries, weights = layer(queries, memory)
            attention.append(weights)
        return self.norm(queries), torch.stack(attention)


def init_weights(module: nn.Module, init_std: float | None) -> None:
    """Draw every weight matrix of ``module`` anew from N(0, ``init_std``); None changes nothing."""
    for parameter in module.parameters():
        if init_std is not None and parameter.ndim > 1:
            nn.init.normal_(parameter, std=init_std)


def entity_labels(adjacency: torch.Tensor) -> torch.Tensor:
    """Per entity: 1 if it is stated at any position, else 0 if it is denied at any, else NaN (K-3).

    ``adjacency`` (B, P, Q) holds 1, 0 or NaN; returns (B, Q).
    """
    present, absent = (adjacency == 1).any(dim=1), (adjacency == 0).any(dim=1)
    return present.float().masked_fill(~present & ~absent, torch.nan)


def existence_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Is the entity there? Cross-entropy over the (image, entity) pairs that the reports speak of (K-8).

    ``logits`` (B, Q, 2) is the code's reading (softmax over absent, present), (B, Q) the paper's (one score through a
    sigmoid); they agree when the score is the difference of the two. ``labels`` (B, Q) is 1, 0 or NaN; NaN is left out.
    Zero, with zero gradient, when nothing is known. Raises ValueError when shapes do not fit or a label is another number.
    """
    if logits.shape[:2] != labels.shape or logits.ndim not in (2, 3):
        raise ValueError(f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}")
    known = ~labels.isnan()
    if not ((labels == 0) | (labels == 1) | ~known).all():
        raise ValueError("labels must be 1, 0 or NaN; where -1 stands for unknown, put NaN")
    truth = labels.nan_to_num()
    if logits.ndim == 2:
        losses = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
    else:
        losses = F.cross_entropy(logits.flatten(0, 1), truth.long().flatten(), reduction="none").view_as(labels)
    return (losses * known).sum() / known.sum().clamp(min=1)


def sample_positions(adjacency: torch.Tensor, negatives: int = 7, pool: str = "entity") -> torch.Tensor:
    """Draw the candidates of the position loss: (B, Q, 1 + ``negatives``) position indices, the true one first (K-9).

    Slot 0 is one random position whose label is 1. With ``pool`` "entity", the draw of the released data code, the others
    are distinct random positions where this entity's label is not 1, so "denied there" and "not mentioned there" both
    serve. "matrix" is that of an older release: the position of a random cell of the whole matrix that is not 1, so that
    one may repeat or be the true one.
    Rows of entities without a true position are filled too; ``position_loss`` leaves them out.
    Raises ValueError for another pool or when there are too few positions.
    """
    if pool not in ("entity", "matrix"):
        raise ValueError(f"pool must be 'entity' or 'matrix', got {pool!r}")
    batch, positions, entities = adjacency.shape
    true = (adjacency == 1).transpose(1, 2)
    if true.numel() and int(positions - true.sum(dim=-1).max()) < negatives:
        raise ValueError(f"{positions} positions leave an entity fewer than {negatives} that are not true")
    noise = torch.rand(2, *true.shape, device=adjacency.device)
    positive = noise[0].masked_fill(~true, -1).argmax(dim=-1, keepdim=True)
    if pool == "matrix" and true.numel():
        free = (~true).sum(dim=1).float()
        others = torch.multinomial(free, entities * negatives, replacement=True).view(batch, entities, negatives)
    else:
        others = noise[1].masked_fill(true, -1).topk(negatives, dim=-1).indices
    return torch.cat([positive, others], dim=-1)


def position_loss(
    predicted: torch.Tensor, positions: torch.Tensor, candidates: torch.Tensor, present: torch.Tensor, *, loc_log: bool = True
) -> torch.Tensor:  # fmt: skip
    """Where is it? The predicted position vector must pick the true position among the candidates (K-9).

    ``predicted`` (B, Q, e), ``positions`` (P, e), ``candidates`` (B, Q, 1 + M) with the true one first, ``present`` (B, Q)
    bool. Plain inner products. ``loc_log`` True is the official code: cross-entropy, averaged over the entities present.
    False is the printed term: the softmax share itself, negated, here also averaged over the entities present, where print
    divides by the number of all; it lies in (-1, 0), and its gradient dies where the prediction is poor. Zero, with zero
    gradient, when no entity is present (the official code gives NaN there). Raises ValueError when shapes do not fit.
    """
    shapes = [tuple(x.shape) for x in (predicted, candidates, present)]
    if not shapes[0][:2] == shapes[1][:2] == shapes[2]:
        raise ValueError("predicted {}, candidates {} and present {} do not fit together".format(*shapes))
    if not present.any():
        return (predicted * 0.0).sum()
    offered = positions[candidates[present]]
    logits = torch.einsum("ne,nce->nc", predicted[present], offered)
    share = F.log_softmax(logits, dim=-1)[:, 0]
    return -(share if loc_log else share.exp()).mean()

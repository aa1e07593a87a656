"""Retrieval: precision and recall among the K best, image to text and text to image (C-5).

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CUTOFFS = (1, 3, 10)


@dataclass(frozen=True)
class Retrieved:
    """What a ranking finds among its K best, averaged over the queries that have anything to find.

    ``precision``: the share of the K that is relevant; ``recall``: the share of the relevant that is among the K; ``hit``:
    the share of queries with at least one; ``ceiling``: the precision of a perfect ranking, below 1 where a query has fewer
    than K relevant items; ``chance``: the precision expected from a random order, never above the ceiling. The first four map
    K to a value in [0, 1]; where there are fewer than K items, K counts as their number.
    """

    precision: dict[int, float]
    recall: dict[int, float]
    hit: dict[int, float]
    ceiling: dict[int, float]
    chance: float
    queries: int


def retrieval(scores: np.ndarray, relevant: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> Retrieved:
    """Precision@K and recall@K of ranking G items for each of Q queries (C-5).

    ``scores`` (Q, G), larger is better; ``relevant`` bool (Q, G). Equal scores count by their expected place, so a constant
    score earns chance. Queries without a relevant item are left out. A K beyond the number of items counts as that number.
    Raises ValueError for shapes that differ, NaN scores, a cutoff below 1, or nothing to find.
    """
    scores, relevant = np.asarray(scores, dtype=float), np.asarray(relevant, dtype=bool)
    if scores.ndim != 2 or scores.shape != relevant.shape:
        raise ValueError(f"scores {scores.shape} and relevant {relevant.shape} must be one (queries, items) shape")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} scores are NaN")
    if min(cutoffs) < 1:
        raise ValueError(f"cutoffs must be 1 or more, got {tuple(cutoffs)}")
    asked = relevant.any(axis=1)
    if not asked.any():
        raise ValueError("no query has a relevant item; nothing can be retrieved")
    scores, relevant = scores[asked], relevant[asked]
    total, items = relevant.sum(axis=1), scores.shape[1]
    depth = {k: min(k, items) for k in cutoffs}
    found = {k: _found(scores, relevant, depth[k]) for k in cutoffs}
    return Retrieved(
        precision={k: float((found[k] / depth[k]).mean()) for k in cutoffs},
        recall={k: float((found[k] / total).mean()) for k in cutoffs},
        hit={k: float(_hit(scores, relevant, depth[k]).mean()) for k in cutoffs},
        ceiling={k: float((np.minimum(total, depth[k]) / depth[k]).mean()) for k in cutoffs},
        chance=float(relevant.mean()),
        queries=len(scores),
    )


def _tied(scores: np.ndarray, relevant: np.ndarray, k: int) -> tuple[np.ndarray, ...]:
    """Per query: relevant items surely among the first K, places left for ties, ties, and relevant ties."""
    edge = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, level = scores > edge, scores == edge
    return (above & relevant).sum(1), k - above.sum(1), level.sum(1), (level & relevant).sum(1)


def _found(scores: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    sure, places, ties, good = _tied(scores, relevant, k)
    return sure + places * good / ties


def _hit(scores: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """The chance of at least one relevant item among the first K, with ties in random order."""
    sure, places, ties, good = _tied(scores, relevant, k)
    miss = np.ones(len(scores))
    for place in range(int(places.max())):
        left = np.maximum(ties - place, 1)
        miss *= np.where(place < places, np.maximum(ties - good - place, 0) / left, 1.0)
    return np.where(sure > 0, 1.0, 1.0 - miss)

"""The papers' claims that the book has tested, and what the committed records say of each."""

from __future__ import annotations

from collections.abc import Mapping

from medvlp_lite.claims import maco, medfilip, medklip, mskpt, staging
from medvlp_lite.claims.base import (
    LARGE_FINDINGS,
    Comparison,
    effect,
    macro_auc,
    small_pointing,
    spread,
    unseen_auc,
    verdict,
)
from medvlp_lite.records.record import RunRecord

__all__ = [
    "LARGE_FINDINGS",
    "Comparison",
    "claims",
    "effect",
    "macro_auc",
    "small_pointing",
    "spread",
    "unseen_auc",
    "verdict",
]

COMPARISONS = (*medklip.COMPARISONS, *maco.COMPARISONS, *medfilip.COMPARISONS, *mskpt.COMPARISONS, *staging.COMPARISONS)


def claims(records: Mapping[str, RunRecord], better: str | None = None) -> list[dict[str, str]]:
    """The rows of the ledger that these records (by name) can answer; ``better`` keeps those about one record."""
    return [
        comparison.row(records)
        for comparison in COMPARISONS
        if {comparison.worse, comparison.better} <= set(records) and better in (None, comparison.better)
    ]

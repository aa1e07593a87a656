"""The official names, and from side, zone and structure to one of MedKLIP's 51 landmarks (equation K-5's position list).

Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(maxsize=16)
def read_data(name: str) -> dict[str, Any]:
    """One of this package's JSON files, without what begins with "_"; shared, so not to be changed."""
    rows = json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text(encoding="utf-8"))
    return {key: value for key, value in rows.items() if not key.startswith("_")}


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, tuple[str, ...]]:
    """MedKLIP's 75 entities and 51 positions and MedFILIP's 61 categories, in their official order."""
    return {name: tuple(words) for name, words in read_data("vocabulary").items()}


@lru_cache(maxsize=4096)
def landmarks(site: str, zone: str | None, side: str | None) -> tuple[str, ...]:
    """The landmarks that a structure, a zone of the lung and a side name together: two for a pair, else one.

    A zone wins over the structure; an unknown structure is "other". ``side`` is "left", "right", "bilateral" or None.
    """
    known = read_data("landmarks")
    if zone in known["zones"]:
        left, right, both = known["zones"][zone]
    elif site in known["paired"]:
        left, right, both = known["paired"][site]
        both = None if side == "bilateral" else both
    elif site == "lung":
        left, right, both = "left_lung_unspec", "right_lung_unspec", None if side else "unspecified"
    else:
        return (known["single"].get(site, "other"),)
    if side in ("left", "right"):
        return (left if side == "left" else right,)
    return (both,) if both else (left, right)

"""From side, zone and structure to one of MedKLIP's 51 landmarks (equation K-5's position list).

Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

PAIRED = {  # structure -> (left, right, side not given)
    "hilum": ("left_hilar", "right_hilar", "hilar_unspec"),
    "pleural": ("left_pleural", "right_pleural", "pleural_unspec"),
    "diaphragm": ("left_diaphragm", "right_diaphragm", "diaphragm_unspec"),
    "costophrenic": ("left_costophrenic", "right_costophrenic", "costophrenic_unspec"),
}
ZONES = {  # zone -> (left, right, both or not given)
    "upper lobe": ("upper_left_lobe", "upper_right_lobe", None),
    "middle lobe": ("left_mid_lung", "middle_right_lobe", None),
    "lower lobe": ("lower_left_lobe", "lower_right_lobe", None),
    "upper lung": ("left_upper_lung", "right_upper_lung", None),
    "mid lung": ("left_mid_lung", "right_mid_lung", None),
    "lower lung": ("left_lower_lung", "right_lower_lung", None),
    "base": ("left_lower_lung", "right_lower_lung", "lung_bases"),
    "apex": ("left_apical_lung", "right_apical_lung", "lung_apices"),
    "lingula": ("upper_left_lobe", "upper_left_lobe", "upper_left_lobe"),
    "retrocardiac": ("retrocardiac", "retrocardiac", "retrocardiac"),
}
SINGLE = {
    "heart": "heart_size",
    "heart border": "heart_border",
    "mediastinum": "mediastinal",
    "lymph node": "mediastinal",
    "trachea": "trachea",
    "spine": "spine",
    "clavicle": "clavicle",
    "rib": "rib",
    "stomach": "stomach",
    "right atrium": "right_atrium",
    "right ventricle": "right_ventricle",
    "aorta": "aorta",
    "svc": "svc",
    "interstitium": "interstitium",
    "cavoatrial junction": "cavoatrial_junction",
    "cardiophrenic": "cardiophrenic_sulcus",
    "cardiopulmonary": "cardiopulmonary",
    "lung volume": "lung_volumes",
    "vasculature": "pulmonary",
    "pulmonary": "pulmonary",
    "pulmonary artery": "pulmonary",
    "": "unspecified",
}


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, tuple[str, ...]]:
    """MedKLIP's 75 entities and 51 positions and MedFILIP's 61 categories, in their official order."""
    rows = json.loads((Path(__file__).parent / "data" / "vocabulary.json").read_text(encoding="utf-8"))
    return {name: tuple(words) for name, words in rows.items() if not name.startswith("_")}


@lru_cache(maxsize=4096)
def landmarks(site: str, zone: str | None, side: str | None) -> tuple[str, ...]:
    """The landmarks that a structure, a zone of the lung and a side name together: two for a pair, else one.

    A zone wins over the structure; an unknown structure is "other". ``side`` is "left", "right", "bilateral" or None.
    """
    if zone in ZONES:
        left, right, both = ZONES[zone]
    elif site in PAIRED:
        left, right, both = PAIRED[site]
        if side == "bilateral":
            return left, right
    elif site == "lung":
        left, right, both = "left_lung_unspec", "right_lung_unspec", None
        if side is None:
            return ("unspecified",)
    else:
        return (SINGLE.get(site, "other"),)
    if side == "left":
        return (left,)
    if side == "right":
        return (right,)
    return (both,) if both else (left, right)

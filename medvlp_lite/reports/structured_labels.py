"""Structured labels {severity, location, category}: from reports, from the truth, and how near two of them are (F-1, F-3).

The nearness is hand-made: a yardstick for text models, and a similarity that keeps the grades apart.
Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from medvlp_lite.reports.filter import extract
from medvlp_lite.reports.knowledge import base, describe
from medvlp_lite.studies import SEVERITIES, Finding

MERGED = {"infiltrate": "consolidation"}  # one word for another, as the official code merges synonyms
FAMILIES = {
    "airspace": "consolidation, ground-glass opacity, edema, atelectasis, pneumonia, infiltrate, opacity, opacification, infection, "
    "infectious process, inflammation, hemorrhage, vascular congestion, vascular engorgement, engorgement, covid-19, density",
    "nodular": "nodule, nodules, mass, granuloma, pneumoconiosis, lesion, pulmonary nodules, calcification, abscess, cyst",
    "pleural": "effusion, pneumothorax, pleural thickening, pleural fluid, pneumothoraces, hematoma, tension",
    "heart": "cardiomegaly, cardiac enlargement",
    "chronic": "emphysema, copd, hyperinflation, fibrosis, pulmonary fibrosis, scarring, interstitial markings, bronchiectasis",
}
FAMILY = {name: family for family, names in FAMILIES.items() for name in names.split(", ")}
KIN = 0.3  # two categories of one family
PER_GRADE = 0.4  # lost for each grade between two severities
SIDE_WORDS = {"left": {"left"}, "right": {"right"}, "both": {"left", "right"}, "bilateral": {"left", "right"}, "bilaterally": {"left", "right"}}  # fmt: skip
ZONE_WORDS = {
    **dict.fromkeys(("upper", "apical", "apex", "apices"), 0),
    **dict.fromkeys(("mid", "middle", "perihilar"), 1),
    **dict.fromkeys(("lower", "basal", "base", "bases", "basilar", "costophrenic"), 2),
}
UNKNOWN = 0.75  # one of the two labels does not say


class Label(NamedTuple):
    """One structured label: equation F-4's three slots, of which only the category must be given."""

    severity: str | None
    location: str | None
    category: str


def explanation_of(category: str) -> str:
    """The knowledge base's explanation of a category or description of an entity, or "" when there is none (F-3)."""
    rows = base()["categories"]
    if category in rows:
        return rows[category]["text"]
    try:
        return describe(category)
    except ValueError:
        return ""


@lru_cache(maxsize=200_000)
def reported_labels(report: str, categories: tuple[str, ...]) -> tuple[Label, ...]:
    """The structured labels that the report filter finds: present, of a known category, each once (F-1).

    A finding counts under its own name if that is a category, else under the category it belongs to; a missing severity or
    location stays out.
    """
    labels = []
    for triplet in extract(report):
        names = (triplet.entity, triplet.category, MERGED.get(triplet.category or ""))
        category = next((name for name in names if name in categories), None)
        if triplet.present and category:
            labels.append(Label(triplet.severity, triplet.location, category))
    return tuple(dict.fromkeys(labels))


def true_labels(findings: Sequence[Finding], categories: Sequence[str]) -> tuple[Label, ...]:
    """The same from what is really there: "severity, side and position, entity"."""
    labels = [
        Label(finding.severity, " ".join(word for word in (finding.side, finding.position) if word) or None, finding.entity)
        for finding in findings
        if finding.present and finding.entity in categories
    ]  # fmt: skip
    return tuple(dict.fromkeys(labels))


@lru_cache(maxsize=1_000_000)
def ontology_similarity(one: Label, other: Label) -> float:
    """How near two labels are, in [0, 1]: 1 for equal ones, 0 for unrelated categories.

    The product of category (1 equal, 0.3 of one family, 0 else), severity (1, 0.6 or 0.2 for 0, 1 or 2 grades apart), side and
    zone (1 equal, 0.5 disjoint); a slot that one label leaves out counts 0.75.
    """
    if one == other:
        return 1.0
    if one.category != other.category:
        kin = FAMILY.get(one.category)
        category = KIN if kin and kin == FAMILY.get(other.category) else 0.0
    else:
        category = 1.0
    return category * _severity(one, other) * _overlap(_sides, one, other) * _overlap(_zones, one, other)


def ontology_similarity_matrix(labels: Sequence[Label]) -> np.ndarray:
    """``ontology_similarity`` of every label with every other: float (M, M)."""
    return np.asarray([[ontology_similarity(one, other) for other in labels] for one in labels]).reshape(
        2 * (len(labels),)
    )


def _severity(one: Label, other: Label) -> float:
    if one.severity == other.severity:
        return 1.0
    if one.severity not in SEVERITIES or other.severity not in SEVERITIES:
        return UNKNOWN
    return 1.0 - PER_GRADE * abs(SEVERITIES.index(one.severity) - SEVERITIES.index(other.severity))


def _overlap(read, one: Label, other: Label) -> float:
    first, second = read(one.location), read(other.location)
    if first == second:
        return 1.0
    if not first or not second:
        return UNKNOWN
    return 0.5 + 0.5 * len(first & second) / len(first | second)


def _words(location: str | None) -> list[str]:
    return re.findall(r"[a-z]+", (location or "").lower())


@lru_cache(maxsize=10_000)
def _sides(location: str | None) -> set[str]:
    return set().union(*(SIDE_WORDS.get(word, ()) for word in _words(location)))


@lru_cache(maxsize=10_000)
def _zones(location: str | None) -> set[int]:
    return {ZONE_WORDS[word] for word in _words(location) if word in ZONE_WORDS}

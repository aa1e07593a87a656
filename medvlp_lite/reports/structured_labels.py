"""Structured labels {severity, location, category}: from reports, from the truth, and how similar two of them are (F-1, F-3).

The similarity is hand-made: a yardstick for text models, and one that keeps the grades apart.
Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from medvlp_lite.reports.filter import extract
from medvlp_lite.reports.knowledge import base, describe, own_words
from medvlp_lite.reports.vocabulary import read_data
from medvlp_lite.studies import SEVERITIES, Finding

WORDS = read_data("similarity")
FAMILY = {name: family for family, names in WORDS["families"].items() for name in names}
ZONE_OF = {word: zone for zone, words in enumerate(WORDS["zones"]) for word in words}
KIN = 0.3  # two categories of one family
PER_GRADE = 0.4  # lost for each grade between two severities
UNKNOWN = 0.75  # one of the two labels does not say


class Label(NamedTuple):
    """One structured label: equation F-4's three slots, of which only the category must be given."""

    severity: str | None
    location: str | None
    category: str


def explanation_of(category: str) -> str:
    """The visual attributes of one of MedFILIP's 61 categories, else the description of an entity, else "" (equation F-3)."""
    row = base()["categories"].get(category)
    try:
        return row["text"] if row else describe(category)
    except ValueError:
        return ""


@lru_cache(maxsize=200_000)
def reported_labels(report: str, categories: tuple[str, ...]) -> tuple[Label, ...]:
    """The structured labels that the report filter finds: present, of a known category, each once (F-1).

    A finding counts under its own name if that is a category, else under the category it belongs to; a missing severity or
    location stays out, and so does what the category says anyway.
    """
    labels = []
    for triplet in extract(report):
        names = (triplet.entity, triplet.category, WORDS["merged"].get(triplet.category))
        category = next((name for name in names if name in categories), None)
        if triplet.present and category:
            labels.append(Label(triplet.severity, own_words(triplet.location, category), category))
    return tuple(dict.fromkeys(labels))


def true_labels(findings: Sequence[Finding], categories: Sequence[str]) -> tuple[Label, ...]:
    """The same from what is really there: "severity, side and position, entity"."""
    present = [finding for finding in findings if finding.present and finding.entity in categories]
    places = (" ".join(word for word in (finding.side, finding.position) if word) for finding in present)
    labels = (Label(f.severity, own_words(place, f.entity), f.entity) for f, place in zip(present, places))
    return tuple(dict.fromkeys(labels))


@lru_cache(maxsize=1_000_000)
def ontology_similarity(one: Label, other: Label) -> float:
    """How similar two labels are, in [0, 1]: 1 for equal ones, 0 for unrelated categories.

    The product of category (1 equal, 0.3 of one family, 0 else), severity (1, 0.6 or 0.2 for 0, 1 or 2 grades apart), side and
    zone (1 equal, 0.5 disjoint); a slot that one label leaves out counts 0.75.
    """
    if one == other:
        return 1.0
    if one.category == other.category:
        category = 1.0
    else:
        family = FAMILY.get(one.category)
        category = KIN if family and family == FAMILY.get(other.category) else 0.0
    return category * _severity(one, other) * _overlap(_sides, one, other) * _overlap(_zones, one, other)


def ontology_similarity_matrix(labels: Sequence[Label]) -> np.ndarray:
    """``ontology_similarity`` of every label with every other: float (M, M)."""
    rows = [[ontology_similarity(one, other) for other in labels] for one in labels]
    return np.asarray(rows).reshape(len(labels), len(labels))


def _severity(one: Label, other: Label) -> float:
    if one.severity == other.severity:
        return 1.0
    if one.severity not in SEVERITIES or other.severity not in SEVERITIES:
        return UNKNOWN
    return 1.0 - PER_GRADE * abs(SEVERITIES.index(one.severity) - SEVERITIES.index(other.severity))


def _overlap(read: Callable[[str | None], set], one: Label, other: Label) -> float:
    first, second = read(one.location), read(other.location)
    if first == second:
        return 1.0
    if not first or not second:
        return UNKNOWN
    return 0.5 + 0.5 * len(first & second) / len(first | second)


@lru_cache(maxsize=10_000)
def _sides(location: str | None) -> set[str]:
    words = re.findall(r"[a-z]+", (location or "").lower())
    return {side for word in words for side in WORDS["sides"].get(word, ())}


@lru_cache(maxsize=10_000)
def _zones(location: str | None) -> set[int]:
    return {ZONE_OF[word] for word in re.findall(r"[a-z]+", (location or "").lower()) if word in ZONE_OF}

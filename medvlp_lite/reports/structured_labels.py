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
MILD_TO_SEVERE = 0.2  # similarity of the two ends, which "moderate" halves
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
def ontology_similarity(one: Label, other: Label, mild_to_severe: float = MILD_TO_SEVERE) -> float:
    """How similar two labels are, in [0, 1]: 1 for equal ones, 0 for unrelated categories.

    The product of category (1 equal, 0.3 of one family, 0 else), severity (1 equal, ``mild_to_severe`` two grades apart, half
    way for one), side and zone (1 equal, 0.5 disjoint). A place that one label leaves out counts 0.75; so does a severity, at
    the default ``mild_to_severe``, and 1 where grades make no difference. Raises ValueError outside [0, 1].
    """
    if not 0 <= mild_to_severe <= 1:
        raise ValueError(f"the similarity of mild and severe must lie in [0, 1], got {mild_to_severe}")
    if one == other:
        return 1.0
    if one.category == other.category:
        category = 1.0
    else:
        family = FAMILY.get(one.category)
        category = KIN if family and family == FAMILY.get(other.category) else 0.0
    lost = (1 - mild_to_severe) * _grades_apart(one, other)
    return category * (1 - lost) * _overlap(_sides, one, other) * _overlap(_zones, one, other)


def ontology_similarity_matrix(labels: Sequence[Label], mild_to_severe: float = MILD_TO_SEVERE) -> np.ndarray:
    """``ontology_similarity`` of every label with every other: float (M, M)."""
    rows = [[ontology_similarity(one, other, mild_to_severe) for other in labels] for one in labels]
    return np.asarray(rows).reshape(len(labels), len(labels))


def _grades_apart(one: Label, other: Label) -> float:
    """How far two severities lie apart, in [0, 1]: mild and severe 1; 5/16 where one label does not say."""
    if one.severity == other.severity:
        return 0.0
    if one.severity not in SEVERITIES or other.severity not in SEVERITIES:
        return (1 - UNKNOWN) / (1 - MILD_TO_SEVERE)
    return abs(SEVERITIES.index(one.severity) - SEVERITIES.index(other.severity)) / 2


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

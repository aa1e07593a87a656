"""What each finding looks like: entity descriptions (K-4's input), category explanations (F-3) and structured labels (F-4).

The texts in ``data/knowledge.json`` are our own, each with a reference to check it against.
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from medvlp_lite.reports.lexicon import load
from medvlp_lite.studies import Triplet

TEMPLATES = ("paper", "code")


@lru_cache(maxsize=1)
def base() -> dict[str, dict]:
    """The knowledge base: "sources", "entities" and "categories", as read from its file."""
    return json.loads((Path(__file__).parent / "data" / "knowledge.json").read_text(encoding="utf-8"))


def describe(entity: str) -> str:
    """How an entity looks on a chest radiograph, in a sentence.

    Knows MedKLIP's 75 entities, the findings of the phantom, covid-19 and pneumoconiosis; any other finding of the lexicon
    gets its entity's description. Raises ValueError on an unknown name.
    """
    entities = base()["entities"]
    if entity in entities:
        return entities[entity]["text"]
    concept = load().concepts.get(entity)
    if concept is None:
        raise ValueError(f"no description of {entity!r}; known are {', '.join(sorted(entities))}")
    return entities[concept.entity]["text"]


def explain(category: str) -> str:
    """The visual attributes of one of MedFILIP's 61 categories, in a sentence (equation F-3).

    Raises ValueError on another category.
    """
    categories = base()["categories"]
    if category not in categories:
        raise ValueError(f"no explanation of category {category!r}; known are {', '.join(sorted(categories))}")
    return categories[category]["text"]


def source(name: str) -> str:
    """The reference behind an entity's description or a category's explanation. Raises ValueError if there is none."""
    rows = base()
    row = rows["entities"].get(name) or rows["categories"].get(name)
    if row is None:
        raise ValueError(f"no source for {name!r}; it is neither a described entity nor an explained category")
    return rows["sources"][row["source"]]


def structured_label(
    severity: str | None, location: str | None, category: str, explain: bool = True, template: str = "paper"
) -> str:
    """Equation F-4: severity, location and category as one text, with the category's explanation.

    ``template`` "paper": "mild left pleural effusion, where effusion is ..."; "code": "mild left pleural effusion. ...".
    Missing slots are left out; a category without an explanation stands alone. Raises ValueError on another template.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template must be one of {TEMPLATES}, got {template!r}")
    label = " ".join(word for word in (severity, location, category) if word)
    row = base()["categories"].get(category)
    if not explain or row is None:
        return label
    text = row["text"]
    if template == "code":
        return f"{label}. {text}"
    return f"{label}, where {category} is {text[0].lower()}{text[1:].rstrip('.')}"


def structured_labels(triplets: Iterable[Triplet], explain: bool = True, template: str = "paper") -> list[str]:
    """The structured labels of all present triplets that have a category, each once, in order (equation F-4)."""
    labels = [
        structured_label(triplet.severity, triplet.location, triplet.category, explain, template)
        for triplet in triplets
        if triplet.present and triplet.category
    ]
    return list(dict.fromkeys(labels))

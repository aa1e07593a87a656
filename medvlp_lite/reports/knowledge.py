"""What each finding looks like: entity descriptions (K-4's input), category explanations (F-3) and structured labels (F-4).

The texts in ``data/knowledge.json`` are our own, each with a reference to check it against.
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

from collections.abc import Iterable

from medvlp_lite.reports.lexicon import load
from medvlp_lite.reports.vocabulary import read_data
from medvlp_lite.studies import Triplet

TEMPLATES = ("paper", "code")


def base() -> dict[str, dict]:
    """The knowledge base: "sources", "entities" and "categories", as read from its file."""
    return read_data("knowledge")


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


def source(name: str) -> str:
    """The reference behind an entity's description or a category's explanation. Raises ValueError if there is none."""
    row = base()["entities"].get(name) or base()["categories"].get(name)
    if row is None:
        raise ValueError(f"no source for {name!r}; it is neither a described entity nor an explained category")
    return base()["sources"][row["source"]]


def own_words(location: str | None, category: str) -> str | None:
    """The words of a location that its category does not hold: of "pulmonary vascular" congestion, "pulmonary"."""
    return " ".join(word for word in (location or "").split() if word not in category.split()) or None


def structured_label(
    severity: str | None, location: str | None, category: str, explanation: str = "", template: str = "paper"
) -> str:
    """Equation F-4: severity, location and category as one text, with the category's explanation if one is given.

    ``template`` "paper": "mild left pleural effusion, where effusion is ..."; "code": "mild left pleural effusion. ...".
    Missing slots are left out, and no word of the category is said twice. Raises ValueError on another template.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template must be one of {TEMPLATES}, got {template!r}")
    label = " ".join(word for word in (severity, own_words(location, category), category) if word)
    if not explanation:
        return label
    if template == "code":
        return f"{label}. {explanation}"
    return f"{label}, where {category} is {explanation[0].lower()}{explanation[1:].rstrip('.')}"


def structured_labels(triplets: Iterable[Triplet], explain: bool = True, template: str = "paper") -> list[str]:
    """The structured labels of all present triplets that have a category, each once, in order (equation F-4)."""
    texts = {name: row["text"] for name, row in base()["categories"].items()} if explain else {}
    labels = [
        structured_label(t.severity, t.location, t.category, texts.get(t.category, ""), template)
        for t in triplets
        if t.present and t.category
    ]
    return list(dict.fromkeys(labels))

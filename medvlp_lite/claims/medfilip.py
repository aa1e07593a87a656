"""What MedFILIP's paper claims, as questions to the records; the two after the ladder are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlp_lite.claims.base import Comparison

CHAPTER = "06_similarity_labels"
REPORT, ENTITY, FINE, SSM, FULL = "medfilip_report", "medfilip_entity", "medfilip_fine", "medfilip_ssm", "medfilip"
EXACT, ONTOLOGY = "medfilip_exact", "medfilip_ontology"
SCALE = "phantoms, 1,500 steps; thresholds from validation, not from the test"
OWN_MODEL = "similarity from a small masked language model instead of Bio_ClinicalBERT: it finds all severities alike"


def multi_f1(run: Mapping[str, Any]) -> float:
    """Mean F1 over the findings of one seed's run, thresholds from validation."""
    return run["multi"]["f1"]


def single_f1(run: Mapping[str, Any]) -> float:
    """The same on studies with exactly one finding."""
    return run["single"]["f1"]


def fine_f1(run: Mapping[str, Any]) -> float:
    """Mean F1 over severity and category of the five most common findings."""
    return run["fine"]["f1"]


def right_severity(run: Mapping[str, Any]) -> float:
    """Share of findings that are there whose severity is picked among three."""
    return run["fine"]["severity_accuracy"]


def first_text(run: Mapping[str, Any]) -> float:
    """Precision@1 of texts of the right disease, image to text."""
    found = run["retrieval"]["category"]["image_to_text"]["precision"]
    return found["1"] if "1" in found else found[1]


def _unseen(asked_by: str):
    return lambda run: run["unseen"][asked_by]["value"]


def _probe(key: str):
    return lambda run: run[key]["1 %"]["auc"]


COMPARISONS = (
    Comparison(REPORT, ENTITY, multi_f1, "Entities instead of whole reports raise multi-label F1",
        "MIMIC-multi F1 26.8 to 33.6", SCALE, CHAPTER),
    Comparison(ENTITY, FINE, fine_f1, "Fine-grained labels raise fine-grained F1 over entities",
        "MIMIC-FG F1 31.6 to 36.1", "0/1 labels by category leave severities nothing to learn from", CHAPTER),
    Comparison(FINE, SSM, fine_f1, "Similarity labels raise fine-grained F1 over category-wide 0/1 labels",
        "MIMIC-FG F1 36.1 to 40.7", OWN_MODEL, CHAPTER),
    Comparison(FINE, SSM, multi_f1, "Similarity labels raise multi-label F1",
        "MIMIC-multi F1 35.7 to 39.8", OWN_MODEL, CHAPTER),
    Comparison(FINE, ONTOLOGY, multi_f1, "Similarity labels from an ontology raise multi-label F1",
        "not tested in the paper", "hand-made similarity that keeps severities apart", CHAPTER),
    Comparison(SSM, FULL, multi_f1, "Explanations raise multi-label F1",
        "MIMIC-multi F1 39.8 to 40.2", SCALE, CHAPTER),
    Comparison(SSM, FULL, single_f1, "Explanations raise single-label F1",
        "MIMIC-16 F1 35.4 to 37.5", SCALE, CHAPTER),
    Comparison(REPORT, FULL, fine_f1, "The full system grades better than whole-report matching (fine-grained F1)",
        "MIMIC-FG F1 31.1 to 41.3", SCALE, CHAPTER),
    Comparison(EXACT, SSM, right_severity, "Similarity labels grade better than equal-text 0/1 labels",
        "not tested in the paper", OWN_MODEL, CHAPTER),
    Comparison(EXACT, ONTOLOGY, right_severity, "Similarity labels graded by an ontology grade better than equal-text 0/1 labels",
        "not tested in the paper", "hand-made similarity that keeps severities apart", CHAPTER),
    Comparison(FULL, FULL, _unseen("description"), "The unseen disease is recognised better by explanation than by a known type",
        "COVID-19 ACC 62.0 to 71.3, F1 64.8 to 72.3", "AUC; consolidation stands in for pneumonia", CHAPTER, _unseen("known type")),
    Comparison(REPORT, FULL, first_text, "Structured labels retrieve better than whole reports (P@1, image to text)",
        "ConVIRT 9.92, MedFILIP 14.01", "distinct texts counted once, relevant if of the same disease", CHAPTER),
    Comparison(FULL, FULL, _probe("probe"), "Pre-training beats a random network in a linear probe on 1 % of the labels",
        "Pneumonia ACC 63.5 to 81.6 (the random network fully trained)", "AUC; the random network stays frozen", CHAPTER, _probe("probe_random")),
)  # fmt: skip

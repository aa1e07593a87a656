"""Structured labels as questions: findings with their severity, retrieval, an unseen disease explained (F-4, F-9, C-5).

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from medvlp_lite.evaluation.classification import auc, auc_table, mean_max_f1
from medvlp_lite.evaluation.inference import Parts, embed_dataset, embed_texts, patients_of, pooled_features
from medvlp_lite.evaluation.linear_probe import linear_probe
from medvlp_lite.evaluation.retrieval import retrieval
from medvlp_lite.evaluation.zero_shot import queries_about, recognition_table, unseen_queries, unseen_studies
from medvlp_lite.phantom.patients import ENTITIES, UNSEEN
from medvlp_lite.reports.structured_labels import Label, explanation_of, ontology_similarity_matrix, true_labels
from medvlp_lite.studies import SEVERITIES, StudyDataset
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.medfilip import MedFILIP

KNOWN_TYPE = "consolidation"  # stands for COVID-19 as "pneumonia" does in the paper
PROBED = 5000  # studies whose labels the linear probe may use
TEXT_TYPES: dict[str, Callable[[str | None, str], str]] = {
    "template": lambda severity, category: f"This is an X-ray image of {category}.",
    "fine-grained": lambda severity, category: f"{severity} {category}" if severity else category,
    "explanation": lambda severity, category: explanation_of(category),
}
"""The texts of the paper's Figure 5, from a finding's severity and category."""


def label_scores(system: MedFILIP, images: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
    """Cosines (N, len(labels)) of image vectors with labels in the system's own wording; equal texts score exactly alike."""
    return images @ embed_texts(system, [system.wording(label) for label in labels]).T


@torch.no_grad()
def query_vectors(system: MedFILIP, queries: Sequence[Query]) -> np.ndarray:
    """Unit vectors (len(queries), d) of zero-shot questions."""
    return F.normalize(system.class_embeddings(queries).float(), dim=-1).cpu().numpy()


def recognition(system: MedFILIP, data: Parts) -> dict[str, Any]:
    """Zero-shot AUC, and accuracy and F1 at validation thresholds (C-3): multi-label, single-label, fine-grained; retrieval.

    "single" keeps studies with exactly one finding and adds the accuracy of the best-scored category (F-9). "fine" asks for
    severity and category of the five most common findings, as MIMIC-FG does; "severity_accuracy" picks one of three
    severities of a finding that is there (chance 1/3), "severity_auc" orders severe before mild, both over all findings.
    """
    images = {part: embed_dataset(system, getattr(data, part)) for part in ("val", "test")}
    categories = query_vectors(system, queries_about(ENTITIES))
    scores = {part: vectors @ categories.T for part, vectors in images.items()}
    labels = {part: getattr(data, part).labels for part in images}
    one = {part: np.nansum(values, axis=1) == 1 for part, values in labels.items()}
    single = mean_max_f1({p: labels[p][one[p]] for p in one}, {p: scores[p][one[p]] for p in one})
    single["top1"] = float((scores["test"].argmax(1) == labels["test"].argmax(1))[one["test"]].mean())
    return {
        **recognition_table(data, scores),
        "multi": mean_max_f1(labels, scores),
        "single": single,
        "fine": fine_grained(system, data, images),
        "retrieval": text_retrieval(system, data.test, images["test"]),
    }


def severity_labels(dataset: StudyDataset, classes: Sequence[Label]) -> np.ndarray:
    """1 where a study has the finding at that severity, else 0: float (N, len(classes))."""
    present = [{(f.severity, f.entity) for f in study.findings if f.present} for study in dataset.studies]
    return np.asarray([[float((c.severity, c.category) in row) for c in classes] for row in present])


def fine_grained(system: MedFILIP, data: Parts, images: dict[str, np.ndarray]) -> dict[str, Any]:
    """Severity x category: accuracy and F1 of the subclasses of the five most common findings, and severities alone.

    "presence_auc" orders severe before mild by the mean score of all severities, which says only how surely the finding is there.
    """
    seen = Counter(f.entity for study in data.train.studies for f in study.findings if f.present)
    common = [name for name, _ in seen.most_common(5)]
    classes = [Label(severity, None, name) for name in ENTITIES for severity in SEVERITIES]
    scores = {part: label_scores(system, vectors, classes) for part, vectors in images.items()}
    labels = {part: severity_labels(getattr(data, part), classes) for part in images}
    columns = [i for i, label in enumerate(classes) if label.category in common]
    result = mean_max_f1({p: labels[p][:, columns] for p in labels}, {p: scores[p][:, columns] for p in scores})
    accuracy, order, presence = {}, [], []
    for start in range(0, len(classes), 3):
        truth, asked = (part["test"][:, start : start + 3] for part in (labels, scores))
        there = truth.sum(axis=1) == 1
        if not there.any():
            continue
        truth, asked, extreme = truth[there], asked[there], truth[there, 1] == 0
        level = asked == asked.max(axis=1, keepdims=True)  # equal scores: chance decides
        accuracy[classes[start].category] = float((truth * level / level.sum(axis=1, keepdims=True)).sum(axis=1).mean())
        order.append(auc(truth[extreme, 2], asked[extreme, 2] - asked[extreme, 0]))
        presence.append(auc(truth[extreme, 2], asked[extreme].mean(axis=1)))
    return {
        **result,
        "findings": common,
        "severity_accuracy": float(np.mean(list(accuracy.values()))) if accuracy else float("nan"),
        "severity_accuracy_of": accuracy,
        "severity_auc": float(np.nanmean(order)) if np.isfinite(order).any() else float("nan"),
        "presence_auc": float(np.nanmean(presence)) if np.isfinite(presence).any() else float("nan"),
    }


def text_retrieval(system: MedFILIP, dataset: StudyDataset, images: np.ndarray) -> dict[str, Any]:
    """Structured labels for images and images for structured labels, each distinct label once in the gallery (C-5).

    "label" counts exactly the image's own labels as relevant, "category" every label of a category it has.
    """
    owned = [true_labels(study.findings, ENTITIES) for study in dataset.studies]
    rows = [i for i, labels in enumerate(owned) if labels]
    gallery = sorted({label for labels in owned for label in labels}, key=str)
    scores = label_scores(system, images[rows], gallery)
    relevant = {
        "label": np.asarray([[label in owned[i] for label in gallery] for i in rows]),
        "category": np.asarray([[c in {own.category for own in owned[i]} for _, _, c in gallery] for i in rows]),
    }
    result: dict[str, Any] = {"images": len(rows), "texts": len(gallery)}
    for kind, truth in relevant.items():
        result[kind] = {
            "image_to_text": asdict(retrieval(scores, truth)),
            "text_to_image": asdict(retrieval(scores.T, truth.T)),
        }
    return result


def text_type_similarity(system: System, dataset: StudyDataset) -> dict[str, np.ndarray]:
    """The paper's Figure 5: by type of text, mean cosines (K, K) of images with a finding (row) and texts of each (column).

    A fine-grained text names the severity that the row's finding has in the image. Rows are in the order of ``ENTITIES``, NaN for a finding
    that no image shows.
    """
    images, shown = embed_dataset(system, dataset), [s.findings for s in dataset.studies]
    owners = [(i, f) for i, row in enumerate(shown) for f in row if f.present and f.entity in ENTITIES]
    matrices = {}
    for kind, wording in TEXT_TYPES.items():
        vectors = {s: embed_texts(system, [wording(s, c) for c in ENTITIES]) for s in {f.severity for _, f in owners}}
        rows = {name: [images[i] @ vectors[f.severity].T for i, f in owners if f.entity == name] for name in ENTITIES}
        matrices[kind] = np.stack([np.mean(row, 0) if row else np.full(len(ENTITIES), np.nan) for row in rows.values()])
    return matrices


def text_type_means(system: System, dataset: StudyDataset) -> dict[str, dict[str, float]]:
    """``text_type_similarity`` in short: by type of text, the mean over a finding's "own" text and over those of "other" findings."""
    own = np.eye(len(ENTITIES), dtype=bool)
    found = text_type_similarity(system, dataset).items()
    return {kind: {"own": float(np.nanmean(m[own])), "other": float(np.nanmean(m[~own]))} for kind, m in found}


def unseen_by_explanation(
    system: MedFILIP, count: int = 400, seeds: tuple[int, int] = (78, 77), size: int = 112
) -> dict[str, Any]:
    """A disease that training never showed, asked by its name, by a known type in its place, and by its explanation.

    Thresholds come from phantoms of the first seed; everything is measured on those of the second, patients drawn whole.
    """
    by_name = unseen_queries()
    asked = {"name": by_name["name"], "known type": Query.about(KNOWN_TYPE), "description": by_name["description"]}
    vectors, labels, scores = query_vectors(system, list(asked.values())), {}, {}
    for part, seed in zip(("val", "test"), seeds):
        dataset = unseen_studies(count, seed, size)
        labels[part], scores[part] = dataset.labels, embed_dataset(system, dataset) @ vectors.T
    results = {}
    for column, kind in enumerate(asked):
        one = {part: values[:, column : column + 1] for part, values in scores.items()}
        table = auc_table(labels["test"], one["test"], [UNSEEN], groups=patients_of(dataset))
        results[kind] = {**asdict(table.macro), **mean_max_f1(labels, one)}
    return results


def label_probe(system: System, data: Parts, seed: int = 0, limit: int = PROBED) -> dict[str, dict[str, Any]]:
    """The linear probe of F-11 on frozen features; ``seed`` draws the ``limit`` training studies and the shares of them."""
    rows = np.random.default_rng(seed).permutation(len(data.train))[:limit]
    parts = [(pooled_features(system, part), part.labels) for part in (data.train.subset(rows), data.val, data.test)]
    return linear_probe(*parts, seed=seed)


def similarity_quality(system: MedFILIP, locations: Sequence[str | None] = (None, "left", "right lower")) -> dict[str, float]:  # fmt: skip
    """What the system's similarity makes of all pairs of labels of its categories, against ``ontology_similarity``.

    Means over pairs of one category, of different categories, and of labels that differ in severity alone; the share of
    (same, different) category pairs in the right order ("auc"); Spearman's rank correlation with the hand-made ontology similarity,
    over all pairs and within one category.
    """
    labels = [Label(s, place, c) for c in system.config.categories for s in SEVERITIES for place in locations]
    found = system.label_similarity(labels).cpu().numpy()
    upper = np.triu_indices(len(labels), 1)
    same = np.asarray([[a.category == b.category for b in labels] for a in labels])[upper]
    grade = np.asarray([[a[1:] == b[1:] for b in labels] for a in labels])[upper]
    values, truth = found[upper], ontology_similarity_matrix(labels)[upper]
    return {
        "same_category": float(values[same].mean()),
        "other_category": float(values[~same].mean()),
        "severity_alone": float(values[grade].mean()),
        "auc": auc(same.astype(float), values),
        "spearman": float(spearmanr(values, truth).statistic),
        "spearman_within_category": float(spearmanr(values[same], truth[same]).statistic),
    }

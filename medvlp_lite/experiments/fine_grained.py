"""MedFILIP's ladder, from whole reports to explained structured labels, and what its soft labels are made of.

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from medvlp_lite.encoders.sentence import SentenceEncoder, pretrain
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.evaluation.classification import auc, auc_table, embed_dataset, max_f1, queries_about
from medvlp_lite.evaluation.linear_probe import linear_probe, pooled_features
from medvlp_lite.evaluation.retrieval import official_counts, retrieval
from medvlp_lite.experiments.base import EXPERIMENTS, IMAGE_SIZE, Experiment, PhantomData, Profile
from medvlp_lite.experiments.zero_shot import zero_shot_data
from medvlp_lite.phantom.corpus import SEEDS_APART, make_studies
from medvlp_lite.phantom.patients import ENTITIES, UNSEEN
from medvlp_lite.phantom.reports import write_report
from medvlp_lite.phantom.sampling import sample_patient
from medvlp_lite.reports.knowledge import base, describe
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.reports.structured_labels import Label, explanation_of, ontology_similarity_matrix, true_labels
from medvlp_lite.studies import SEVERITIES, StudyDataset
from medvlp_lite.systems.base import Query
from medvlp_lite.systems.medfilip import MedFILIP
from medvlp_lite.training import TrainingConfig

KNOWN_TYPE = "consolidation"  # stands for COVID-19 as "pneumonia" does in the paper
LIVE_STEPS = 300
PROBED = 5000  # studies whose labels the linear probe may use
HARD = {"use_ssm": False, "use_iki": False}
LADDER: dict[str, dict[str, Any]] = {
    "medfilip_report": {**HARD, "use_entities": False},
    "medfilip_entity": {**HARD, "use_fg": False},
    "medfilip_fine": HARD,
    "medfilip_ssm": {"use_iki": False},
    "medfilip": {},
}
"""The rungs of the paper's Table 6, bottom first."""
VARIANTS: dict[str, dict[str, Any]] = {
    "medfilip_exact": {**HARD, "hard_labels": "text"},
    "medfilip_words": {"use_iki": False, "similarity_model": "words"},
    "medfilip_ontology": {"use_iki": False, "similarity_model": "ontology"},
    "medfilip_gated": {"use_iki": False, "same_category_only": True},
    "medfilip_ontology_truth": {"use_iki": False, "similarity_model": "ontology", "triplets": "truth"},
    "medfilip_scaled": {"use_iki": False, "similarity_model": "ontology", "mse_on": "scaled"},
}
"""The same rungs with another idea of which labels are alike, with true triplets, and with the released loss."""


def similarity_corpus(patients: int = 6000, seed: int = 9, more: Iterable[str] = ()) -> list[str]:
    """Sentences to pre-train the similarity model on: phantom reports, each sentence once, and the knowledge base's texts thrice.

    ``more`` are further reports, such as Open-i's; the stored model saw none.
    """
    drawn = (write_report(sample_patient(seed * SEEDS_APART + i)).text for i in range(patients))
    reports = map(findings_text, chain(drawn, more))
    said = {f"{part.strip()}." for report in reports for part in report.split(".") if len(part.split()) > 2}
    known = [row["text"] for kind in ("entities", "categories") for row in base()[kind].values()]
    return [*sorted(said), *known, *known, *known]


def pretrain_similarity(
    patients: int = 6000,
    steps: int = 1600,
    more: Iterable[str] = (),
    log: Callable[[str], None] | None = print,
) -> tuple[SentenceEncoder, list[float]]:
    """The small similarity model made anew, and its losses; with the defaults, the one stored in ``encoders/data``.

    ``pretrain_similarity()[0].store(STORED, ...)`` writes it.
    """
    corpus = similarity_corpus(patients, more=more)
    return pretrain(corpus, ReportTokenizer.train(corpus), steps=steps, log=log)


def build_medfilip(data: PhantomData, **options: Any) -> MedFILIP:
    """An untrained MedFILIP for these phantoms; its tokenizer also knows the words of the explanations."""
    corpus = [findings_text(report) for report in data.train.reports]
    tokenizer = ReportTokenizer.train([*corpus, *map(explanation_of, ENTITIES)])
    return MedFILIP(tokenizer, categories=ENTITIES, image_size=IMAGE_SIZE, **options)


@torch.no_grad()
def label_scores(system: MedFILIP, images: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
    """Cosines (N, len(labels)) of image vectors with labels in the system's own wording; equal texts score exactly alike."""
    texts = [system.wording(label) for label in labels]
    distinct = list(dict.fromkeys(texts))
    parts = [system.embed_texts(distinct[i : i + 64]).float().cpu() for i in range(0, len(distinct), 64)]
    return (images @ torch.cat(parts).numpy().T)[:, [distinct.index(text) for text in texts]]


@torch.no_grad()
def query_vectors(system: MedFILIP, queries: Sequence[Query]) -> np.ndarray:
    """Unit vectors (len(queries), d) of zero-shot questions."""
    return F.normalize(system.class_embeddings(queries).float(), dim=-1).cpu().numpy()


def recognition(system: MedFILIP, data: PhantomData) -> dict[str, Any]:
    """Zero-shot AUC, and accuracy and F1 at validation thresholds (C-3): multi-label, single-label, fine-grained; retrieval.

    "single" keeps studies with exactly one finding and adds the accuracy of the best-scored category (F-9). "fine" asks for
    severity and category of the five most common findings, as MIMIC-FG does; "severity_accuracy" picks one of three
    severities of a finding that is there (chance 1/3), "severity_auc" orders severe before mild, both over all findings.
    """
    images = {part: embed_dataset(system, getattr(data, part)) for part in ("val", "test")}
    categories = query_vectors(system, queries_about(ENTITIES))
    scores = {part: vectors @ categories.T for part, vectors in images.items()}
    labels = {part: getattr(data, part).labels for part in images}
    table = auc_table(labels["test"], scores["test"], ENTITIES, groups=[s.patient_id for s in data.test.studies])
    multi = _thresholded(labels, scores)
    one = {part: np.nansum(values, axis=1) == 1 for part, values in labels.items()}
    single = _thresholded({p: labels[p][one[p]] for p in one}, {p: scores[p][one[p]] for p in one})
    single["top1"] = float((scores["test"].argmax(1) == labels["test"].argmax(1))[one["test"]].mean())
    return {
        "macro_auc": asdict(table.macro),
        "auc": {name: asdict(interval) for name, interval in table.per_class.items()},
        "max_f1_threshold_from_val": multi["f1"],
        "max_f1_threshold_from_test": _thresholded(labels, scores, "test")["f1"],
        "multi": multi,
        "single": single,
        "fine": fine_grained(system, data, images),
        "retrieval": text_retrieval(system, data.test, images["test"]),
    }


def _thresholded(labels: dict, scores: dict, source: str = "val") -> dict[str, float]:
    rows = [
        max_f1((labels["test"][:, c], scores["test"][:, c]), (labels["val"][:, c], scores["val"][:, c]), source)
        for c in range(labels["test"].shape[1])
        if all((labels[part][:, c] == 1).any() for part in ("val", "test"))
    ]
    if not rows:
        return {"accuracy": float("nan"), "f1": float("nan"), "classes": 0}
    return {"accuracy": float(np.mean([row.accuracy for row in rows])), "f1": float(np.mean([row.f1 for row in rows])), "classes": len(rows)}  # fmt: skip


def severity_labels(dataset: StudyDataset, classes: Sequence[Label]) -> np.ndarray:
    """1 where a study has the finding at that severity, else 0: float (N, len(classes))."""
    present = [{(f.severity, f.entity) for f in study.findings if f.present} for study in dataset.studies]
    return np.asarray([[float((c.severity, c.category) in row) for c in classes] for row in present])


def fine_grained(system: MedFILIP, data: PhantomData, images: dict[str, np.ndarray]) -> dict[str, Any]:
    """Severity x category: accuracy and F1 of the subclasses of the five most common findings, and severities alone."""
    seen = Counter(f.entity for study in data.train.studies for f in study.findings if f.present)
    common = [name for name, _ in seen.most_common(5)]
    classes = [Label(severity, None, name) for name in ENTITIES for severity in SEVERITIES]
    scores = {part: label_scores(system, vectors, classes) for part, vectors in images.items()}
    labels = {part: severity_labels(getattr(data, part), classes) for part in images}
    columns = [i for i, label in enumerate(classes) if label.category in common]
    result = _thresholded({p: labels[p][:, columns] for p in labels}, {p: scores[p][:, columns] for p in scores})
    accuracy, order = {}, []
    for start in range(0, len(classes), 3):
        truth, asked = labels["test"][:, start : start + 3], scores["test"][:, start : start + 3]
        there = truth.sum(axis=1) == 1
        if not there.any():
            continue
        truth, asked = truth[there], asked[there]
        level = asked == asked.max(axis=1, keepdims=True)  # equal scores: chance decides
        accuracy[classes[start].category] = float((truth * level / level.sum(axis=1, keepdims=True)).sum(axis=1).mean())
        extreme = truth[:, 1] == 0
        order.append(auc(truth[extreme, 2], asked[extreme, 2] - asked[extreme, 0]))
    return {
        **result,
        "findings": common,
        "severity_accuracy": float(np.mean(list(accuracy.values()))) if accuracy else float("nan"),
        "severity_accuracy_of": accuracy,
        "severity_auc": float(np.nanmean(order)) if np.isfinite(order).any() else float("nan"),
    }


def text_retrieval(system: MedFILIP, dataset: StudyDataset, images: np.ndarray) -> dict[str, Any]:
    """Structured labels for images and images for structured labels, each distinct label once in the gallery (C-5).

    "label" counts exactly the image's own labels as relevant, "category" every label of a category it has. "official"
    gives the released script's counts on a gallery with one label per image, repeats included.
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
    alone = [place for place, i in enumerate(rows) if len(owned[i]) == 1][:1000]
    column = [gallery.index(owned[rows[place]][0]) for place in alone]
    repeated = scores[np.ix_(alone, column)]
    counts = official_counts(repeated, np.equal.outer(column, column))
    result["official"] = {"pairs": len(alone), "counts": {str(k): counts[k - 1] for k in (1, 3, 10)}}
    return result


def unseen_by_explanation(system: MedFILIP, count: int = 400, seeds: tuple[int, int] = (78, 77)) -> dict[str, Any]:
    """A disease that training never showed, asked by its name, by a known type in its place, and by its explanation.

    Thresholds come from phantoms of the first seed; everything is measured on those of the second.
    """
    known = Query.about(KNOWN_TYPE)
    asked = {
        "name": Query.about(UNSEEN, UNSEEN),
        "known type": known,
        "description": Query(UNSEEN, (describe(UNSEEN),), known.negative, describe(UNSEEN)),
    }
    vectors, labels, scores = query_vectors(system, list(asked.values())), {}, {}
    for part, seed in zip(("val", "test"), seeds):
        dataset = _unseen_studies(count, seed)
        labels[part], scores[part] = dataset.labels, embed_dataset(system, dataset) @ vectors.T
    results = {}
    for column, kind in enumerate(asked):
        one = {part: values[:, column : column + 1] for part, values in scores.items()}
        decided = _thresholded(labels, one)
        results[kind] = {**asdict(auc_table(labels["test"], one["test"], [UNSEEN]).macro), **decided}
    return results


@lru_cache(maxsize=4)
def _unseen_studies(count: int, seed: int) -> StudyDataset:
    return StudyDataset(make_studies(count, seed=seed, size=IMAGE_SIZE, unseen=0.5), size=IMAGE_SIZE, entities=[UNSEEN])


def probe_parts(system: MedFILIP, data: PhantomData) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frozen features and labels of at most 5000 training studies, of val and of test, as ``linear_probe`` takes them (F-11)."""
    train = data.train.subset(range(min(PROBED, len(data.train))))
    return [(pooled_features(system, part), part.labels) for part in (train, data.val, data.test)]


def similarity_quality(system: MedFILIP, locations: Sequence[str | None] = (None, "left", "right lower")) -> dict[str, float]:  # fmt: skip
    """What the system's similarity makes of all pairs of labels of its categories, against ``ontology_similarity``.

    Means over pairs of one category, of different categories, and of labels that differ in severity alone; the share of
    (same, different) category pairs in the right order ("auc"); Spearman's rank correlation with the hand-made nearness,
    over all pairs and within one category.
    """
    labels = [Label(s, place, c) for c in system.config["categories"] for s in SEVERITIES for place in locations]
    found = system.label_similarity(labels).numpy()
    nearness = ontology_similarity_matrix(labels)
    upper = np.triu_indices(len(labels), 1)
    same = np.asarray([[a.category == b.category for b in labels] for a in labels])[upper]
    grade = np.asarray([[a[1:] == b[1:] for b in labels] for a in labels])[upper]
    values, truth = found[upper], nearness[upper]
    return {
        "same_category": float(values[same].mean()),
        "other_category": float(values[~same].mean()),
        "severity_alone": float(values[grade].mean()),
        "auc": auc(same.astype(float), values),
        "spearman": float(spearmanr(values, truth).statistic),
        "spearman_within_category": float(spearmanr(values[same], truth[same]).statistic),
    }


def _plan(scale: Profile, seed: int) -> TrainingConfig:
    """Batches of half the size: without a contrast between images the number of steps decides, not the size of a batch."""
    steps = min(2 * scale.steps, max(LIVE_STEPS, scale.steps))
    return TrainingConfig(steps, max(1, scale.batch_size // 2), 2e-3, precision=scale.precision, seed=seed)


def _measure(probed: bool, random: bool = False):
    def measure(system: MedFILIP, data: PhantomData) -> dict[str, Any]:
        result = {**recognition(system, data), "unseen": unseen_by_explanation(system)}
        if probed:
            result["probe"] = linear_probe(*probe_parts(system, data))
        if random:
            result["probe_random"] = linear_probe(*probe_parts(build_medfilip(data), data))
        return result

    return measure


for _name, _options in {**LADDER, **VARIANTS}.items():
    EXPERIMENTS[_name] = Experiment(
        lambda data, options=_options: build_medfilip(data, **options),
        _plan,
        _measure(probed=_name in ("medfilip", "medfilip_report"), random=_name == "medfilip"),
        data=zero_shot_data,
    )

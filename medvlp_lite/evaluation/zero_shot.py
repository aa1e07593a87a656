"""Zero-shot recognition: a system is asked about findings, and about a disease that training never showed (C-2, C-3, K-13).

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from medvlp_lite.evaluation.classification import auc, auc_table, mean_max_f1
from medvlp_lite.evaluation.grounding import query_grounding
from medvlp_lite.evaluation.inference import Parts, patients_of, score_dataset
from medvlp_lite.phantom.corpus import make_studies
from medvlp_lite.phantom.patients import ENTITIES, UNSEEN
from medvlp_lite.reports.knowledge import describe
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import NORMAL, Query, System

UNSEEN_STUDIES, UNSEEN_SEED = 400, 77


def queries_about(names: Sequence[str], descriptions: Mapping[str, str] | None = None) -> list[Query]:
    """One standard query per name, with a description where one is given."""
    return [Query.about(name, (descriptions or {}).get(name, "")) for name in names]


def zero_shot(system: System, data: Parts, names: Sequence[str] = ENTITIES) -> dict[str, Any]:
    """Zero-shot AUC per entity and macro on the test part, and mean max-F1 and accuracy at thresholds from val (C-3)."""
    queries = queries_about(names)
    scores = {part: score_dataset(system, getattr(data, part), queries) for part in ("val", "test")}
    return recognition_table(data, scores, names)


def recognition_table(data: Parts, scores: dict[str, np.ndarray], names: Sequence[str] = ENTITIES) -> dict[str, Any]:
    """The same from scores (N, Q) of "val" and "test", whoever gave them."""
    labels = {part: getattr(data, part).labels for part in scores}
    table = auc_table(labels["test"], scores["test"], names, groups=patients_of(data.test))
    at_val = mean_max_f1(labels, scores)
    return {
        "macro_auc": asdict(table.macro),
        "auc": {name: asdict(interval) for name, interval in table.per_class.items()},
        "max_f1_threshold_from_val": at_val["f1"],
        "accuracy_threshold_from_val": at_val["accuracy"],
        "max_f1_threshold_from_test": mean_max_f1(labels, scores, "test")["f1"],
    }


def prompts_of(name: str) -> dict[str, Query]:
    """Ways to ask about a finding, by name: the standard question, with the description, and each of their sentences alone."""
    standard, text = Query.about(name), describe(name)
    described = {
        "standard": standard,
        "with description": Query.about(name, text),
        "description": Query(name, (text,), NORMAL, text),
    }
    return described | {sentence: Query(name, (sentence,), NORMAL) for sentence in standard.positive}


def chosen_prompts(system: System, data: Parts, names: Sequence[str] = ENTITIES) -> dict[str, Any]:
    """Zero-shot recognition with the best of ``prompts_of`` for each finding, chosen by AUC on the validation part."""
    asked = [prompts_of(name) for name in names]
    queries = [query for prompts in asked for query in prompts.values()]
    scores = {part: score_dataset(system, getattr(data, part), queries) for part in ("val", "test")}
    width, columns, kept = len(asked[0]), [], {}
    for place, (name, prompts) in enumerate(zip(names, asked)):
        own, labels = range(width * place, width * (place + 1)), data.val.labels[:, place]
        columns.append(max(own, key=lambda column: np.nan_to_num(auc(labels, scores["val"][:, column]))))
        kept[name] = list(prompts)[columns[-1] % width]
    labels = {part: getattr(data, part).labels for part in scores}
    scores = {part: values[:, columns] for part, values in scores.items()}
    table = auc_table(labels["test"], scores["test"], names, groups=patients_of(data.test))
    return {"auc": asdict(table.macro), **mean_max_f1(labels, scores), "prompts": kept}


def macro_auc_on_val(system: System, data: Parts) -> float:
    """Macro zero-shot AUC on the validation part: the point of a validation curve."""
    scores = score_dataset(system, data.val, queries_about(ENTITIES))
    return float(np.nanmean([auc(*pair) for pair in zip(data.val.labels.T, scores.T)]))


@lru_cache(maxsize=4)
def unseen_studies(count: int = UNSEEN_STUDIES, seed: int = UNSEEN_SEED, size: int = 112) -> StudyDataset:
    """Phantoms of which half have the disease that no training image or report shows; it is their one label."""
    studies = make_studies(count, seed=seed, size=size, unseen=0.5)
    return StudyDataset(studies, size=size, entities=[UNSEEN])


def unseen_queries(name: str = UNSEEN) -> dict[str, Query]:
    """A disease that was not trained asked by its "name" and by its "description", against the same normal sentences (K-13)."""
    by_name = Query.about(name, name)
    return {"name": by_name, "description": Query(name, (describe(name),), by_name.negative, describe(name))}


def unseen_disease(system: System, dataset: StudyDataset | None = None) -> dict[str, Any]:
    """AUC on the unseen disease, asked by name and by description; intervals draw patients whole.

    ``dataset`` has the disease as its one label; by default ``unseen_studies()``.
    """
    dataset = dataset or unseen_studies()
    return {kind: _auc_of(system, dataset, query) for kind, query in unseen_queries().items()}


def _auc_of(system: System, dataset: StudyDataset, query: Query) -> dict[str, Any]:
    labels, scores = dataset.labels[:, [dataset.entities.index(query.name)]], score_dataset(system, dataset, [query])
    return asdict(auc_table(labels, scores, [query.name], groups=patients_of(dataset)).macro)


def unseen_grounding(system: System, size: int = 112, count: int = UNSEEN_STUDIES) -> dict[str, Any]:
    """Where the unseen disease is, asked by name and by description; thresholds come from phantoms of another draw."""
    others = unseen_studies(count // 2, UNSEEN_SEED + 1, size)
    data = SimpleNamespace(train=others, val=others, test=unseen_studies(count, size=size))
    return {kind: query_grounding(system, data, query) for kind, query in unseen_queries().items()}


def held_out(system: System, data: Parts) -> dict[str, Any]:
    """AUC and grounding of the finding that ``system`` has no query for, asked by name and by description.

    Held out means that its labels and its query were not trained; images with it were. Raises ValueError when not exactly
    one entity of the test part is missing in the system's ``entities``.
    """
    missing = [name for name in data.test.entities if name not in system.config.entities]
    if len(missing) != 1:
        raise ValueError(f"one finding must be held out, not {len(missing)}: {', '.join(missing)}")
    return {
        kind: {**query_grounding(system, data, query), **_auc_of(system, data.test, query)}
        for kind, query in unseen_queries(missing[0]).items()
    }

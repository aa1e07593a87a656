"""Zero-shot recognition: a system is asked about findings, and about a disease that training never showed (C-2, C-3, K-13).

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np

from medvlp_lite.evaluation.classification import auc, auc_table, mean_max_f1
from medvlp_lite.evaluation.inference import Parts, patients_of, score_dataset
from medvlp_lite.phantom.corpus import make_studies
from medvlp_lite.phantom.patients import ENTITIES, UNSEEN
from medvlp_lite.reports.knowledge import describe
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import Query, System

UNSEEN_STUDIES, UNSEEN_SEED = 400, 77


def queries_about(names: Sequence[str], descriptions: Mapping[str, str] | None = None) -> list[Query]:
    """One standard query per name, with a description where one is given."""
    return [Query.about(name, (descriptions or {}).get(name, "")) for name in names]


def zero_shot(system: System, data: Parts, names: Sequence[str] = ENTITIES) -> dict[str, Any]:
    """Zero-shot AUC per entity and macro on the test part, and mean max-F1 with thresholds from val and from test (C-3)."""
    queries = queries_about(names)
    scores = {part: score_dataset(system, getattr(data, part), queries) for part in ("val", "test")}
    return recognition_table(data, scores, names)


def recognition_table(data: Parts, scores: dict[str, np.ndarray], names: Sequence[str] = ENTITIES) -> dict[str, Any]:
    """The same from scores (N, Q) of "val" and "test", whoever gave them."""
    labels = {part: getattr(data, part).labels for part in scores}
    table = auc_table(labels["test"], scores["test"], names, groups=patients_of(data.test))
    return {
        "macro_auc": asdict(table.macro),
        "auc": {name: asdict(interval) for name, interval in table.per_class.items()},
        "max_f1_threshold_from_val": mean_max_f1(labels, scores)["f1"],
        "max_f1_threshold_from_test": mean_max_f1(labels, scores, "test")["f1"],
    }


def macro_auc_on_val(system: System, data: Parts) -> float:
    """Macro zero-shot AUC on the validation part: the point of a validation curve."""
    scores = score_dataset(system, data.val, queries_about(ENTITIES))
    return float(np.nanmean([auc(*pair) for pair in zip(data.val.labels.T, scores.T)]))


@lru_cache(maxsize=4)
def unseen_studies(count: int = UNSEEN_STUDIES, seed: int = UNSEEN_SEED, size: int = 112) -> StudyDataset:
    """Phantoms of which half have the disease that no training image or report shows; it is their one label."""
    studies = make_studies(count, seed=seed, size=size, unseen=0.5)
    return StudyDataset(studies, size=size, entities=[UNSEEN])


def unseen_queries() -> dict[str, Query]:
    """The unseen disease asked by its "name" and by its "description", against the same normal sentences (K-13)."""
    by_name = Query.about(UNSEEN, UNSEEN)
    return {"name": by_name, "description": Query(UNSEEN, (describe(UNSEEN),), by_name.negative, describe(UNSEEN))}


def unseen_disease(system: System, dataset: StudyDataset | None = None) -> dict[str, Any]:
    """AUC on the unseen disease, asked by name and by description; intervals draw patients whole.

    ``dataset`` has the disease as its one label; by default ``unseen_studies()``.
    """
    dataset = dataset or unseen_studies()
    return {
        kind: asdict(
            auc_table(
                dataset.labels, score_dataset(system, dataset, [query]), [UNSEEN], groups=patients_of(dataset)
            ).macro
        )
        for kind, query in unseen_queries().items()
    }

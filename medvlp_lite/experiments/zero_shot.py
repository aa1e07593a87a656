"""Zero-shot recognition, grounding and the unseen disease: the baseline, its bound, and MedKLIP with its ablations.

Built in chapters 03_contrastive_baseline and 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from medvlp_lite.evaluation.classification import auc_table, image_batches, max_f1, queries_about, score_dataset
from medvlp_lite.evaluation.grounding import (
    average_lesion,
    best_threshold,
    centre_box,
    pointing_game,
    random_maps,
    score_grounding,
)
from medvlp_lite.experiments.base import EXPERIMENTS, IMAGE_SIZE, Experiment, PhantomData, Profile, phantom_data
from medvlp_lite.phantom.corpus import make_studies
from medvlp_lite.phantom.patients import ENTITIES, UNSEEN
from medvlp_lite.reports.knowledge import describe
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.convirt import ConVIRT
from medvlp_lite.systems.medklip import MedKLIP
from medvlp_lite.systems.supervised import Supervised
from medvlp_lite.training import TrainingConfig

MAX_STUDIES, MAX_STEPS = 9000, 1000
CROP = 0.5  # chosen on validation phantoms; 0.2 in the official MedKLIP code


def zero_shot(system: System, data: PhantomData, names: Sequence[str] = ENTITIES) -> dict[str, Any]:
    """Zero-shot AUC per entity and macro on the test part, and mean max-F1 with thresholds from val and from test (C-3)."""
    queries = queries_about(names)
    val, test = score_dataset(system, data.val, queries), score_dataset(system, data.test, queries)
    table = auc_table(data.test.labels, test, names, groups=[study.patient_id for study in data.test.studies])
    f1 = {
        source: [
            max_f1((data.test.labels[:, c], test[:, c]), (data.val.labels[:, c], val[:, c]), source).f1
            for c in range(len(names))
            if (data.val.labels[:, c] == 1).any() and (data.test.labels[:, c] == 1).any()
        ]
        for source in ("val", "test")
    }
    return {
        "macro_auc": asdict(table.macro),
        "auc": {name: asdict(interval) for name, interval in table.per_class.items()},
        "max_f1_threshold_from_val": float(np.mean(f1["val"])) if f1["val"] else float("nan"),
        "max_f1_threshold_from_test": float(np.mean(f1["test"])) if f1["test"] else float("nan"),
    }


@torch.no_grad()
def heatmaps(system: System, dataset: StudyDataset, name: str) -> np.ndarray:
    """The system's maps of every image for one entity: (N, h, w)."""
    query = queries_about([name])
    maps = [system.heatmap(images, query)[:, 0].float().cpu() for images in image_batches(dataset, system.device)]
    return torch.cat(maps).numpy()


def grounding(system: System, data: PhantomData, names: Sequence[str] = ENTITIES, limit: int = 150) -> dict[str, Any]:
    """Grounding per entity on the first ``limit`` positive test studies, beside baselines that never look (C-4).

    Thresholds come from validation studies, the average lesion map from training studies. An entity without positive
    studies in a part is left out.
    """
    scores: dict[str, Any] = {}
    for name in names:
        found = {part: positive_studies(getattr(data, part), name, limit) for part in ("train", "val", "test")}
        if not all(found.values()):
            continue
        regions = {part: [region for _, region in rows] for part, rows in found.items()}
        heats = {
            part: heatmaps(system, getattr(data, part).subset([i for i, _ in found[part]]), name)
            for part in ("val", "test")
        }
        count, grid = len(found["test"]), heats["test"].shape[-1]
        baselines = {
            "random": random_maps(count, grid),
            "centre": np.repeat(centre_box(grid)[None], count, axis=0),
            "average lesion": np.repeat(average_lesion(regions["train"], grid)[None], count, axis=0),
        }
        threshold = best_threshold(heats["val"], regions["val"], steps=50)
        scores[name] = asdict(score_grounding(heats["test"], regions["test"], threshold))
        scores[name]["baselines"] = {
            kind: float(np.mean([pointing_game(heat, region) for heat, region in zip(maps, regions["test"])]))
            for kind, maps in baselines.items()
        }
    return scores


def positive_studies(dataset: StudyDataset, name: str, limit: int) -> list[tuple[int, np.ndarray]]:
    """Place and region (H, W) of the first ``limit`` studies in which this entity is present and its place known."""
    rows = []
    for index, study in enumerate(dataset.studies):
        region = study.region(name, IMAGE_SIZE, IMAGE_SIZE) if study.label(name) == 1 else None
        if region is not None and region.any():
            rows.append((index, region))
        if len(rows) == limit:
            break
    return rows


def unseen_disease(system: System, count: int = 400, seed: int = 77) -> dict[str, Any]:
    """AUC on a disease that no training image or report showed, asked by name and by description (K-13)."""
    studies = make_studies(count, seed=seed, size=IMAGE_SIZE, unseen=0.5)
    dataset = StudyDataset(studies, size=IMAGE_SIZE, entities=[UNSEEN])
    by_name = Query.about(UNSEEN, UNSEEN)
    asked = {"name": by_name, "description": Query(UNSEEN, (describe(UNSEEN),), by_name.negative, describe(UNSEEN))}
    results = {}
    for kind, query in asked.items():
        table = auc_table(dataset.labels, score_dataset(system, dataset, [query]), [UNSEEN])
        results[kind] = asdict(table.macro)
    return results


def zero_shot_measures(system: System, data: PhantomData) -> dict[str, Any]:
    """What is recorded of one seed: zero-shot recognition, grounding, and the unseen disease."""
    return {**zero_shot(system, data), "grounding": grounding(system, data), "unseen": unseen_disease(system)}


def _convirt(data: PhantomData) -> System:
    return ConVIRT(data.tokenizer(), image_size=IMAGE_SIZE)


def _supervised(data: PhantomData) -> System:
    return Supervised(data.tokenizer(), entities=ENTITIES, image_size=IMAGE_SIZE)


def _medklip(**options: Any):
    return lambda data: MedKLIP(data.tokenizer(), entities=ENTITIES, image_size=IMAGE_SIZE, **options)


def zero_shot_data(scale: Profile) -> PhantomData:
    """The scale's phantoms, up to 9,000 of them below the profile "full"."""
    return phantom_data(max(min(scale.studies, MAX_STUDIES), scale.studies // 4))


def _steps(scale: Profile) -> int:
    return max(min(scale.steps, MAX_STEPS), scale.steps // 2)


def _plain_plan(learning_rate: float) -> Callable[[Profile, int], TrainingConfig]:
    return lambda scale, seed: TrainingConfig(
        _steps(scale), scale.batch_size, learning_rate, precision=scale.precision, seed=seed
    )


def _decoder_plan(crop: float) -> Callable[[Profile, int], TrainingConfig]:
    """As many images as the baseline sees, in twice the steps: a decoder converges by their number."""
    return lambda scale, seed: TrainingConfig(
        2 * _steps(scale), scale.batch_size // 2, 1e-3, precision=scale.precision, crop=crop, seed=seed
    )


EXPERIMENTS["convirt"] = Experiment(_convirt, _plain_plan(1e-3), zero_shot_measures, data=zero_shot_data)
EXPERIMENTS["supervised"] = Experiment(
    _supervised,
    _plain_plan(2e-3),
    lambda system, data: {**zero_shot(system, data), "grounding": grounding(system, data)},
)
for _name, (_options, _crop) in {
    "medklip": ({}, CROP),
    "medklip_names": ({"use_descriptions": False}, CROP),
    "medklip_names_no_position": ({"use_descriptions": False, "position_weight": 0.0}, CROP),
    "medklip_no_crop": ({}, 1.0),
}.items():
    EXPERIMENTS[_name] = Experiment(_medklip(**_options), _decoder_plan(_crop), zero_shot_measures, data=zero_shot_data)

"""The experiments behind the book's figures, written once: chapters run them live and small, the command line in full.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.evaluation.classification import (
    auc_table,
    image_batches,
    max_f1,
    mean_and_spread,
    queries_about,
    score_dataset,
)
from medvlp_lite.evaluation.grounding import (
    average_lesion,
    best_threshold,
    centre_box,
    pointing_game,
    random_maps,
    score_grounding,
)
from medvlp_lite.phantom.corpus import make_studies
from medvlp_lite.phantom.patients import ENTITIES, UNSEEN
from medvlp_lite.provenance import PACKAGE, RunRecord
from medvlp_lite.reports.knowledge import describe
from medvlp_lite.reports.sections import describing_text
from medvlp_lite.studies import StudyDataset, split_by_patient
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.convirt import ConVIRT
from medvlp_lite.systems.medklip import MedKLIP
from medvlp_lite.systems.supervised import Supervised
from medvlp_lite.training import History, TrainingPlan, train_or_load

IMAGE_SIZE = 112
SPLIT_FRACTIONS = (0.75, 0.1, 0.15)


@dataclass(frozen=True)
class Scale:
    """How large an experiment is: studies drawn, optimiser steps, batch, and how many seeds."""

    studies: int
    steps: int
    batch_size: int
    seeds: int


SCALES = {
    "smoke": Scale(studies=320, steps=4, batch_size=16, seeds=1),
    "read": Scale(studies=3000, steps=220, batch_size=64, seeds=1),
    "long": Scale(studies=9000, steps=1000, batch_size=64, seeds=3),
    "full": Scale(studies=60000, steps=20000, batch_size=128, seeds=5),
}


@dataclass(frozen=True)
class PhantomData:
    """Phantoms in three parts, split by patient; labels of train and val are the truth, reports say part of it."""

    train: StudyDataset
    val: StudyDataset
    test: StudyDataset
    split: str


@lru_cache(maxsize=2)
def phantom_data(studies: int, seed: int = 0, style: str = "varied") -> PhantomData:
    """Draw ``studies`` phantoms and split them by patient. The same numbers give the same pixels on every machine."""
    drawn = make_studies(studies, seed=seed, size=IMAGE_SIZE, style=style)
    splits = split_by_patient(drawn, SPLIT_FRACTIONS, seed=seed)
    whole = StudyDataset(drawn, size=IMAGE_SIZE, entities=ENTITIES)
    return PhantomData(
        *(whole.subset(getattr(splits, part)) for part in ("train", "val", "test")), split=splits.fingerprint
    )


def builder(name: str, data: PhantomData) -> Callable[[], System]:
    """A function that makes an untrained system of this name for this data. Raises ValueError for an unknown name."""
    tokenizer = ReportTokenizer.train([describing_text(report) for report in data.train.reports])
    medklip = partial(MedKLIP, tokenizer, entities=ENTITIES, image_size=IMAGE_SIZE)
    builders: dict[str, Callable[[], System]] = {
        "convirt": partial(ConVIRT, tokenizer, image_size=IMAGE_SIZE),
        "supervised": partial(Supervised, tokenizer, entities=ENTITIES, image_size=IMAGE_SIZE),
        "medklip": medklip,
        "medklip_names": partial(medklip, use_descriptions=False),
        "medklip_names_no_position": partial(medklip, use_descriptions=False, position_weight=0.0),
    }
    if name not in builders:
        raise ValueError(f"no system {name!r}; use one of {', '.join(sorted(builders))}")
    return builders[name]


def plan_for(name: str, scale: Scale, seed: int) -> TrainingPlan:
    """The training plan of a system at a scale; all take about the same time on a laptop.

    A decoder converges by the number of its steps, a contrastive loss by the size of its batch: MedKLIP takes half the
    batch and 1.2 times the steps, so it sees fewer images, not more.
    """
    entity_wise = name.startswith("medklip")
    return TrainingPlan(
        steps=math.ceil(scale.steps * 1.2) if entity_wise else scale.steps,
        batch_size=scale.batch_size // 2 if entity_wise else scale.batch_size,
        learning_rate=2e-3 if name == "supervised" else 1e-3,
        seed=seed,
    )


def train_system(
    name: str, data: PhantomData, scale: Scale, seed: int = 0, report: Callable[[str], None] | None = print
) -> tuple[System, History]:
    """Train a system at a scale, or load it from the cache."""
    return train_or_load(builder(name, data), data.train, plan_for(name, scale, seed), report=report)


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
        found = {part: _positive(getattr(data, part), name, limit) for part in ("train", "val", "test")}
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


def _positive(dataset: StudyDataset, name: str, limit: int) -> list[tuple[int, np.ndarray]]:
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


def scale_of(profile: str) -> Scale:
    """The scale of a profile. Raises ValueError naming the profiles."""
    if profile not in SCALES:
        raise ValueError(f"no profile {profile!r}; use one of {', '.join(SCALES)}")
    return SCALES[profile]


def run(
    name: str, profile: str, *, seeds: Sequence[int] | None = None, report: Callable[[str], None] | None = print
) -> tuple[RunRecord, System]:
    """Train and evaluate one system over several seeds on the same data.

    Returns the record, with every seed and the spread, and the system of the first seed. Raises ValueError for an unknown
    system or profile.
    """
    scale = scale_of(profile)
    seeds = list(seeds if seeds is not None else range(scale.seeds))
    data = phantom_data(scale.studies)
    settings = {**asdict(scale), "image_size": IMAGE_SIZE, "split": data.split, "test_studies": len(data.test)}
    record = RunRecord.start(name, profile=profile, seeds=seeds, data=data.train.fingerprint(), settings=settings)
    runs, first = [], None
    for seed in seeds:
        system, history = train_system(name, data, scale, seed, report)
        first = first or system
        one = {"seed": seed, "train_seconds": round(history.seconds, 1), **zero_shot(system, data)}
        one["grounding"] = grounding(system, data)
        if name != "supervised":
            one["unseen"] = unseen_disease(system)
        runs.append(one)
    macro = [one["macro_auc"]["value"] for one in runs]
    record.metrics = {"macro_auc_over_seeds": asdict(mean_and_spread(macro)), "runs": runs}
    return record.finish(), first


def results_folder() -> Path:
    """Where the committed records stand: inside an installed package, or in ``book/results`` of a checkout."""
    installed = PACKAGE / "results"
    return installed if installed.is_dir() else PACKAGE.parent / "book" / "results"


def committed(name: str, profile: str = "long") -> RunRecord | None:
    """The committed record of a run, or None when there is none."""
    path = results_folder() / f"{name}-{profile}.json"
    return RunRecord.load(path) if path.is_file() else None


WEIGHTS = PACKAGE / "weights"


def reference(name: str) -> System | None:
    """The committed reference weights of a system (first seed of its long run), or None when there are none.

    Raises ValueError when the file is not the one whose hash was committed with it.
    """
    folder = WEIGHTS / name
    if not (folder / "config.json").is_file():
        return None
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != json.loads((WEIGHTS / "sha256.json").read_text(encoding="utf-8")).get(name):
        raise ValueError(f"{folder / 'model.safetensors'} is not the committed file; restore it from the repository")
    return System.from_pretrained(folder)

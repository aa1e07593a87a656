"""What every experiment shares: how large it is, its phantoms, its training, its record, its committed weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.evaluation.classification import mean_ci
from medvlp_lite.phantom.corpus import make_studies
from medvlp_lite.phantom.patients import ENTITIES
from medvlp_lite.records.record import PACKAGE, RunRecord
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import StudyDataset, split_by_patient
from medvlp_lite.systems.base import System
from medvlp_lite.training import History, TrainingConfig, train_or_load

IMAGE_SIZE = 112
SPLIT_FRACTIONS = (0.75, 0.1, 0.15)
Log = Callable[[str], None]


@dataclass(frozen=True)
class Profile:
    """How large an experiment is: studies drawn, optimiser steps, batch, how many seeds, and Accelerate's precision."""

    studies: int
    steps: int
    batch_size: int
    seeds: int
    precision: str = "no"


PROFILES = {
    "smoke": Profile(studies=320, steps=4, batch_size=16, seeds=1),
    "read": Profile(studies=3000, steps=220, batch_size=64, seeds=1),
    "long": Profile(studies=20000, steps=1500, batch_size=64, seeds=3, precision="bf16"),
    "full": Profile(studies=60000, steps=20000, batch_size=128, seeds=5, precision="bf16"),
}


def profile_of(profile: str) -> Profile:
    """The scale of a profile. Raises ValueError naming the profiles."""
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}; use one of {', '.join(PROFILES)}")
    return PROFILES[profile]


@dataclass(frozen=True)
class PhantomData:
    """Phantoms in three parts, split by patient; labels of train and val are the truth, reports say part of it."""

    train: StudyDataset
    val: StudyDataset
    test: StudyDataset
    split: str

    def tokenizer(self) -> ReportTokenizer:
        """A word-piece tokenizer trained on the training reports."""
        return ReportTokenizer.train([findings_text(report) for report in self.train.reports])


@lru_cache(maxsize=2)
def phantom_data(studies: int, seed: int = 0, style: str = "varied") -> PhantomData:
    """Draw ``studies`` phantoms and split them by patient. The same numbers give the same pixels on every machine."""
    drawn = make_studies(studies, seed=seed, size=IMAGE_SIZE, style=style)
    splits = split_by_patient(drawn, SPLIT_FRACTIONS, seed=seed)
    whole = StudyDataset(drawn, size=IMAGE_SIZE, entities=ENTITIES)
    return PhantomData(
        *(whole.subset(getattr(splits, part)) for part in ("train", "val", "test")), split=splits.fingerprint
    )


@dataclass(frozen=True)
class Experiment:
    """One named row of the records: how its system is made, trained and measured, and on which phantoms.

    ``build(data)`` gives an untrained system, ``plan(scale, seed)`` its training, ``measure(system, data)`` what is written
    about one seed. ``train`` replaces the plain training by another, for a system with two stages; ``data(scale)``
    draws other phantoms than the standard ones.
    """

    build: Callable[[PhantomData], System]
    plan: Callable[[Profile, int], TrainingConfig]
    measure: Callable[[System, PhantomData], dict[str, Any]]
    train: Callable[[PhantomData, Profile, int, Log | None], tuple[System, History]] | None = None
    data: Callable[[Profile], PhantomData] = lambda scale: phantom_data(scale.studies)


EXPERIMENTS: dict[str, Experiment] = {}
"""Every experiment by name; each module of this room adds its own."""


def experiment(name: str) -> Experiment:
    """The experiment of this name. Raises ValueError naming those there are."""
    if name not in EXPERIMENTS:
        raise ValueError(f"no system {name!r}; use one of {', '.join(sorted(EXPERIMENTS))}")
    return EXPERIMENTS[name]


def builder(name: str, data: PhantomData) -> Callable[[], System]:
    """A function that makes an untrained system of this name for this data. Raises ValueError for an unknown name."""
    build = experiment(name).build
    return lambda: build(data)


def plan_for(name: str, scale: Profile, seed: int) -> TrainingConfig:
    """The training plan of a system at a scale. Raises ValueError for an unknown name."""
    return experiment(name).plan(scale, seed)


def train_system(
    name: str, data: PhantomData, scale: Profile, seed: int = 0, log: Log | None = print
) -> tuple[System, History]:
    """Train a system at a scale, or load it from the cache. Raises ValueError for an unknown name."""
    special = experiment(name).train
    if special:
        return special(data, scale, seed, log)
    return train_or_load(builder(name, data), data.train, plan_for(name, scale, seed), log=log)


def run(
    name: str, profile: str, *, seeds: Sequence[int] | None = None, log: Log | None = print
) -> tuple[RunRecord, System]:
    """Train and evaluate one system over several seeds on the same data.

    Returns the record, with every seed and the spread, and the system of the first seed. Raises ValueError for an unknown
    system or profile.
    """
    scale, chosen = profile_of(profile), experiment(name)
    seeds = list(seeds if seeds is not None else range(scale.seeds))
    data = chosen.data(scale)
    plan = asdict(chosen.plan(scale, 0))
    settings = {**asdict(scale), "plan": plan, "image_size": IMAGE_SIZE, "split": data.split}
    settings |= {"studies": len(data.train) + len(data.val) + len(data.test), "test_studies": len(data.test)}
    record = RunRecord.start(name, profile=profile, seeds=seeds, data=data.train.fingerprint(), settings=settings)
    runs, first = [], None
    for seed in seeds:
        system, history = train_system(name, data, scale, seed, log)
        first = first or system
        runs.append({"seed": seed, "train_seconds": round(history.seconds, 1), **chosen.measure(system, data)})
        if log:
            log(f"seed {seed} measured")
    record.metrics = {"runs": runs}
    if all("macro_auc" in one for one in runs):
        macro = [one["macro_auc"]["value"] for one in runs]
        record.metrics = {"macro_auc_over_seeds": asdict(mean_ci(macro)), "runs": runs}
    return record.finish(), first


def results_folder() -> Path:
    """Where the committed records stand: inside an installed package, or in ``book/results`` of a checkout."""
    installed = PACKAGE / "results"
    return installed if installed.is_dir() else PACKAGE.parent / "book" / "results"


def load_record(name: str, profile: str = "long") -> RunRecord | None:
    """The committed record of a run, or None when there is none."""
    path = results_folder() / f"{name}-{profile}.json"
    return RunRecord.load(path) if path.is_file() else None


WEIGHTS = PACKAGE / "weights"


def load_pretrained(name: str) -> System | None:
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

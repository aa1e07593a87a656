"""Which phantoms a row learns from and is tested on, split by patient; and the same for studies of one's own.

Built in chapters 03_contrastive_baseline and 07_prototype_alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.experiments.profiles import Profile
from medvlp_lite.phantom.corpus import make_studies
from medvlp_lite.phantom.patients import ENTITIES
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import SPLITS, Study, StudyDataset, split_by_patient
from medvlp_lite.systems.mskpt_staging import DISEASE

IMAGE_SIZE = 112
SPLIT_FRACTIONS = (0.75, 0.1, 0.15)
STAGE_SHARES = (0.4, 0.25, 0.2, 0.15)  # of stages 0 to 3 among first visits of a screening
COMORBIDITY = 0.08  # share of the other findings in a screening, each


@dataclass(frozen=True)
class PhantomData:
    """Studies in three parts, split by patient; labels of val and test are the truth, reports say part of it."""

    train: StudyDataset
    val: StudyDataset
    test: StudyDataset
    split: str

    def tokenizer(self, words: Sequence[str] = ()) -> ReportTokenizer:
        """A word-piece tokenizer trained on the training reports, and on further ``words``."""
        return ReportTokenizer.train([*map(findings_text, self.train.reports), *words])

    def counts(self) -> dict[str, Any]:
        """How many studies stand in each part, and the split's fingerprint."""
        return {**{part: len(getattr(self, part)) for part in SPLITS}, "split": self.split}


@lru_cache(maxsize=2)
def phantom_data(studies: int, seed: int = 0, size: int = IMAGE_SIZE) -> PhantomData:
    """Draw ``studies`` phantoms and split them by patient. The same numbers give the same pixels on every machine."""
    return _in_parts(make_studies(studies, seed=seed, size=size), size, seed)


@lru_cache(maxsize=2)
def screening_data(studies: int, seed: int = 0, size: int = IMAGE_SIZE, repeat: float = 0.0) -> PhantomData:
    """Phantoms of a pneumoconiosis screening: four stages in unequal shares, other findings in 8 % each.

    A share ``repeat`` of the reports tells the stage alone, word for word.
    """
    shares = {"prevalence": COMORBIDITY, "stage_prevalence": STAGE_SHARES, "repeat": repeat}
    drawn = make_studies(studies, seed=seed, size=size, **shares)
    return _in_parts(drawn, size, seed)


def _in_parts(drawn: Sequence[Study], size: int, seed: int) -> PhantomData:
    splits = split_by_patient(drawn, SPLIT_FRACTIONS, seed=seed)
    whole = StudyDataset(drawn, size=size, entities=ENTITIES)
    return PhantomData(*(whole.subset(getattr(splits, part)) for part in SPLITS), split=splits.fingerprint)


@dataclass(frozen=True)
class Draw:
    """A row's phantoms, as many as its profile says."""

    screening: bool = False
    labels: float = 1.0  # share of the training stages that are told
    noise: float = 0.0  # share of those that are a neighbour's
    repeat: float = 0.0  # share of a screening's reports that repeat word for word
    seed: int = 0  # of the draw of seed 0; the others follow it

    def data(self, profile: Profile, size: int, seed: int = 0) -> PhantomData:
        """The phantoms of a seed, which has a draw of its own, with all labels; the same object for rows that share a draw."""
        drawn = profile.studies, self.seed + seed, size
        return screening_data(*drawn, self.repeat) if self.screening else phantom_data(*drawn)

    def definition(self, profile: Profile, size: int) -> dict[str, Any]:
        """What decides the draw, with the number that is drawn."""
        return {"studies": profile.studies, "image_size": size, **asdict(self)}


def with_labels(dataset: StudyDataset, fraction: float = 1.0, noise: float = 0.0, seed: int = 0) -> StudyDataset:
    """The same studies, of which only a share of each stage keeps its label, and of those a share ``noise`` a neighbour's.

    A smaller fraction is a part of a larger one of the same seed. Stage -1 marks no label. Raises ValueError for a fraction
    outside (0, 1] or noise outside [0, 1].
    """
    if not 0 < fraction <= 1 or not 0 <= noise <= 1:
        raise ValueError(f"need 0 < fraction <= 1 and 0 <= noise <= 1, got {fraction} and {noise}")
    rng, truth = np.random.default_rng(seed), dataset.stages
    order = [rng.permutation(np.flatnonzero(truth == k)) for k in np.unique(truth[truth >= 0])]
    given = np.full(len(truth), -1)
    for rows in order:
        rows = rows[: int(np.ceil(fraction * len(rows)))]
        given[rows] = truth[rows]
    wrong, step = rng.random(len(truth)) < noise, rng.choice([-1, 1], len(truth))
    moved = np.where(given == 0, 1, np.where(given == truth.max(), given - 1, given + step))
    given = np.where((given >= 0) & wrong, moved, given)
    studies = [replace(study, stage=None if k < 0 else int(k)) for study, k in zip(dataset.studies, given)]
    return dataset.with_studies(studies)


def shuffled_pairs(dataset: StudyDataset, seed: int, parts: Sequence[str] = ("report",)) -> StudyDataset:
    """The same images, each with the ``parts`` of another study, drawn at random: a negative control for what reads them."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist()))
    return dataset.with_studies([
        replace(study, **{part: getattr(dataset.studies[other[i]], part) for part in parts})
        for i, study in enumerate(dataset.studies)
    ])  # fmt: skip


def split_custom(studies: Sequence[Study], seed: int = 0, size: int = IMAGE_SIZE) -> PhantomData:
    """One's own studies, as ``sources.pneumocxr`` loads them, in the three parts that training and measuring take.

    The parts are those that every study's ``meta["split"]`` names, else a split by patient. Studies without stage serve in training only.
    Raises ValueError when a part is empty, a patient stands in two, or a stage is missing in training.
    """
    named = [study.meta.get("split") for study in studies]
    splits = split_by_patient(studies, SPLIT_FRACTIONS, seed)
    parts = {part: list(getattr(splits, part)) for part in SPLITS}
    if all(named):
        parts = {part: [i for i, name in enumerate(named) if name == part] for part in SPLITS}
    parts |= {part: [i for i in parts[part] if studies[i].stage is not None] for part in ("val", "test")}
    owners = [{studies[i].patient_id for i in rows} for rows in parts.values()]
    if not all(owners) or len(set.union(*owners)) < sum(map(len, owners)):
        raise ValueError(
            "train, val and test must each have studies, and no patient of another; correct the column split"
        )
    if missing := {0, 1, 2, 3} - {studies[i].stage for i in parts["train"]}:
        raise ValueError(f"training has no study of stage {min(missing)}; add one, or move one there")
    whole = StudyDataset(studies, size=size, entities=(DISEASE,))
    return PhantomData(*(whole.subset(parts[part]) for part in SPLITS), split=splits.fingerprint)

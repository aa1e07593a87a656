"""Phantoms of a pneumoconiosis screening: four stages in unequal shares, with other findings as distractors.

Built in chapters 07_prototype_alignment and 08_uncertainty_staging.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from medvlp_lite.experiments.base import IMAGE_SIZE, SPLIT_FRACTIONS, PhantomData, Profile
from medvlp_lite.phantom.corpus import make_studies
from medvlp_lite.phantom.patients import ENTITIES
from medvlp_lite.studies import StudyDataset, split_by_patient

STAGES = ("stage 0", "stage I", "stage II", "stage III")
STAGE_SHARES = (0.4, 0.25, 0.2, 0.15)
COMORBIDITY = 0.08
MAX_STUDIES = 8000


def stage_data(scale: Profile) -> PhantomData:
    """The screening's phantoms at a scale, split by patient: 8,000 or a quarter of the scale's, other findings in 8 % each.

    Stages 0 to 3 have the shares 0.40, 0.25, 0.20 and 0.15 among first visits.
    """
    return _screening(max(min(scale.studies, MAX_STUDIES), scale.studies // 4))


@lru_cache(maxsize=2)
def _screening(studies: int, seed: int = 0) -> PhantomData:
    drawn = make_studies(studies, seed=seed, size=IMAGE_SIZE, prevalence=COMORBIDITY, stage_prevalence=STAGE_SHARES)
    splits = split_by_patient(drawn, SPLIT_FRACTIONS, seed=seed)
    whole = StudyDataset(drawn, size=IMAGE_SIZE, entities=ENTITIES)
    parts = (whole.subset(getattr(splits, part)) for part in ("train", "val", "test"))
    return PhantomData(*parts, split=splits.fingerprint)


def stages(dataset: StudyDataset) -> np.ndarray:
    """The stage of every study, int (N,), 0 to 3; -1 where a study has none."""
    return dataset.stages

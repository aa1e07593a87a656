"""A real ordinal task with two readers: Brixia's six zone grades, judged by patient and beside the readers' own agreement.

Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medvlp_lite.evaluation import staging as st
from medvlp_lite.evaluation.inference import answer_images
from medvlp_lite.evaluation.intervals import interval_of
from medvlp_lite.evaluation.linear_probe import cross_validated
from medvlp_lite.studies import Box, Study, StudyDataset
from medvlp_lite.systems.base import System

ZONES = "ABCDEF"
USUAL_LUNGS = Box(0.08, 0.1, 0.84, 0.72)  # where no lung mask is at hand
CLASSES = 4
IMAGE_SIZE = 112


@dataclass(frozen=True)
class Zones:
    """Every graded zone of N studies as one row: features (6N, C), grades of each reader (6N,), patient and place (6N,)."""

    features: np.ndarray
    grades: dict[str, np.ndarray]
    patients: np.ndarray
    place: np.ndarray


def zone_boxes(study: Study) -> list[Box]:
    """The six zones of Brixia, A to F: the box around the lungs, in halves and thirds; image left is the patient's right.

    The box comes from the study's lung mask where it has one that is not empty, else it is a usual one. The thirds are ours: radiologists
    go by the aortic arch and the hilum.
    """
    box = USUAL_LUNGS
    for name in ("lung_mask", "model_lung_mask"):
        mask = study.meta[name]() if study.meta.get(name) else None
        if mask is not None and mask.any():
            (top, bottom), (left, right) = ((np.flatnonzero(mask.any(axis=k))[[0, -1]] + [0, 1]) for k in (1, 0))
            box = Box.from_pixels(left, top, right - left, bottom - top, image_size=mask.shape[::-1])
            break
    width, height = box.width / 2, box.height / 3
    return [Box(box.x + column * width, box.y + row * height, width, height) for column in range(2) for row in range(3)]


def zone_features(studies: Sequence[Study], system: System | None = None, size: int = IMAGE_SIZE) -> Zones:
    """What is known of each zone: the mean of the system's local features inside it, and which zone it is.

    Without a system, three grey values: the zone's mean and spread, and its mean against the whole image's; ``features`` of width
    9 then, else C + 6.
    """
    dataset = StudyDataset(studies, size=size)
    if system is None:
        maps = dataset.images[:, None].astype(float) / 255
    else:
        maps = answer_images(system, dataset, system.image_features)
    rows = []
    for own, study in zip(maps, studies):
        inside = [own[:, box.mask(*own.shape[1:])] for box in zone_boxes(study)]
        rows += [zone.mean(1) if system else [zone.mean(), zone.std(), zone.mean() - own.mean()] for zone in inside]
    place = np.tile(np.arange(len(ZONES)), len(studies))
    scores = [study.meta["brixia"] for study in studies]
    grades = {reader: np.array([score[reader][zone] for score in scores for zone in ZONES]) for reader in scores[0]}
    patients = np.repeat([study.patient_id for study in studies], len(ZONES))
    return Zones(np.hstack([np.asarray(rows, dtype=float), np.eye(len(ZONES))[place]]), grades, patients, place)


def grade_zones(studies: Sequence[Study], systems: dict[str, System | None], reader: str = "senior") -> dict[str, Any]:
    """How well each system's features grade zones like ``reader``, by patient-level cross-validation, beside the other reader.

    For each name, and for "zone only" (which zone it is, no image) and "other reader": quadratic kappa, accuracy and mean
    absolute difference with 95 % intervals from whole patients; for models also calibration and the area under
    risk-coverage. A system None stands for grey values.
    """
    results: dict[str, Any] = {}
    for name, system in {**systems, "zone only": None}.items():
        zones = zone_features(studies, system)
        features = zones.features[:, -len(ZONES) :] if name == "zone only" else zones.features
        truth = zones.grades[reader]
        answers = cross_validated(features, truth, zones.patients, CLASSES)
        found = _agreement(truth, answers.argmax(1), zones.patients)
        found["calibration_error"] = st.calibration_error(truth, answers)
        found["aurc"] = st.aurc(1 - answers.max(1), answers.argmax(1) == truth)
        results[name] = found
    other = next(name for name in zones.grades if name != reader)
    results["other reader"] = _agreement(truth, zones.grades[other], zones.patients)
    return results


def _agreement(truth: np.ndarray, answer: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    measures = {
        "kappa": lambda a, b: st.quadratic_kappa(a, b, CLASSES),
        "accuracy": lambda a, b: float(np.mean(a == b)),
        "difference": lambda a, b: float(np.mean(np.abs(a - b))),
    }
    return {name: asdict(interval_of(f, truth, answer, groups=patients)) for name, f in measures.items()}

"""A real ordinal task with two readers: Brixia's six zone grades, judged by patient and beside the readers' own agreement.

Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from medvlp_lite.evaluation import staging as st
from medvlp_lite.evaluation.classification import image_batches
from medvlp_lite.experiments.base import IMAGE_SIZE
from medvlp_lite.studies import Box, Study, StudyDataset
from medvlp_lite.systems.base import System

ZONES = "ABCDEF"
USUAL_LUNGS = Box(0.08, 0.1, 0.84, 0.72)  # where no lung mask is at hand
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
CLASSES = 4


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


@torch.no_grad()
def zone_features(studies: Sequence[Study], system: System | None = None) -> Zones:
    """What is known of each zone: the mean of the system's local features inside it, and which zone it is.

    Without a system, three grey values: the zone's mean and spread, and its mean against the whole image's; ``features`` of width
    9 then, else C + 6.
    """
    dataset = StudyDataset(studies, size=IMAGE_SIZE)
    if system is None:
        maps = dataset.images[:, None].astype(float) / 255
    else:
        system.eval()
        batches = image_batches(dataset, system.device)
        maps = torch.cat([system.image_features(images).float().cpu() for images in batches]).numpy()
    rows = []
    for own, study in zip(maps, studies):
        inside = [own[:, box.mask(*own.shape[1:])] for box in zone_boxes(study)]
        rows += [zone.mean(1) if system else [zone.mean(), zone.std(), zone.mean() - own.mean()] for zone in inside]
    place = np.tile(np.arange(len(ZONES)), len(studies))
    scores = [study.meta["brixia"] for study in studies]
    grades = {reader: np.array([score[reader][zone] for score in scores for zone in ZONES]) for reader in scores[0]}
    patients = np.repeat([study.patient_id for study in studies], len(ZONES))
    return Zones(np.hstack([np.asarray(rows, dtype=float), np.eye(len(ZONES))[place]]), grades, patients, place)


def cross_validated(features: np.ndarray, grades: np.ndarray, patients: np.ndarray, folds: int = 5) -> np.ndarray:
    """Probabilities (N, 4) of every row from logistic regression that never saw a row of the same patient.

    Features are standardised, and the strength of regularisation is chosen, inside the training folds. Raises ValueError for fewer patients
    than folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(patients)) < 2 * folds:
        raise ValueError(f"{len(np.unique(patients))} patients are too few for {folds} folds; lower folds")
    answers = np.zeros((len(grades), CLASSES))
    for train, test in GroupKFold(folds).split(features, grades, patients):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        search = GridSearchCV(
            model, {"logisticregression__C": STRENGTHS}, cv=GroupKFold(3), scoring="neg_log_loss", error_score=-np.inf
        )
        search.fit(features[train], grades[train], groups=patients[train])
        answers[np.ix_(test, search.classes_)] = search.predict_proba(features[test])
    return answers


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
        answers = cross_validated(features, truth, zones.patients)
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
    return {name: asdict(st.interval_of(f, truth, answer, groups=patients)) for name, f in measures.items()}

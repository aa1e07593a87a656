"""The same patient without a finding, with more of it, with it on the other side: do score and map follow?

Only a phantom can be changed so, and only in what is asked about. Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvlp_lite.evaluation.inference import answer_images, score_dataset
from medvlp_lite.evaluation.zero_shot import queries_about
from medvlp_lite.phantom.corpus import study_from_patient
from medvlp_lite.phantom.patients import ENTITIES, Patient
from medvlp_lite.studies import SEVERITIES, StudyDataset
from medvlp_lite.systems.base import System

OTHER_SIDE = {"left": "right", "right": "left"}


def counterfactual(
    system: System, test: StudyDataset, names: Sequence[str] = ENTITIES, limit: int = 30
) -> dict[str, dict[str, float]]:
    """How score and map answer a change of one finding, in pairs of images of one patient; means over ``names``.

    "removed" and "regraded": "own", the share of pairs in which the finding's score is higher with it than without, and
    where it is severe than where it is mild (ties count half); "own_drop", the mean difference in standard deviations of that
    score. "moved" to the other side: "own", the share of pairs in which the map's largest cell was nearer to where the
    finding was, and then is nearer to where it now is (0 for a map that never changes). "others" and "others_drop" ask the
    same of all other names, of which nothing changed: about 0.5 and 0 for scores of a system that hears each question alone.

    The first ``limit`` studies of ``test`` with each finding serve that hold a phantom as ``meta["patient"]``. Raises
    ValueError when there are no two of them for any name.
    """
    found: dict[str, list[dict[str, float]]] = {"removed": [], "regraded": [], "moved": []}
    for place, name in enumerate(names):
        patients = [p for p in (study.meta.get("patient") for study in test.studies) if p and p.find(name)][:limit]
        if len(patients) < 2:
            continue
        mild, severe = ([p.regrade(name, level) for p in patients] for level in (SEVERITIES[0], SEVERITIES[-1]))
        pairs = {"removed": (patients, [p.remove(name) for p in patients]), "regraded": (severe, mild)}
        for change, pair in pairs.items():
            scores = [score_dataset(system, _dataset(test, part), queries_about(names)) for part in pair]
            found[change].append(_split(_higher(*scores), place))
        if aside := [p for p in patients if p.find(name).side in OTHER_SIDE]:
            moved = [p.move(name, side=OTHER_SIDE[p.find(name).side]) for p in aside]
            parts = [_dataset(test, part) for part in (aside, moved)]
            found["moved"].append(_split({"": _follows(system, *parts, name, names)}, place))
    if not found["removed"]:
        raise ValueError(f"no two studies show one of {', '.join(names)} in a patient that can be changed")
    return {
        change: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for change, rows in found.items() if rows
    }  # fmt: skip


def _dataset(like: StudyDataset, patients: Sequence[Patient]) -> StudyDataset:
    return like.with_studies([study_from_patient(patient, size=like.size) for patient in patients])


def _split(values: dict[str, np.ndarray], place: int) -> dict[str, float]:
    """Of values by query (Q,): that of the query at ``place``, and the mean of all others, where there are any."""
    own = {f"own{kind}": float(value[place]) for kind, value in values.items()}
    others = {
        f"others{kind}": float(np.delete(value, place).mean()) for kind, value in values.items() if len(value) > 1
    }
    return own | others


def _higher(more: np.ndarray, less: np.ndarray) -> dict[str, np.ndarray]:
    """Of scores (N, Q): the share of pairs that fall from ``more`` to ``less``, and the mean fall in standard deviations."""
    spread = np.concatenate([more, less]).std(axis=0)
    drop = (more - less).mean(axis=0) / np.where(spread > 0, spread, 1)
    return {"": ((more > less) + 0.5 * (more == less)).mean(axis=0), "_drop": drop}


def _follows(system: System, before: StudyDataset, after: StudyDataset, name: str, names: Sequence[str]) -> np.ndarray:
    """The share of pairs (Q,) in which the map of each name goes from where ``name`` was to where it is, across the image."""
    places = []
    for part in (before, after):
        maps = answer_images(system, part, lambda images: system.heatmap(images, queries_about(names)))
        regions = np.array([[study.region(name, part.size, part.size)] for study in part.studies])
        places += [_column(maps == maps.max(axis=(2, 3), keepdims=True)), _column(regions)]
    first, was, then, now = places
    return ((abs(first - was) < abs(first - now)) & (abs(then - now) < abs(then - was))).mean(axis=0)


def _column(masks: np.ndarray) -> np.ndarray:
    """How far right, from 0 to 1, the middle of masks (..., h, w) lies: (...)."""
    width = masks.shape[-1]
    return (masks * (np.arange(width) + 0.5)).sum(axis=(-2, -1)) / masks.sum(axis=(-2, -1)) / width

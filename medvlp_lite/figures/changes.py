"""One patient before and after one finding was changed: maps and scores beside each other.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from medvlp_lite.evaluation.counterfactual import OTHER_SIDE
from medvlp_lite.evaluation.inference import answer_images, score_dataset
from medvlp_lite.evaluation.zero_shot import queries_about
from medvlp_lite.figures.curves import WIDTH
from medvlp_lite.figures.grounding import draw_heatmap, heat_bar
from medvlp_lite.phantom.corpus import study_from_patient
from medvlp_lite.phantom.patients import Patient
from medvlp_lite.studies import SEVERITIES, StudyDataset
from medvlp_lite.systems.base import System


def changes_of(patient: Patient, name: str) -> dict[str, Patient]:
    """A patient as it is, without the finding ``name``, with it on the other side, and severe (mild where it is severe).

    Raises ValueError when the patient does not have it on one side.
    """
    if (found := patient.find(name)) is None or found.side not in OTHER_SIDE:
        raise ValueError(f"a patient with {name} on one side is needed")
    other = SEVERITIES[0 if found.severity == SEVERITIES[-1] else -1]
    return {
        found.severity: patient,
        "removed": patient.remove(name),
        "other side": patient.move(name, side=OTHER_SIDE[found.side]),
        other: patient.regrade(name, other),
    }


def plot_changes(system: System, patients: Mapping[str, Patient], names: Sequence[str], limits: tuple[float, float]) -> Figure:  # fmt: skip
    """For each finding a row of its patient's ``changes_of``: the finding's map, its score, and how far the others' scores move.

    Maps are multiples of an even spread, drawn with ``limits``; "others" is the mean size of the change in the scores of all
    other ``names``. The map of a finding that is not there has no outline.
    """
    rows = {name: changes_of(patient, name) for name, patient in patients.items()}
    asked = queries_about(names)
    wide = len(next(iter(rows.values())))
    figure, grid = plt.subplots(len(rows), wide, figsize=(WIDTH, 1.75 * len(rows)), squeeze=False, layout="constrained")
    for axes, (name, changes) in zip(grid, rows.items()):
        studies = [study_from_patient(patient, size=system.config.image_size) for patient in changes.values()]
        dataset, own = StudyDataset(studies, size=system.config.image_size), list(names).index(name)
        scores = score_dataset(system, dataset, asked)
        maps = answer_images(system, dataset, lambda images: system.heatmap(images, asked))[:, own]
        others = abs(np.delete(scores - scores[0], own, axis=1)).mean(axis=1)
        for place, (ax, change, study) in enumerate(zip(axes, changes, studies)):
            there = study.label(name) == 1
            region = study.region(name, *study.image.shape) if there else None
            says = f"{change}\n{scores[place, own]:+.1f}, others ±{others[place]:.1f}"
            says = says if place else f"{change} {name}\nscore {scores[0, own]:+.1f}"
            draw_heatmap(study.image, maps[place] * maps[place].size, ax, title=says, region=region, limits=limits)
    heat_bar(list(grid.flat), "attention, times an even spread")
    return figure

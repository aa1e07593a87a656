"""Checkers of the exercises of chapter 01_image_report_pairs."""

import math
from collections.abc import Callable
from dataclasses import astuple

import numpy as np

from medvlp_lite.notebook import exercise, require
from medvlp_lite.studies import Box, Finding, Study

PUZZLE = Study(
    "puzzle",
    "nobody",
    "typed",
    findings=(
        Finding("effusion", True, side="right", mentioned=True),
        Finding("effusion", False, side="left", mentioned=True),
        Finding("mass", False, side="left", mentioned=True),
        Finding("mass", None, side="right", mentioned=True),
        Finding("nodule", True, mentioned=False),
    ),
)


@exercise(dict, "a dictionary {entity: (truth, report)}")
def check_labels(answer: dict) -> None:
    """The labels of ``PUZZLE``, in truth and from its report alone."""
    entities = {"effusion", "mass", "nodule", "edema"}
    require(set(answer) == entities, "Four entities are asked for: effusion, mass, nodule, edema.")
    for entity in ("effusion", "mass", "nodule", "edema"):
        labels = PUZZLE.label(entity), PUZZLE.label(entity, from_report=True)
        right = tuple(None if math.isnan(label) else label for label in labels)
        require(tuple(answer[entity]) == right, f"Look at {entity} again: what is known, and what does the report say?")


@exercise(Callable, "a function from a Box to a Box")
def check_mirror(answer: Callable) -> None:
    """A box in an image that is flipped left to right."""
    rng = np.random.default_rng(0)
    corners, sizes = rng.uniform(0, 0.6, (50, 2)), rng.uniform(0.1, 0.4, (50, 2))
    boxes = [Box(*corner, *size) for corner, size in zip(corners, sizes)]
    covers = all(np.array_equal(answer(box).mask(61, 47), box.mask(61, 47)[:, ::-1]) for box in boxes)
    require(covers, "It does not cover the flipped pixels.")
    back = all(np.allclose(astuple(answer(answer(box))), astuple(box)) for box in boxes)
    require(back, "Flipping twice must give the box back.")


@exercise(Callable, "a function from studies to train, test indices")
def check_split(answer: Callable) -> None:
    """A split in which no patient is on both sides."""
    rng = np.random.default_rng(0)
    studies = [Study(f"study-{n}", f"patient-{rng.integers(70)}", "typed") for n in range(120)]
    (train, test), again = answer(studies), answer(studies)
    require(sorted([*train, *test]) == list(range(len(studies))), "Every study belongs to exactly one part.")
    both = {studies[i].patient_id for i in train} & {studies[i].patient_id for i in test}
    require(not both, f"{len(both)} patients are on both sides.")
    require(0.1 <= len(test) / len(studies) <= 0.35, "10 to 35 % of the studies belong in test.")
    require([list(part) for part in again] == [list(train), list(test)], "The second call gave another answer.")

"""Phantom streams are frozen: records, splits and committed weights name a phantom by its number, so a number must keep its patient.

Words, findings and masks are held by a hash. Pixels are held by the grey sums of 8 x 8 cells, within two grey levels a cell: float
functions differ in the last bit between processors, which turns about two pixels in a million by one grey level.
`python tests/phantom/test_phantom_streams.py` freezes the streams anew, after which every record and every weight must be made anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from medvlp_lite.phantom import ENTITIES, make_studies
from medvlp_lite.studies import Study

FROZEN = Path(__file__).parents[1] / "data" / "phantom_streams.json"
SETS = {
    "varied": dict(count=16, seed=0, size=64),
    "terse": dict(count=8, seed=3, size=64, style="terse", prevalence=0.4, devices=False),
    "template": dict(count=8, seed=5, size=80, style="template", stage_prevalence=(0.1, 0.3, 0.3, 0.3)),
    "unseen": dict(count=8, seed=11, size=96, unseen=0.5, prevalence={"mass": 0.6, "edema": 0.5}, start=40),
    "few entities": dict(count=4, seed=2, size=128, entities=ENTITIES[:5], mention_rate=(0.6, 0.9), prevalence=0.6),
}


def text_hash(studies: list[Study]) -> str:
    """A hash of everything but the pixels: identity, report, findings and their masks."""
    digest = hashlib.sha256()
    for study in studies:
        said = (study.study_id, study.patient_id, study.report, study.view, study.stage, study.meta["hedged"])
        digest.update(repr(said).encode())
        for f in study.findings:
            digest.update(repr((f.entity, f.present, f.side, f.position, f.severity, f.mentioned)).encode())
            digest.update(b"" if f.mask is None else np.packbits(f.mask).tobytes())
    return digest.hexdigest()


def cell_sums(studies: list[Study]) -> np.ndarray:
    """(N, 8, 8): the grey values of each image summed over 8 x 8 cells."""
    images = np.stack([study.image for study in studies]).astype(int)
    side = images.shape[1] // 8
    return images.reshape(len(images), 8, side, 8, side).sum(axis=(2, 4))


@pytest.mark.parametrize("name", list(SETS))
def test_phantom_streams_are_frozen(name):
    studies, frozen = make_studies(**SETS[name]), json.loads(FROZEN.read_text(encoding="utf-8"))[name]
    assert text_hash(studies) == frozen["text"], "a report, finding, mask or identity of a numbered phantom has changed"
    change = np.abs(cell_sums(studies) - np.reshape(frozen["cells"], (-1, 8, 8))).max()
    assert change <= 2, f"the pixels of a numbered phantom have changed, by {change} grey levels in one cell"


def test_the_frozen_sets_hold_follow_ups_stages_devices_and_both_views():
    studies = [study for options in SETS.values() for study in make_studies(**options)]
    patients = [study.meta["patient"] for study in studies]
    assert len(studies) >= 40 and {study.stage for study in studies} == {0, 1, 2, 3}
    assert sum(patient.visit for patient in patients) >= 5 and {patient.view for patient in patients} == {"AP", "PA"}
    assert any(patient.devices for patient in patients) and any(study.meta["hedged"] for study in studies)


if __name__ == "__main__":
    made = {name: make_studies(**options) for name, options in SETS.items()}
    frozen = {n: {"text": text_hash(s), "cells": cell_sums(s).reshape(-1).tolist()} for n, s in made.items()}
    FROZEN.write_text(json.dumps(frozen, separators=(",", ":")).replace("},", "},\n") + "\n", encoding="utf-8")

"""Counterfactual pairs before systems whose answers are known: one that sees the patient, one that sees nothing, one that errs."""

import pytest
import torch

from medvlp_lite.evaluation.counterfactual import counterfactual
from medvlp_lite.phantom import ENTITIES, make_studies, study_from_patient
from medvlp_lite.studies import StudyDataset

NAMES, SIZE, GRID = ("nodule", "effusion", "edema"), 64, 8


@pytest.fixture(scope="module")
def test_part():
    studies = make_studies(60, seed=3, size=SIZE, prevalence=0.3)
    return StudyDataset(studies, size=SIZE, entities=ENTITIES)


class Oracle:
    """Knows every patient that counterfactual pairs can ask about by the pixels; ``of`` says which finding a query is taken for."""

    device = torch.device("cpu")

    def __init__(self, dataset, of=lambda name: name):
        self.of, self.known = of, {}
        for patient in (study.meta["patient"] for study in dataset.studies):
            for name in filter(patient.find, NAMES):
                sides = [p for p in ("left", "right") if patient.find(name).side in ("left", "right")]
                for other in (
                    patient,
                    patient.remove(name),
                    *(patient.regrade(name, s) for s in ("mild", "severe")),
                    *(patient.move(name, side=s) for s in sides),
                ):
                    study = study_from_patient(other, size=SIZE)
                    self.known[study.image.tobytes()] = study

    def eval(self):
        return self

    def studies(self, images):
        return [self.known[(image[0] * 255).round().to(torch.uint8).numpy().tobytes()] for image in images]

    def score(self, images, queries):
        specs = [[s.meta["patient"].find(self.of(q.name)) for q in queries] for s in self.studies(images)]
        return torch.tensor([[spec.level + 1.0 if spec else 0.0 for spec in row] for row in specs])

    def heatmap(self, images, queries):
        rows = [[s.region(self.of(q.name), GRID, GRID) for q in queries] for s in self.studies(images)]
        return torch.stack([
            torch.stack([torch.zeros(GRID, GRID) if r is None else torch.from_numpy(r).float() for r in row]) for row in rows
        ])  # fmt: skip


def test_who_sees_the_patient_follows_every_change_and_nothing_else(test_part):
    found = counterfactual(Oracle(test_part), test_part, NAMES, limit=6)
    for change in ("removed", "regraded"):
        assert found[change]["own"] == 1 and found[change]["own_drop"] > 0.5
        assert found[change]["others"] == 0.5 and found[change]["others_drop"] == 0
    assert found["moved"] == {"own": 1, "others": 0}


def test_who_sees_nothing_follows_nothing(test_part):
    blind = Oracle(test_part, of=lambda name: "mass")
    blind.score = lambda images, queries: torch.zeros(len(images), len(queries))
    blind.heatmap = lambda images, queries: torch.arange(GRID**2).view(GRID, GRID).expand(len(images), len(queries), -1, -1)  # fmt: skip
    found = counterfactual(blind, test_part, NAMES, limit=4)
    nothing = {"own": 0.5, "others": 0.5, "own_drop": 0, "others_drop": 0}
    assert found == {"removed": nothing, "regraded": nothing, "moved": {"own": 0, "others": 0}}


def test_who_takes_one_finding_for_another_is_found_out(test_part):
    turned = dict(zip(NAMES, (*NAMES[1:], NAMES[0])))
    found = counterfactual(Oracle(test_part, of=turned.get), test_part, NAMES, limit=6)
    for change in ("removed", "regraded"):
        assert found[change]["own"] == 0.5 and found[change]["others"] == 0.75, "one of the two other names falls"
    assert found["moved"]["own"] == 0 and found["moved"]["others"] == 0.5


def test_one_name_has_no_others_and_without_pairs_there_is_nothing_to_measure(test_part):
    alone = counterfactual(Oracle(test_part), test_part, ("nodule",), limit=2)
    assert alone["removed"]["own"] == 1 and set(alone["moved"]) == {"own"}
    healthy = StudyDataset(make_studies(4, seed=1, size=SIZE, prevalence=0.0), size=SIZE, entities=ENTITIES)
    with pytest.raises(ValueError, match="no two studies show one of nodule"):
        counterfactual(Oracle(test_part), healthy, ("nodule",))

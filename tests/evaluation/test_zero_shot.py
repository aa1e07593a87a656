from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medvlp_lite import experiments
from medvlp_lite.evaluation import zero_shot as zs
from medvlp_lite.evaluation.classification import auc
from medvlp_lite.evaluation.grounding import query_grounding
from medvlp_lite.phantom import ENTITIES
from medvlp_lite.phantom.patients import UNSEEN
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.medklip import MedKLIP, MedKLIPConfig


@pytest.fixture(scope="module")
def data():
    return experiments.phantom_data(160, seed=3)


@pytest.fixture(scope="module")
def system():
    return experiments.load_pretrained("convirt")


def test_zero_shot_is_measured_on_the_test_part_with_thresholds_from_validation(system, data):
    found = zs.zero_shot(system, data)
    assert 0.5 < found["macro_auc"]["low"] <= found["macro_auc"]["value"] <= found["macro_auc"]["high"] <= 1
    assert found["macro_auc"]["value"] == pytest.approx(np.mean([one["value"] for one in found["auc"].values()]))
    assert 0 < found["accuracy_threshold_from_val"] < 1
    assert found["max_f1_threshold_from_val"] <= found["max_f1_threshold_from_test"]
    swapped = replace(data, val=data.test, test=data.val)
    assert zs.zero_shot(system, swapped)["macro_auc"]["value"] == pytest.approx(zs.macro_auc_on_val(system, data))


def test_queries_carry_descriptions_where_given():
    first, second = zs.queries_about(["nodule", "mass"], {"mass": "A large round opacity."})
    assert (first.name, first.description, second.description) == ("nodule", "", "A large round opacity.")


def test_the_unseen_disease_is_asked_by_name_and_by_description(system):
    dataset = zs.unseen_studies(60, 5)
    found = zs.unseen_disease(system, dataset)
    assert set(found) == {"name", "description"} == set(zs.unseen_queries())
    assert dataset.entities == (UNSEEN,) and UNSEEN not in ENTITIES
    for kind, query in zs.unseen_queries().items():
        scores = zs.score_dataset(system, dataset, [query])[:, 0]
        assert found[kind]["value"] == pytest.approx(auc(dataset.labels[:, 0], scores))


def test_repeat_patients_make_the_interval_of_the_unseen_disease_wider(system):
    """The same studies, once each of another patient, once four of one: the second tell less."""
    dataset = zs.unseen_studies(60, 5)
    alone, repeated = (
        StudyDataset(
            [replace(study, patient_id=name(i)) for i, study in enumerate(dataset.studies)], size=112, entities=[UNSEEN]
        )
        for name in (str, lambda i: str(i // 12))
    )
    own, other = (zs.unseen_disease(system, part)["name"] for part in (alone, repeated))
    assert own["value"] == other["value"]
    assert abs((own["high"] - own["low"]) - (other["high"] - other["low"])) > 0.01, "patients are drawn whole"


def test_the_unseen_disease_is_sought_by_name_and_by_description():
    system = experiments.load_pretrained("medklip")
    found = zs.unseen_grounding(system, count=40)
    query = zs.unseen_queries()["description"]
    other, test = zs.unseen_studies(20, zs.UNSEEN_SEED + 1), zs.unseen_studies(40)
    assert found["description"] == query_grounding(system, SimpleNamespace(train=other, val=other, test=test), query)
    assert found["name"]["studies"] == found["description"]["studies"] == int((test.labels == 1).sum())
    assert found["name"]["iou"] != found["description"]["iou"]


def test_a_finding_that_was_held_out_is_asked_by_name_and_by_description(data):
    torch.manual_seed(0)
    known = tuple(name for name in ENTITIES if name != "effusion")
    system = MedKLIP(data.tokenizer(), MedKLIPConfig(known, width=16, heads=2, feedforward=16)).eval()
    told = system.targets(["Large left pleural effusion."])
    assert not (told == 1).any(), "its labels are not trained under another name"
    found = zs.held_out(system, data)
    column = data.test.labels[:, data.test.entities.index("effusion")]
    for kind, query in zs.unseen_queries("effusion").items():
        assert query.name == "effusion" and found[kind]["studies"] == (column == 1).sum()
        assert found[kind]["value"] == pytest.approx(auc(column, zs.score_dataset(system, data.test, [query])[:, 0]))
    assert found["name"]["cnr"] != found["description"]["cnr"]
    with pytest.raises(ValueError, match="one finding must be held out, not 0"):
        zs.held_out(experiments.load_pretrained("medklip"), data)

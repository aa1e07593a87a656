import numpy as np
import pytest

from medvlp_lite import experiments
from medvlp_lite.evaluation.fine_grained import (
    label_probe,
    label_scores,
    recognition,
    severity_labels,
    similarity_quality,
    unseen_by_explanation,
)
from medvlp_lite.evaluation.inference import embed_dataset
from medvlp_lite.evaluation.zero_shot import zero_shot
from medvlp_lite.reports.structured_labels import Label
from medvlp_lite.studies import SEVERITIES


@pytest.fixture(scope="module")
def data():
    return experiments.phantom_data(160, seed=3)


@pytest.fixture(scope="module")
def system():
    return experiments.load_pretrained("medfilip")


def untrained(data, name, **options):
    import torch

    torch.manual_seed(0)
    row, profile = experiments.ROWS[name], experiments.PROFILES["smoke"]
    return experiments.build_system(row.system, data.tokenizer(row.words), {**row.options, **options}, profile).eval()


def test_recognition_is_measured_on_the_test_part(system, data):
    found = recognition(system, data)
    assert found["macro_auc"]["value"] == pytest.approx(zero_shot(system, data)["macro_auc"]["value"], abs=1e-6)
    assert found["multi"]["f1"] == found["max_f1_threshold_from_val"] <= found["max_f1_threshold_from_test"]
    for kind in ("label", "category"):
        for way in ("image_to_text", "text_to_image"):
            ranked = found["retrieval"][kind][way]
            assert all(0 <= ranked["precision"][k] <= ranked["ceiling"][k] + 1e-9 <= 1 + 1e-9 for k in (1, 3, 10))


def test_without_severities_in_its_labels_a_system_can_only_guess(data):
    found = recognition(untrained(data, "medfilip_entity"), data)
    assert found["fine"]["severity_accuracy"] == pytest.approx(1 / 3)


def test_severity_labels_say_which_grade_is_there(data):
    classes = [Label(severity, None, name) for name in data.test.entities for severity in SEVERITIES]
    truth = severity_labels(data.test, classes)
    for row, study in zip(truth[:10], data.test.studies):
        expected = {(f.severity, f.entity) for f in study.findings if f.present}
        assert {(c.severity, c.category) for c, there in zip(classes, row) if there} == expected & {(c.severity, c.category) for c in classes}  # fmt: skip


def test_equal_wordings_score_exactly_alike(data):
    system = untrained(data, "medfilip_entity")
    images = embed_dataset(system, data.test)
    scores = label_scores(system, images, [Label("mild", None, "nodule"), Label("severe", "left", "nodule")])
    assert np.array_equal(scores[:, 0], scores[:, 1])


def test_the_unseen_disease_by_name_known_type_and_explanation(system):
    found = unseen_by_explanation(system, 40)
    assert set(found) == {"name", "known type", "description"}
    assert all(row["low"] <= row["value"] <= row["high"] and 0 <= row["f1"] <= 1 for row in found.values())


def test_the_seed_draws_the_studies_of_the_probe(system, data):
    first, again, other = (label_probe(system, data, seed, limit=60) for seed in (0, 0, 1))
    assert first == again and first["100 %"] != other["100 %"]
    assert first["100 %"]["studies"] == 60 and 0.3 < first["100 %"]["auc"] <= 1


def test_the_stored_similarity_knows_diseases_but_not_grades(data):
    stored, ontology = (
        similarity_quality(untrained(data, "medfilip", similarity_model=name, use_iki=False))
        for name in ("reports", "ontology")
    )
    assert stored["same_category"] > stored["other_category"] + 0.2 and stored["auc"] > 0.7
    assert stored["severity_alone"] > 0.8 > 0.6 > ontology["severity_alone"]

import numpy as np
import pytest

from medvlp_lite import experiments
from medvlp_lite.evaluation.fine_grained import (
    label_probe,
    label_scores,
    recognition,
    severity_labels,
    similarity_quality,
    text_type_means,
    text_type_similarity,
    unseen_by_explanation,
)
from medvlp_lite.evaluation.inference import embed_dataset, embed_texts
from medvlp_lite.evaluation.zero_shot import zero_shot
from medvlp_lite.reports.structured_labels import Label, explanation_of, reported_labels
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


def test_three_texts_for_what_an_image_shows(system, data):
    found, few = text_type_similarity(system, data.test), text_type_means(system, data.test)
    names = data.test.entities
    texts = {
        "template": lambda f, name: f"This is an X-ray image of {name}.",
        "fine-grained": lambda f, name: f"{f.severity} {name}",
        "explanation": lambda f, name: explanation_of(name),
    }
    images, row, column = embed_dataset(system, data.test), names.index("effusion"), names.index("nodule")
    for kind, wording in texts.items():
        for name, place in (("effusion", row), ("nodule", column)):
            slow = [
                images[i] @ embed_texts(system, [wording(finding, name)])[0]
                for i, study in enumerate(data.test.studies)
                if (finding := study.finding("effusion")) and finding.present
            ]
            assert found[kind][row, place] == pytest.approx(np.mean(slow), abs=1e-5)
        rest = found[kind][~np.eye(len(names), dtype=bool)]
        assert few[kind]["own"] == pytest.approx(np.nanmean(np.diag(found[kind])), abs=1e-6)
        assert few[kind]["other"] == pytest.approx(np.nanmean(rest), abs=1e-6)
    assert few["explanation"]["own"] > few["explanation"]["other"]


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


def test_the_power_brings_the_grades_of_reported_labels_as_far_apart_as_in_the_ontology(data):
    from medvlp_lite.experiments.medfilip import POWERS

    labels = [label for report in data.train.reports for label in reported_labels(report, data.train.entities)]
    upper = np.triu_indices(3, 1)

    def graded(power, **options):
        system = untrained(data, "medfilip_sharp", **options)
        found = [system.label_similarity([label._replace(severity=s) for s in SEVERITIES]) for label in labels[:100]]
        return np.mean([matrix.numpy()[upper] ** power for matrix in found])

    assert graded(1, similarity_model="ontology") == pytest.approx(0.467, abs=1e-3)
    assert graded(1) > 0.9 and graded(POWERS["reports"]) == pytest.approx(0.467, abs=0.06)

"""The COVID-19 image collection: what is left out, who is one person, what a finding says, and annotations."""

import csv
import pickle

import numpy as np
import pytest
from source_trees import covid_row, covid_tree, draw, edit, real, refuses, write

from medvlp_lite.sources import covid


@pytest.fixture
def covid_root(tmp_path):
    return covid_tree(tmp_path / "covid-chestxray")


def by_name(loaded):
    return {study.meta["filename"]: study for study in loaded.studies}


def test_covid_filters_counts_and_groups(covid_root):
    loaded = covid.load(covid_root)
    assert [s.meta["filename"] for s in loaded.studies] == [
        "early.png",
        "late.jpg",
        "undated.jpg",
        "normal.JPG",
        "todo.jpg",
        "shared.jpg",
        "deep.jpg",
    ]
    assert loaded.skipped == {
        "view L": 1,
        "view unknown": 1,
        "modality CT": 2,
        "image file not here": 1,
        "second row of the same image": 1,
        "second copy of the same picture": 1,
    }
    found = by_name(loaded)
    assert [found[n].meta["visit"] for n in ("early.png", "late.jpg", "undated.jpg")] == [0, 1, 2]
    assert found["undated.jpg"].meta["offset"] is None and found["early.png"].meta["visits"] == 3
    assert (
        found["shared.jpg"].patient_id == found["deep.jpg"].patient_id == "7"
    )  # one file under two patients: one person
    assert found["late.jpg"].report == "Known COVID-19, worse." and found["late.jpg"].meta["names_diagnosis"]
    assert "leak" in found["late.jpg"].meta["leakage"] and not found["early.png"].meta["names_diagnosis"]
    assert found["normal.JPG"].licence == "licence not stated" and found["normal.JPG"].url == "https://x/normal.JPG"
    shown = {name for name, study in found.items() if covid.openly_licensed(study)}
    assert shown == set(found) - {"normal.JPG", "deep.jpg"}
    assert len(covid.load(covid_root, views=("L",))) == 1
    assert {"side.jpg", "odd.jpg"} <= set(by_name(covid.load(covid_root, views=None)))
    assert by_name(covid.load(covid_root, views=None))["odd.jpg"].view is None
    assert "gone.jpg" in by_name(covid.load(covid_root, require_image=False))


def test_covid_the_known_pair_of_names_is_one_picture(covid_root):
    names = sorted(covid.IDENTICAL)
    for value, name in enumerate(names):
        draw(covid_root / "images" / name, size=(40 + value, 30))
        with open(covid_root / "metadata.csv", "a", encoding="utf-8") as file:
            csv.writer(file).writerow(covid_row("12", 0, "todo", name))
    assert set(names) - set(by_name(covid.load(covid_root))) == {names[1]}


def test_covid_findings_know_what_follows_and_what_is_unknown(covid_root):
    found = by_name(covid.load(covid_root))
    early = found["early.png"]
    assert [early.label(e) for e in ("covid-19", "viral pneumonia", "pneumonia", "sars", "ards")] == [1, 1, 1, 0, 0]
    assert found["late.jpg"].label("ards") == 1.0
    assert found["deep.jpg"].findings == early.findings  # flat and hierarchical names mean the same
    vague = found["shared.jpg"]
    assert vague.label("pneumonia") == 1.0 and np.isnan(vague.label("covid-19")) and vague.label("ards") == 0.0
    assert found["normal.JPG"].meta["normal"] and found["normal.JPG"].label("covid-19") == 0.0
    assert found["todo.jpg"].findings == () and np.isnan(found["todo.jpg"].label("covid-19"))
    assert covid.load(covid_root).notes["finding not coded (labels unknown)"] == 1
    ards = covid.findings_from([("ards",)], covid.PATHS.values())
    assert {f.entity: f.present for f in ards}["pneumonia"] is None


def test_covid_annotations_fit_the_image(covid_root):
    loaded = covid.load(covid_root)
    early, late = by_name(loaded)["early.png"], by_name(loaded)["late.jpg"]
    mask = pickle.loads(pickle.dumps(early)).meta["lung_mask"]()
    assert mask.shape == early.image.shape == (30, 40) and mask.dtype == bool
    assert mask[:, :20].all() and mask[:14, 20:].all() and not mask[16:, 21:].any()
    assert "lung_mask" not in late.meta and loaded.notes["human lung mask is empty, left out"] == 1
    model = late.meta["model_lung_mask"]()
    assert model.shape == late.image.shape and model[:, :19].all() and not model[:, 21:].any()
    assert early.meta["severity"] == {"geographic_mean": 6.0, "opacity_mean": 4.0} and late.meta["severity"] is None
    assert set(early.meta["lung_boxes"]) == {"right"} and loaded.notes["lung box without numbers"] == 1
    box = early.meta["lung_boxes"]["right"]
    assert (box.x, box.y, box.width, box.height) == pytest.approx((0.1, 0.1, 0.25, 0.5))


def test_covid_refusals(covid_root):
    scores = covid_root / "annotations" / "covid-severity-scores.csv"
    edit(scores, "6.0", "six")
    refuses(lambda: covid.load(covid_root), scores.name, "line 4", "six")
    edit(scores, "six", "6.0")
    boxes = covid_root / "annotations" / "imageannotation_ai_lung_bounding_boxes.json"
    write(boxes, "{")
    refuses(lambda: covid.load(covid_root), boxes.name)
    boxes.unlink()
    archive = covid_root / covid.HUMAN_MASKS
    archive.write_bytes(archive.read_bytes()[:100])
    refuses(lambda: covid.load(covid_root), covid.HUMAN_MASKS, "fetch it again")
    archive.unlink()
    edit(covid_root / "metadata.csv", "\n5,3", "\n,3")
    refuses(lambda: covid.load(covid_root), "metadata.csv", "patientid or filename is empty")
    edit(covid_root / "metadata.csv", "modality", "modal")
    refuses(lambda: covid.load(covid_root), "metadata.csv", "modality")


@pytest.mark.real
def test_real_covid():
    loaded, every = real("covid"), real("covid", views=None)
    assert len(every) > len(loaded) >= 20 and loaded.skipped.get("view L") and loaded.skipped.get("modality CT")
    offsets = {}
    for study in loaded.studies:
        assert study.view in covid.FRONTAL
        if study.meta["offset"] is not None:
            assert offsets.get(study.patient_id, -1e9) <= study.meta["offset"]
            offsets[study.patient_id] = study.meta["offset"]
    masked = [s for s in loaded.studies if "lung_mask" in s.meta]
    assert len(masked) >= 5
    for study in masked[:: max(1, len(masked) // 6)]:
        mask = study.meta["lung_mask"]()
        assert mask.shape == study.image.shape and 0.03 < mask.mean() < 0.8
    right = [s.meta["lung_boxes"] for s in loaded.studies if s.meta["lung_boxes"]]
    assert right and all(b["right"].x < b["left"].x for b in right if len(b) == 2)  # image left is the patient's right
    assert sum(s.meta["severity"] is not None for s in loaded.studies) >= 1
    assert all(0 <= s.meta["severity"]["geographic_mean"] <= 8 for s in loaded.studies if s.meta["severity"])
    names = {study.meta["filename"] for study in every.studies}
    assert not names >= covid.IDENTICAL
    uncoded = [s for s in every.studies if s.meta["row"]["finding"] == "todo"]
    assert not any(s.findings for s in uncoded)
    assert {s.label("covid-19") for s in loaded.studies} >= {0.0, 1.0}

"""ChestX-ray14: folders, labels, boxes and the official split."""

import pickle

import pytest
from source_trees import edit, nih_tree, real, refuses, write

from medvlp_lite.sources import nih


@pytest.fixture
def nih_root(tmp_path):
    return nih_tree(tmp_path / "nih")


def test_nih_joins_folders_stems_labels_and_boxes(nih_root):
    loaded = nih.load(nih_root)
    found = {s.meta["nih_image"]: s for s in loaded.studies}
    assert sorted(found) == ["00000001_000.png", "00000001_001.png", "00000002_000.png"]
    assert loaded.skipped == {"image file not here": 1}
    heart = found["00000001_000.png"]
    assert heart.patient_id == "00000001" and heart.view == "PA" and len(heart.findings) == 14
    assert heart.image.shape == (30, 40) and heart.image.max() == 50  # RGBA flattened to grey
    assert heart.label("cardiomegaly") == 1.0 and heart.label("mass") == 0.0
    assert heart.label("nodule") == 1.0  # a radiologist's box outweighs a missing mined label
    assert loaded.notes["box label missing from the mined labels"] == 1
    normal = found["00000001_001.png"]
    assert normal.meta["normal"] and not any(f.present for f in normal.findings)
    assert normal.meta["age"] is None and loaded.notes["impossible age, taken as unknown"] == 1
    boxed = found["00000002_000.png"]
    assert boxed.meta["age"] == pytest.approx(13 / 12)
    assert boxed.label("pleural thickening") == 1.0
    first, clipped = boxed.finding("infiltration").boxes
    assert (first.x, first.y, first.width, first.height) == (0.25, 0.5, 0.125, 0.0625)
    assert (clipped.x, clipped.width) == (0.9375, 0.0625)
    assert boxed.finding("infiltration").region(32, 32)[16, 8] and boxed.meta["labels_from"].startswith("text-mined")
    assert heart.licence and heart.url.startswith("https://nihcc")


def test_nih_official_split_where_its_lists_are(nih_root):
    assert [s.meta["official_split"] for s in nih.load(nih_root).studies] == ["train_val", "train_val", "test"]
    (nih_root / "test_list.txt").unlink()
    (nih_root / "train_val_list.txt").unlink()
    assert [s.meta["official_split"] for s in nih.load(nih_root).studies] == [None] * 3


def test_nih_refusals(nih_root):
    data, boxes = nih_root / "Data_Entry_2017_v2020.csv", nih_root / "BBox_List_2017.csv"
    edit(boxes, "256.0", "wide")
    refuses(lambda: nih.load(nih_root), "BBox_List_2017.csv", "line 2", "wide")
    edit(boxes, "wide", "2000")
    refuses(lambda: nih.load(nih_root), "line 2", "outside")
    edit(boxes, "2000", "256.0")
    edit(boxes, "Nodule", "Nodules")
    refuses(lambda: nih.load(nih_root), "line 4", "Nodules")
    boxes.unlink()
    assert not any(f.boxes for s in nih.load(nih_root).studies for f in s.findings)
    write(nih_root / "test_list.txt", "00000001_000.png\n")
    refuses(lambda: nih.load(nih_root), "test_list.txt", "line 1", "both")
    (nih_root / "test_list.txt").unlink()
    edit(data, "|Pleural", "|Plural")
    refuses(lambda: nih.load(nih_root), "line 4", "Plural_Thickening")
    edit(data, "Finding Labels", "Findings")
    refuses(lambda: nih.load(nih_root), "Data_Entry_2017_v2020.csv", "Finding Labels")
    data.write_bytes(b"Image Index,Finding Labels,Patient ID,Patient Age,View Position\n\xff\xfe,a\n")
    refuses(lambda: nih.load(nih_root), "UTF-8")
    write(data, "Image Index,Finding Labels,Patient ID,Patient Age,View Position\n00000001_000.png,Mass\n")
    refuses(lambda: nih.load(nih_root), "line 2", "cells")


def test_a_broken_image_is_named_when_it_is_read(nih_root):
    (nih_root / "images" / "00000002_000.jpg").write_bytes(b"\xff\xd8broken")
    study = nih.load(nih_root).studies[-1]
    refuses(lambda: study.image, "00000002_000.jpg", "fetch it again")


def test_studies_travel_to_worker_processes(nih_root):
    study = pickle.loads(pickle.dumps(nih.load(nih_root).studies[0]))
    assert study.image.shape == (30, 40)


@pytest.mark.real
def test_real_nih():
    loaded = real("nih")
    assert len(loaded) >= 20 and loaded.notes["with a radiologist's box"] >= 1
    for study in loaded.studies:
        assert len(study.findings) == 14 and study.meta["nih_image"].startswith(study.patient_id)
        assert not study.meta["normal"] or all(f.present is bool(f.boxes) for f in study.findings)
    parts = {"train_val": set(), "test": set()}
    for study in loaded.studies:
        parts[study.meta["official_split"]].add(study.patient_id)
    assert parts["train_val"] and parts["test"] and not parts["train_val"] & parts["test"]
    assert loaded.notes["box label missing from the mined labels"] <= 0.1 * loaded.notes["with a radiologist's box"]

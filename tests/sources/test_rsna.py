"""RSNA pneumonia challenge: rows of an image, DICOM files, and the NIH twins."""

import builtins
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from source_trees import draw, edit, nih_tree, real, refuses, table, write

from medvlp_lite.sources import nih, rsna
from medvlp_lite.studies import split_by_patient


@pytest.fixture
def nih_root(tmp_path):
    return nih_tree(tmp_path / "nih")


@pytest.fixture
def rsna_root(tmp_path):
    root = tmp_path / "rsna"
    table(
        root / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        ("aa", "", "", "", "", 0),
        ("bb", 512.0, 256.0, 256.0, 512.0, 1),
        ("bb", 0.0, 0.0, 102.4, 102.4, 1),
        ("cc", 10, 10, 10, 10, 1),
    )
    table(
        root / "stage_2_detailed_class_info.csv",
        "patientId,class",
        ("aa", "No Lung Opacity / Not Normal"),
        ("bb", "Lung Opacity"),
        ("bb", "Lung Opacity"),
        ("cc", "Lung Opacity"),
    )
    table(
        root / "rsna_to_nih.csv",
        "patientId,Image Index,match_mse",
        ("aa", "00000003_000.png", 1.4),
        ("bb", "00000001_001.png", 0.9),
    )
    for name in ("aa", "bb"):
        draw(root / "stage_2_train_images" / f"{name}.jpg")
    return root


def test_rsna_groups_rows_of_an_image(rsna_root):
    loaded = rsna.load(rsna_root)
    clear, opaque = loaded.studies
    assert loaded.skipped == {"image file not here": 1} and loaded.notes["with boxes"] == 1
    assert clear.label("opacity") == 0.0 and clear.meta["class"] == "No Lung Opacity / Not Normal"
    assert opaque.label("opacity") == 1.0 and len(opaque.finding("opacity").boxes) == 2
    box = opaque.finding("opacity").boxes[0]
    assert (box.x, box.y, box.width, box.height) == (0.5, 0.25, 0.25, 0.5)
    assert opaque.patient_id == "00000001" and opaque.meta["nih_image"] == "00000001_001.png"


def test_rsna_and_nih_twins_stay_in_one_part_of_a_split(rsna_root, nih_root):
    both = [*nih.load(nih_root).studies, *rsna.load(rsna_root).studies]
    for seed in range(40):
        splits = split_by_patient(both, (0.4, 0.3, 0.3), seed)
        part = {both[i].study_id: name for name in ("train", "val", "test") for i in getattr(splits, name)}
        assert part["rsna-bb"] == part["nih-00000001_001"] == part["nih-00000001_000"]


def test_rsna_reads_the_official_mapping_and_says_what_is_unknown(rsna_root):
    (rsna_root / "rsna_to_nih.csv").unlink()
    loaded = rsna.load(rsna_root)
    assert loaded.notes["NIH twin unknown, counted as its own patient"] == 2
    assert [s.patient_id for s in loaded.studies] == ["aa", "bb"]
    mapping = rsna_root / "pneumonia-challenge-dataset-mappings_2018.json"
    write(mapping, json.dumps([{"img_id": "00000003_000.png", "subset_img_id": "aa", "orig_labels": []}]))
    assert rsna.load(rsna_root).studies[0].patient_id == "00000003"
    write(mapping, '[{"other": 1}]')
    refuses(lambda: rsna.load(rsna_root), mapping.name)


def dicom(path: Path, pixels: np.ndarray, photometric="MONOCHROME2"):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Rows, made.Columns, made.SamplesPerPixel, made.PixelRepresentation = *pixels.shape, 1, 0
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PhotometricInterpretation = photometric
    made.PixelData = pixels.tobytes()
    made.save_as(path, enforce_file_format=True)
    return path


def test_rsna_dicom(rsna_root):
    images = rsna_root / "stage_2_train_images"
    ramp = np.arange(12, dtype=np.uint8).reshape(3, 4)
    dicom(images / "cc.dcm", ramp)
    study = rsna.load(rsna_root).studies[2]
    assert np.array_equal(study.image, ramp)
    assert np.array_equal(pickle.loads(pickle.dumps(study)).image, ramp)
    assert np.array_equal(rsna.read_dicom(dicom(images / "x.dcm", ramp, "MONOCHROME1")), 255 - ramp)
    deep = rsna.read_dicom(dicom(images / "y.dcm", ramp.astype(np.uint16) * 300))
    assert deep.dtype == np.uint8 and (deep.min(), deep.max()) == (0, 255)
    (images / "cc.dcm").write_bytes(b"rubbish")
    refuses(lambda: study.image, "cc.dcm", "fetch it again")


def test_rsna_without_pydicom_says_what_to_install(rsna_root, monkeypatch):
    write(rsna_root / "stage_2_train_images" / "cc.dcm", "x")
    real_import = builtins.__import__

    def without_pydicom(name, *rest, **more):
        if name.startswith("pydicom"):
            raise ImportError(name)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_pydicom)
    study = rsna.load(rsna_root).studies[2]
    refuses(lambda: study.image, "cc.dcm", "pip install pydicom")
    os.remove(rsna_root / "stage_2_train_images" / "cc.dcm")
    assert len(rsna.load(rsna_root)) == 2  # png and jpg need no pydicom


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("aa,,,,,0", "aa,,,,,2", ("line 2", "Target")),
        ("cc,10", "cc,", ("line 5", "'x'")),
        ("bb,0.0", "bb,nan", ("line 4", "'x'")),
        ("bb,0.0,0.0,102.4,102.4,1", "bb,,,,,0", ("line 4", "Target 0 and 1")),
        ("patientId,x", "patient,x", ("patientId",)),
    ],
)
def test_rsna_refusals(rsna_root, old, new, words):
    edit(rsna_root / "stage_2_train_labels.csv", old, new)
    refuses(lambda: rsna.load(rsna_root), "stage_2_train_labels.csv", *words)


def test_rsna_classes_must_agree(rsna_root):
    path = rsna_root / "stage_2_detailed_class_info.csv"
    edit(path, "cc,Lung Opacity", "bb,Normal")
    refuses(lambda: rsna.load(rsna_root), path.name, "line 5", "two classes")


@pytest.mark.real
def test_real_rsna_and_its_twins():
    loaded = real("rsna")
    for study in loaded.studies:
        opacity = study.finding("opacity")
        assert opacity.present == bool(opacity.boxes) == (study.meta["class"] == "Lung Opacity")
    assert 0 < loaded.notes["with boxes"] < len(loaded)
    if loaded.notes["NIH twin unknown, counted as its own patient"] == len(loaded):
        pytest.skip("the folder holds no table of image identities")
    both = [*loaded.studies, *real("nih").studies]
    splits = split_by_patient(both)
    part = {i: name for name in ("train", "val", "test") for i in getattr(splits, name)}
    images = {}
    for index, study in enumerate(both):
        if study.meta["nih_image"]:
            images.setdefault(study.meta["nih_image"], []).append(part[index])
    twins = [parts for parts in images.values() if len(parts) > 1]
    assert twins and all(len(set(parts)) == 1 for parts in twins)

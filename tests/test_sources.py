"""Each loader on a tiny made-up tree in the official layout, with every known quirk; then on real files where they are."""

import builtins
import csv
import functools
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlp_lite.sources import brixia, covid, nih, openi, registry, rsna
from medvlp_lite.sources.base import SourceError
from medvlp_lite.studies import split_by_patient


def draw(path: Path, size=(40, 30), mode="L", value=100) -> Path:
    """A grey picture of ``size = (width, height)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fill = {"L": value, "RGB": (value,) * 3, "RGBA": (value, value, value, 255)}[mode]
    Image.new(mode, size, fill).save(path, format={".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), "PNG"))
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def table(path: Path, header: str, *rows) -> Path:
    """A CSV file with a header line as it stands and properly quoted rows."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return write(path, f"{header}\n{out.getvalue()}")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def refuses(call, *words: str) -> None:
    """The call fails with one sentence that names all the words, and no error from elsewhere behind it."""
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


# ---------------------------------------------------------------- Open-i


def report_xml(uid, findings="", impression="", mesh=("normal",), automatic=(), images=(), indication="XXXX"):
    terms = "".join(f"<major>{t}</major>" for t in mesh) + "".join(f"<automatic>{t}</automatic>" for t in automatic)
    shown = "".join(f'<parentImage id="{i}"><caption>PA and lateral, XXXX</caption></parentImage>' for i in images)
    sections = {"COMPARISON": "None.", "INDICATION": indication, "FINDINGS": findings, "IMPRESSION": impression}
    texts = "".join(f'<AbstractText Label="{k}">{v}</AbstractText>' for k, v in sections.items())
    return (
        f'<eCitation><uId id="CXR{uid}"/><licenseURL>http://creativecommons.org/licenses/by-nc-nd/4.0/</licenseURL>'
        f"<Abstract>{texts}</Abstract><MeSH>{terms}</MeSH>{shown}</eCitation>"
    )


REPORTS = {
    "2": report_xml(
        2,
        "The XXXX are clear.",
        "Mild cardiomegaly.",
        ("Cardiomegaly/mild", "Opacity/lung/upper lobe/right/streaky", "Pulmonary Disease, Chronic Obstructive/severe"),
        ("opacity",),
        ("CXR2_IM-0652-2001", "CXR2_IM-0652-1001"),
    ),
    "10": report_xml(10, "", "1. XXXX. 2. Normal chest x-XXXX.", images=("CXR10_IM-0001-3001", "CXR10_IM-0001-4001")),
    "11": report_xml(11, "Lungs are clear.", "", ("No Indexing",)),
    "12": report_xml(12, "Limited study.", "XXXX.", ("Technical Quality of Image Unsatisfactory ",)),
    "20": report_xml(20),
}


@pytest.fixture
def openi_xml(tmp_path):
    for uid, text in REPORTS.items():
        write(tmp_path / "openi" / "ecgen-radiology" / f"{uid}.xml", text)
    return tmp_path / "openi"


@pytest.fixture
def openi_archive(tmp_path):
    path = tmp_path / "packed" / "NLMCXR_reports.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for uid, text in {**REPORTS, "._2": "rubbish of a file manager"}.items():
            info = tarfile.TarInfo(f"ecgen-radiology/{uid}.xml")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def openi_csv(tmp_path):
    root = tmp_path / "chest-xrays-indiana-university"
    table(
        root / "indiana_reports.csv",
        "uid,MeSH,Problems,image,indication,comparison,findings,impression",
        (
            2,
            "Cardiomegaly/mild;Pulmonary Disease, Chronic Obstructive",
            "x",
            "PA",
            "pain, XXXX",
            "",
            "A line,\nand another.",
            "Big heart.",
        ),
        (30, "normal", "normal", "PA", "", "", "Clear.", ""),
        (31, "normal", "normal", "PA", "", "", "Clear, too.", ""),
    )
    table(
        root / "indiana_projections.csv",
        "uid,filename,projection",
        (2, "2_IM-0652-1002.dcm.png", "Frontal"),
        (2, "2_IM-0652-1001.dcm.png", "Frontal"),
        (2, "2_IM-0652-0001.dcm.png", "Lateral"),
        (30, "30_IM-0009-1001.dcm.png", "Lateral"),
        (31, "31_IM-0010-2001.dcm.png", "Frontal"),
    )
    return root


def by_uid(loaded):
    return {study.patient_id: study for study in loaded.studies}


def test_openi_archive_and_folder_give_the_same(openi_xml, openi_archive):
    folder, packed, straight = openi.load(openi_xml), openi.load(openi_archive.parent), openi.load(openi_archive)
    assert folder.studies == packed.studies == straight.studies
    assert [s.patient_id for s in folder.studies] == ["2", "10", "11", "12"]
    assert folder.skipped == {"neither findings nor impression": 1}
    assert "skipped: neither findings nor impression 1" in str(folder)
    assert not any(s.meta["sections"] != p.meta["sections"] for s, p in zip(folder.studies, packed.studies))


def test_openi_reads_sections_codings_and_what_is_unknown(openi_xml):
    loaded = openi.load(openi_xml)
    found = by_uid(loaded)
    assert found["2"].report == "FINDINGS: The are clear.\nIMPRESSION: Mild cardiomegaly."
    assert found["2"].meta["sections"]["findings"] == "The XXXX are clear."
    assert found["2"].meta["automatic"] == ["opacity"]
    assert found["2"].finding("cardiomegaly").severity == "mild"
    opacity = found["2"].finding("opacity")
    assert (opacity.present, opacity.side, opacity.position) == (True, "right", "upper lobe")
    assert found["2"].finding("pulmonary disease, chronic obstructive").severity == "severe"
    assert found["2"].meta["mesh"][1]["pattern"] == ("streaky",) and not found["2"].meta["normal"]
    assert found["10"].report == "IMPRESSION: 2. Normal chest."  # falls back to the impression alone
    assert found["10"].meta["normal"] and found["10"].findings == ()
    assert found["11"].findings == () == found["12"].findings
    assert not found["11"].meta["indexed"] and not found["11"].meta["normal"]
    assert found["12"].meta["quality_unsatisfactory"] and found["12"].report == "FINDINGS: Limited study."
    assert np.isnan(found["11"].label("cardiomegaly"))
    assert loaded.notes["not indexed (labels unknown)"] == 1 and loaded.notes["image quality too poor to code"] == 1
    assert loaded.notes["without a findings section"] == 1 and loaded.notes["without an impression section"] == 2
    assert found["2"].licence == "CC BY-NC-ND 4.0" and found["2"].pixels is None
    with pytest.raises(ValueError, match="no image"):
        _ = found["2"].image
    assert len(openi.load(openi_xml, keep_empty=True)) == 5


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("Cardiomegaly/mild", ("cardiomegaly", (), None, "mild", ())),
        ("Opacity/lung/upper lobe/right/streaky", ("opacity", ("lung", "upper lobe"), "right", None, ("streaky",))),
        (
            "Calcinosis/lung/hilum/lymph nodes/left/multiple",
            ("calcinosis", ("lung", "hilum", "lymph nodes"), "left", None, ("multiple",)),
        ),
        ("Pulmonary Disease, Chronic Obstructive", ("pulmonary disease, chronic obstructive", (), None, None, ())),
        ("Spine/degenerative/left/right ", ("spine", (), "bilateral", None, ("degenerative",))),
        (
            "Opacity/lung/base/bilateral/interstitial/borderline/round/small",
            ("opacity", ("lung", "base"), "bilateral", "borderline", ("interstitial", "round", "small")),
        ),
        ("Subcutaneous  Emphysema", ("subcutaneous emphysema", (), None, None, ())),
    ],
)
def test_mesh_grammar(term, expected):
    coding = openi.parse_mesh(term)
    assert (coding.finding, coding.location, coding.side, coding.severity, coding.pattern) == expected
    assert coding.raw == term.strip()


def test_an_organ_as_head_is_no_finding_by_itself():
    finding = openi.finding_from(openi.parse_mesh("Lung/hypoinflation/mild"))
    assert (finding.entity, finding.position, finding.severity) == ("lung hypoinflation", "lung", "mild")
    finding = openi.finding_from(openi.parse_mesh("Costophrenic Angle/right/blunted"))
    assert (finding.entity, finding.position, finding.side) == (
        "costophrenic angle blunted",
        "costophrenic angle",
        "right",
    )
    with pytest.raises(ValueError, match="no head"):
        openi.parse_mesh("/lung")


@pytest.mark.parametrize(
    ("text", "tidy"),
    [
        ("The XXXX are clear.", "The are clear."),
        ("Normal chest x-XXXX.", "Normal chest."),
        ("XXXX, XXXX. Clear lungs.", "Clear lungs."),
        ("XXXX-year-old male, pain", "male, pain"),
        ("from XXXX/XXXX, right base", "from, right base"),
        ("Left XXXX-A-XXXX remains. .", "Left remains."),
        ("1. XXXX. 2. Opacity (XXXX).", "2. Opacity."),
        ("1. XXXX lucency", "1. lucency"),
        ("XXXX", ""),
        ("No change since 02/010/XXXX, XXXX; stable", "No change since, stable"),
        ("5.2 cm nodule, T12 level.", "5.2 cm nodule, T12 level."),
    ],
)
def test_deidentification_gaps_leave_a_tidy_text(text, tidy):
    assert openi.strip_deidentification(text) == tidy
    assert openi.strip_deidentification(tidy) == tidy


def test_openi_csv_form(openi_csv):
    draw(openi_csv / "images" / "images_normalized" / "2_IM-0652-1002.dcm.png", value=12)
    loaded = openi.load(openi_csv)
    found = by_uid(loaded)
    assert [f.entity for f in found["2"].findings] == ["cardiomegaly", "pulmonary disease, chronic obstructive"]
    assert found["2"].report.startswith("FINDINGS: A line, and another.\nIMPRESSION")
    assert found["2"].meta["image_name"] == "2_IM-0652-1002" and found["2"].view == "frontal"  # the one that is here
    assert found["2"].image.max() == 12
    assert found["30"].view is None and found["30"].meta["image_name"] is None and found["30"].pixels is None
    assert loaded.notes["without a frontal image"] == 1
    draw(openi_csv / "images" / "images_normalized" / "2_IM-0652-1001.dcm.png", value=11)
    assert by_uid(openi.load(openi_csv))["2"].image.max() == 11  # the lower number, on every run


def test_openi_image_names_of_three_sources_meet(openi_xml, openi_csv):
    assert openi.image_key("1_IM-0001-4001.dcm.png") == openi.image_key("CXR1_1_IM-0001-4001.png") == "1_IM-0001-4001"
    draw(openi_xml / "NLMCXR_png" / "CXR2_IM-0652-1001.png", value=21)
    draw(openi_xml / "NLMCXR_png" / "CXR2_IM-0652-2001.png", value=22)
    draw(openi_xml / "images" / "CXR10_IM-0001" / "0.png", value=31)
    loaded = openi.load(openi_xml)
    found = by_uid(loaded)
    assert found["2"].image.max() == 21 and found["2"].view is None
    assert found["10"].image.max() == 31
    assert loaded.notes["frontal projection not stated"] == 2
    (openi_xml / "indiana_projections.csv").write_text(
        "uid,filename,projection\n2,2_IM-0652-2001.dcm.png,Frontal\n2,2_IM-0652-1001.dcm.png,Lateral\n"
    )
    assert by_uid(openi.load(openi_xml))["2"].image.max() == 22  # a table of projections is believed


def test_openi_refusals(openi_xml, openi_archive, openi_csv, tmp_path):
    refuses(lambda: openi.load(tmp_path / "nowhere"), "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    refuses(lambda: openi.load(tmp_path / "empty"), "empty", "indiana_reports.csv")
    refuses(lambda: openi.load(openi_xml, form="json"), "form", "json")
    write(openi_xml / "ecgen-radiology" / "7.xml", "<eCitation><uId")
    refuses(lambda: openi.load(openi_xml), "7.xml", "not well-formed")
    write(openi_xml / "ecgen-radiology" / "7.xml", "<other/>")
    refuses(lambda: openi.load(openi_xml), "7.xml", "uId")
    write(openi_xml / "ecgen-radiology" / "7.xml", report_xml(7, "a", "b", ("/lung",)))
    refuses(lambda: openi.load(openi_xml), "7.xml", "/lung")
    openi_archive.write_bytes(openi_archive.read_bytes()[:200])
    refuses(lambda: openi.load(openi_archive), "NLMCXR_reports.tgz", "fetch it again")
    openi_archive.write_bytes(b"not an archive")
    refuses(lambda: openi.load(openi_archive.parent), "NLMCXR_reports.tgz", "fetch it again")
    edit(openi_csv / "indiana_reports.csv", "MeSH", "Mash")
    refuses(lambda: openi.load(openi_csv), "indiana_reports.csv", "MeSH")


def test_openi_a_second_copy_of_a_report_counts_once(openi_xml):
    write(openi_xml / "ecgen-radiology" / "2b.xml", REPORTS["2"])
    assert openi.load(openi_xml).skipped["second report of the same uid"] == 1


# ---------------------------------------------------------------- NIH

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def nih_row(image, labels, age="57", view="PA"):
    return (image, labels, 0, int(image[:8]), age, "M", view, 2682, 2749, 0.143, 0.143)


@pytest.fixture
def nih_root(tmp_path):
    root = tmp_path / "nih"
    table(
        root / "Data_Entry_2017_v2020.csv",
        NIH_HEADER,
        nih_row("00000001_000.png", "Cardiomegaly"),
        nih_row("00000001_001.png", "No Finding", age="414", view="AP"),
        nih_row("00000002_000.png", "Infiltration|Pleural_Thickening", age="013M"),
        nih_row("00000003_000.png", "Mass"),
    )
    table(
        root / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        ("00000002_000.png", "Infiltrate", 256.0, 512.0, 128.0, 64.0, "", "", ""),
        ("00000002_000.png", "Infiltrate", 960.0, 0.0, 128.0, 64.0, "", "", ""),
        ("00000001_000.png", "Nodule", 0, 0, 512, 1024, "", "", ""),
        ("00009999_000.png", "Mass", 1, 1, 5, 5, "", "", ""),
    )
    write(root / "train_val_list.txt", "00000001_000.png\n00000001_001.png\n\n")
    write(root / "test_list.txt", "00000002_000.png\n00000003_000.png\n")
    draw(root / "images_001" / "images" / "00000001_000.png", mode="RGBA", value=50)
    draw(root / "images_002" / "images" / "00000001_001.PNG", mode="RGB")
    draw(root / "images" / "00000002_000.jpg")
    return root


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


def test_nih_official_split_and_reports_without_images(nih_root):
    assert [s.meta["official_split"] for s in nih.load(nih_root).studies] == ["train_val", "train_val", "test"]
    assert [s.patient_id for s in nih.load(nih_root, split="test").studies] == ["00000002"]
    assert len(nih.load(nih_root, require_image=False)) == 4
    (nih_root / "test_list.txt").unlink()
    (nih_root / "train_val_list.txt").unlink()
    refuses(lambda: nih.load(nih_root, split="test"), "test_list.txt")
    refuses(lambda: nih.load(nih_root, split="val"), "split")


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


# ---------------------------------------------------------------- RSNA


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
    assert len(rsna.load(rsna_root, require_image=False)) == 3


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
    find_spec = rsna.importlib.util.find_spec
    monkeypatch.setattr(rsna.importlib.util, "find_spec", lambda name: None if name == "pydicom" else find_spec(name))
    refuses(lambda: rsna.load(rsna_root), "cc.dcm", "pip install pydicom")
    real_import = builtins.__import__

    def without_pydicom(name, *rest, **more):
        if name.startswith("pydicom"):
            raise ImportError(name)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_pydicom)
    refuses(lambda: rsna.read_dicom(rsna_root / "stage_2_train_images" / "cc.dcm"), "pip install pydicom")
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


# ---------------------------------------------------------------- COVID collection and Brixia

COVID_HEADER = "patientid,offset,finding,view,modality,folder,filename,url,license,clinical_notes,other_notes,"


def covid_row(
    patient, offset, finding, name, view="PA", modality="X-ray", folder="images", licence="CC BY 4.0", notes=""
):
    return (patient, offset, finding, view, modality, folder, name, f"https://x/{name}", licence, notes, "", "")


@pytest.fixture
def covid_root(tmp_path):
    root = tmp_path / "covid-chestxray"
    table(
        root / "metadata.csv",
        COVID_HEADER,
        covid_row("4", 10, "COVID-19, ARDS", "late.jpg", notes="Known  COVID-19,\nworse."),
        covid_row("4", 0, "COVID-19", "early.png", view="AP"),
        covid_row("4", "?", "COVID-19", "undated.jpg", view="AP Supine"),
        covid_row("5", 3, "No Finding", "normal.JPG", licence=""),
        covid_row("6", 3, "todo", "todo.jpg"),
        covid_row("7", 1, "Pneumonia", "shared.jpg"),
        covid_row("8", 1, "Pneumonia", "shared.jpg"),
        covid_row("8", 2, "Pneumonia/Viral/COVID-19", "deep.jpg", licence="CC BY-NC-ND 4.0"),
        covid_row("9", 2, "SARS", "gone.jpg"),
        covid_row("9", 2, "SARS", "side.jpg", view="L"),
        covid_row("9", 2, "SARS", "odd.jpg", view="?"),
        covid_row("9", 2, "SARS", "slice.jpg", view="Axial", modality="CT"),
        covid_row("9", 2, "SARS", "stack.nii.gz", modality="CT", folder="volumes"),
        covid_row("9", 2, "Influenza", "copy.jpg"),
    )
    for value, name in enumerate(
        ("late.jpg", "early.png", "undated.jpg", "normal.JPG", "todo.jpg", "side.jpg", "odd.jpg")
    ):
        draw(root / "images" / name, value=value * 20)
    draw(root / "images" / "shared.jpg", value=200, size=(64, 48))
    draw(root / "images" / "deep.jpg", value=210)
    draw(root / "images" / "copy.jpg", value=200, size=(64, 48))
    write(
        root / "annotations" / "covid-severity-scores.csv",
        "## Title,,\n## Note: commas, quotes,,\nfilename,geographic_mean,opacity_mean\nearly.png,6.0,4.0\n",
    )
    boxes = {
        "categories": [{"id": 1, "name": "Right Lung"}, {"id": 2, "name": "Left Lung"}],
        "images": [{"id": 1, "file_name": "early.png", "width": 400, "height": 300}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [40, 30, 100, 150]},
            {"image_id": 1, "category_id": 2, "bbox": [None, None, None, None]},
        ],
    }
    write(root / "annotations" / "imageannotation_ai_lung_bounding_boxes.json", json.dumps(boxes))
    mask = np.zeros((300, 400), dtype=np.uint8)
    mask[:, :200], mask[:150, 200:] = 255, 127
    with zipfile.ZipFile(root / covid.HUMAN_MASKS, "w") as archive:
        for name, values in (("early.png", mask), ("late.jpg", np.zeros_like(mask))):
            picture = io.BytesIO()
            Image.fromarray(values).save(picture, format="PNG")
            archive.writestr(f"semantic_masks_v7labs_lungs/{name}", picture.getvalue())
    model = root / "annotations" / "lungVAE-masks" / "late_mask.png"
    model.parent.mkdir()
    Image.fromarray(np.where(mask == 255, 255, 90).astype(np.uint8)).save(model)
    return root


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
    assert not {"lung_mask", "model_lung_mask"} & set(by_name(covid.load(covid_root, masks=False))["early.png"].meta)


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


@pytest.fixture
def brixia_root(covid_root):
    root = covid_root.parent / "brixia"
    zones = ",".join([*"ABCDEF", "Global"])
    header = ",".join(["filename", *(f"S-{z}" for z in zones.split(",")), *(f"J-{z}" for z in zones.split(","))])
    table(
        root / "data" / "public-annotations.csv",
        "\ufeff" + header,
        ("early.png", 3, 2, 1, 0, 0, 1, 7, 3, 2, 1, 0, 0, 0, 6),
        ("gone.jpg", *[0] * 14),
        ("dropped.jpg", *[0] * 14),
        ("own.jpg", *[1] * 6, 6, *[1] * 6, 6),
    )
    draw(root / "data" / "public-cohen-subset" / "own.jpg")
    return root


def test_brixia_joins_scores_to_images(brixia_root):
    loaded = brixia.load(brixia_root)
    assert [s.meta["filename"] for s in loaded.studies] == ["early.png", "own.jpg"]
    assert loaded.skipped == {"image file not here": 1, "no longer in the COVID collection": 1}
    study = loaded.studies[0]
    assert study.patient_id == "4" and study.image.shape == (30, 40) and study.source == "brixia"
    assert study.meta["brixia"]["senior"] == {"A": 3, "B": 2, "C": 1, "D": 0, "E": 0, "F": 1, "global": 7}
    assert study.meta["brixia"]["junior"]["F"] == 0 and loaded.notes["readers differ in the global score"] == 1
    zones = {f.position: f for f in study.findings if f.entity == "opacity"}
    assert zones["right upper zone"].severity == "severe" and zones["right upper zone"].side == "right"
    assert zones["left upper zone"].present is False and zones["left lower zone"].severity == "mild"
    junior = brixia.load(brixia_root, covid_root=brixia_root.parent, reader="junior").studies[0]
    assert [f.present for f in junior.findings if f.position == "left lower zone"] == [False]
    assert study.label("covid-19") == 1.0 and "lung_mask" in study.meta


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("early.png,3", "early.png,4", ("line 2", "S-A", "0-3")),
        ("early.png,3", "early.png,2", ("line 2", "S-Global")),
        ("S-Global", "Global", ("S-Global",)),
    ],
)
def test_brixia_refusals(brixia_root, old, new, words):
    edit(brixia_root / "data" / "public-annotations.csv", old, new)
    refuses(lambda: brixia.load(brixia_root), "public-annotations.csv", *words)
    refuses(lambda: brixia.load(brixia_root, reader="third"), "reader")
    given = brixia_root / "data" / "public-annotations.csv"
    refuses(lambda: brixia.load(given), str(given), "not a folder that holds")


# ---------------------------------------------------------------- finding the sets


def test_a_set_is_found_by_its_names_and_inside_an_unpacked_archive(covid_root, monkeypatch):
    monkeypatch.setenv("MEDVLP_DATA", str(covid_root.parent))
    assert registry.find("covid") == covid_root and registry.find("nih") is None
    assert registry.load("covid").studies == covid.load(covid_root).studies == covid.load(covid_root.parent).studies
    renamed = covid_root.rename(covid_root.parent / "inner")
    (covid_root.parent / "COVID-chestxray-dataset").mkdir()
    nested = renamed.rename(covid_root.parent / "COVID-chestxray-dataset" / "covid-chestxray-dataset-584034a")
    assert registry.find("covid") == nested
    with pytest.raises(SourceError, match="medvlp-lite data get nih"):
        registry.load("nih")
    with pytest.raises(SourceError, match="openi, nih"):
        registry.load("mimic")


def test_the_default_folder_is_the_users_cache(monkeypatch):
    monkeypatch.delenv("MEDVLP_DATA", raising=False)
    assert registry.data_root().is_absolute() and "medvlp-lite" in str(registry.data_root())


def test_a_set_without_one_usable_study_is_an_error(nih_root):
    for path in nih_root.rglob("0*.*"):
        path.unlink()
    refuses(lambda: nih.load(nih_root), "no study", "image file not here 4")


# ---------------------------------------------------------------- the real files, where they are


def real(name, **options):
    if not os.environ.get("MEDVLP_DATA") or registry.find(name) is None:
        pytest.skip(f"MEDVLP_DATA holds no {name}")
    return loaded_once(name, **options)


loaded_once = functools.cache(registry.load)


@pytest.mark.real
@pytest.mark.parametrize("name", list(registry.SETS))
def test_real_set_loads_whole(name):
    loaded = real(name)
    ids = [study.study_id for study in loaded.studies]
    assert len(ids) == len(set(ids)) and all(study.patient_id for study in loaded.studies)
    assert all(study.licence and study.url and study.source == name for study in loaded.studies)
    boxes = [box for study in loaded.studies for finding in study.findings for box in finding.boxes]
    assert all(0 <= b.x < b.x + b.width <= 1.000001 and 0 <= b.y < b.y + b.height <= 1.000001 for b in boxes)
    for study in [s for s in loaded.studies if s.pixels is not None][:: max(1, len(ids) // 10)]:
        assert study.image.std() > 5


@pytest.mark.real
def test_real_openi():
    loaded = real("openi")
    studies = loaded.studies
    files = registry.count("openi", registry.find("openi"))
    assert len(studies) + sum(loaded.skipped.values()) == files
    assert loaded.skipped.get("neither findings nor impression", 0) < 0.02 * files
    assert not any("XXXX" in study.report for study in studies)
    gaps = sum("XXXX" in " ".join(study.meta["sections"].values()) for study in studies)
    assert 0.8 < gaps / len(studies) < 1
    assert 0.25 < sum(study.meta["normal"] for study in studies) / len(studies) < 0.45
    assert all(study.findings == () for study in studies if study.meta["normal"] and len(study.meta["mesh"]) == 1)
    codings = [coding for study in studies for coding in study.meta["mesh"]]
    assert sum(c["side"] is not None for c in codings) > 0.2 * len(codings)
    assert all(len(c["raw"].split("/")) <= 8 for c in codings)
    placed = [q for c in codings for q in c["pattern"]]
    assert len(set(placed)) < 60  # a qualifier that no list knows would end here
    grades = [c["severity"] for c in codings if c["severity"]]
    assert grades.count("mild") > grades.count("severe") > 0 and grades.count("borderline") > 0
    assert loaded.notes["same text as another report"] > 0.03 * len(studies)


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


@pytest.mark.real
def test_real_brixia():
    loaded = real("brixia")
    scores = np.array([[s.meta["brixia"][who]["global"] for who in ("senior", "junior")] for s in loaded.studies])
    assert len(loaded) >= 1 and scores.min() >= 0 and scores.max() <= 18
    assert len(loaded) < 20 or np.corrcoef(scores.T)[0, 1] > 0.7  # two readings of one picture

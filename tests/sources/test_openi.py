"""Open-i: XML, archive and CSV forms, the grammar of codings, gaps of de-identification, images under several names."""

import io
import tarfile

import numpy as np
import pytest
from source_trees import draw, edit, real, refuses, table, write

from medvlp_lite.sources import openi, registry


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

"""The report filter against human coding and against the truth of phantoms."""

import os
from pathlib import Path

import pytest

from medvlp_lite.phantom import sample_patient, write_report
from medvlp_lite.phantom.patients import UNGRADED
from medvlp_lite.reports.scoring import (
    HEADS,
    baseline_codes,
    evaluate,
    filter_codes,
    in_tuning_half,
    mesh_codes,
    truth_shares,
)
from medvlp_lite.sources import openi
from medvlp_lite.studies import Finding, Study


def test_mesh_terms_become_heads_with_sides_and_grades():
    codes = mesh_codes(
        [
            "Costophrenic Angle/bilateral/blunted/mild",
            "Lung/hypoinflation",
            "Hydropneumothorax/left",
            "Osteophyte/shoulder",
        ]
    )
    assert codes.keys() == {"effusion", "pneumothorax"}
    assert codes["effusion"].sides == {"left", "right"} and codes["effusion"].grades == {"mild"}
    assert codes["pneumothorax"].sides == {"left"}


def test_evaluation_counts_by_hand():
    reports = ["Small left effusion.", "No effusion. Cardiomegaly.", "Normal."]
    terms = [["Pleural Effusion/left/small"], ["Cardiomegaly/mild"], ["Pneumothorax/right"]]
    result = evaluate(reports, terms, bootstraps=50)
    assert result.heads["effusion"].f1 == 1 and result.heads["pneumothorax"].recall == 0
    assert result.micro.precision == 1 and result.micro.recall == pytest.approx(2 / 3)
    assert result.side.recall == pytest.approx(1 / 2) and result.severity.recall == pytest.approx(1 / 2)
    assert result.micro.low <= result.micro.f1 <= result.micro.high


def test_evaluation_refuses_unequal_lists():
    with pytest.raises(ValueError, match="one list of terms per report"):
        evaluate(["a"], [])


def test_only_what_the_coders_code_counts():
    assert filter_codes("Likely atelectasis or scarring.").keys() == {"atelectasis", "scar"}
    assert filter_codes("Opacity may represent atelectasis.").keys() == {"opacity"}
    assert baseline_codes("No effusion. Mild cardiomegaly.").keys() == {"cardiomegaly"}


def test_the_halves_are_fixed():
    halves = [in_tuning_half(str(number)) for number in range(1000)]
    assert 450 < sum(halves) < 550 and halves == [in_tuning_half(str(number)) for number in range(1000)]
    assert halves != [in_tuning_half(str(number), seed=1) for number in range(1000)]


@pytest.mark.real
def test_real_reports_reach_the_floor(openi_reports):
    held = [study for study in openi_reports if not in_tuning_half(study.patient_id)]
    texts, terms = [study.report for study in held], [[row["raw"] for row in study.meta["mesh"]] for study in held]
    ours, baseline = evaluate(texts, terms), evaluate(texts, terms, baseline_codes)
    assert ours.micro.f1 >= 0.94 and ours.micro.low > baseline.micro.high
    assert {head for head in HEADS if ours.heads[head].support and ours.heads[head].f1 < 0.80} == set()
    assert ours.side.f1 >= 0.88 and ours.severity.f1 >= 0.80
    assert ours.side.f1 > baseline.side.f1 and ours.severity.f1 > baseline.severity.f1


@pytest.fixture(scope="module")
def openi_reports():
    folder = os.environ.get("MEDVLP_DATA")
    if not folder or not (Path(folder) / "openi").is_dir():
        pytest.skip("MEDVLP_DATA names no folder with Open-i reports")
    return openi.load(Path(folder) / "openi").studies


@pytest.mark.parametrize("style,grades", [("varied", 0.95), ("terse", 0.9), ("template", 0.99)])
def test_phantom_reports_are_read(style, grades):
    studies = []
    for seed in range(150):
        patient = sample_patient(seed)
        report = write_report(patient, style=style)
        drawn = {spec.entity: spec for spec in patient.findings}
        findings = tuple(
            Finding(name, name in drawn, drawn[name].side if name in drawn else None, severity=drawn[name].severity if name in drawn and name not in UNGRADED else None, mentioned=True)
            for name in sorted(report.mentioned)
        )  # fmt: skip
        studies.append(
            Study(
                str(seed), str(seed), "phantom", report=report.text, findings=findings, meta={"hedged": report.hedged}
            )
        )
    shares = truth_shares(studies)
    total = {
        aspect: sum(s.right for s in rows.values()) / sum(s.total for s in rows.values())
        for aspect, rows in shares.items()
    }
    assert total["exist"] > 0.98 and total["side"] > 0.97 and total["severity"] > grades

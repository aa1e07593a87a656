"""The phantom's reports: what they say is true, what they deny is absent, and no two are alike."""

from __future__ import annotations

import re

import pytest

from medvlp_lite.phantom import ENTITIES, SIGNS, SYNONYMS, UNSEEN, FindingSpec, follow_up, sample_patient, write_report
from medvlp_lite.phantom.reports import WORDS

DENIES = re.compile(
    r"\b(no|not|without|negative|free of|normal|no longer|resolved|resolution|hold no)\b", flags=re.IGNORECASE
)
HEDGES = re.compile(
    r"possible|cannot be excluded|may represent|suspicion|suspected|questionable|difficult to exclude|could reflect|equivocal",
    flags=re.IGNORECASE,
)


def sentences(report):
    body = report.text.split("FINDINGS:")[1].replace("IMPRESSION:", "")
    return [s.strip() for s in re.split(r"(?<=[.])\s+", body) if s.strip()]


def speaks_of(entity, text):
    return any(re.search(rf"\b{re.escape(name)}s?\b", text, flags=re.IGNORECASE) for name in SYNONYMS[entity])


def patients(count, **options):
    drawn = [sample_patient(seed, **options) for seed in range(count)]
    return drawn + [follow_up(patient) for patient in drawn[: count // 4]]


@pytest.mark.parametrize("style", ["varied", "terse", "template"])
def test_what_is_mentioned_stands_in_the_text_with_its_side(style):
    for patient in patients(250):
        report = write_report(patient, style=style)
        for spec in patient.findings:
            if spec.entity not in report.mentioned or spec.entity in SIGNS:
                continue
            said = [s for s in sentences(report) if speaks_of(spec.entity, s) and not DENIES.search(s)]
            assert said, (spec, report.text)
            words = {"bilateral": ("bilateral", "both"), None: ("",)}.get(spec.side, (spec.side,))
            assert any(word in s.lower() for word in words for s in said), (spec, report.text)
            if spec.entity not in report.hedged:
                assert any(not HEDGES.search(s) for s in said), (spec, report.text)
            else:
                assert all(HEDGES.search(s) for s in said), (spec, report.text)


@pytest.mark.parametrize("style", ["varied", "terse", "template"])
def test_what_is_absent_is_never_asserted(style):
    for patient in patients(250):
        report = write_report(patient, style=style)
        for entity in ENTITIES:
            if patient.find(entity):
                continue
            for sentence in sentences(report):
                if speaks_of(entity, sentence):
                    assert entity in report.mentioned, (entity, report.text)
                    assert DENIES.search(sentence) or HEDGES.search(sentence), (entity, sentence)
                    assert bool(HEDGES.search(sentence)) <= (entity in report.hedged)


def test_what_is_left_out_is_not_in_the_text():
    for patient in patients(300):
        report = write_report(patient)
        for entity in (*ENTITIES, UNSEEN):
            if entity not in report.mentioned:
                assert not any(speaks_of(entity, sentence) for sentence in sentences(report)), (entity, report.text)


def test_mention_rates():
    present, absent, hedged, none = [], [], [], patients(1200)
    for patient in none:
        report = write_report(patient)
        here = {spec.entity for spec in patient.findings if spec.entity not in SIGNS}
        present += [entity in report.mentioned for entity in here]
        absent += [entity in report.mentioned for entity in ENTITIES if entity not in here]
        hedged += [entity in report.hedged for entity in here]
    assert 0.87 < sum(present) / len(present) < 0.93
    assert 0.28 < sum(absent) / len(absent) < 0.42
    assert 0.05 < sum(hedged) / len(hedged) < 0.2
    patient = sample_patient(3, prevalence=0.5)
    assert write_report(patient, mention_rate=(1, 1)).mentioned >= set(ENTITIES)
    assert not write_report(patient, mention_rate=(0, 0)).mentioned


def test_no_two_reports_are_alike_though_few_patients_differ():
    texts = [write_report(patient).text for patient in patients(2000)]
    assert len(set(texts)) >= len(texts) - 1
    normal = [write_report(sample_patient(seed, prevalence=0.0)).text for seed in range(1000)]
    assert len(set(normal)) >= 995
    patient = sample_patient(5)
    assert len({write_report(patient, seed=k).text for k in range(50)}) == 50


def test_reports_are_deterministic_and_template_is_fixed():
    patient = sample_patient(9, prevalence=0.4)
    for style in ("varied", "terse", "template"):
        assert write_report(patient, style=style) == write_report(patient, style=style)
    sick = sample_patient(1, prevalence=0.0).add(FindingSpec("mass", "mild", "left", "upper"))
    text = write_report(sick, style="template", mention_rate=(1, 0)).text
    assert "There is mild mass in the left lung, upper." in text


def test_priors_are_told_truly():
    for seed in range(60):
        patient = sample_patient(seed, prevalence=0.3)
        later = follow_up(patient)
        report = write_report(later)
        assert "COMPARISON: " in report.text
        for old in (spec for spec in patient.findings if spec.entity not in SIGNS):
            for sentence in sentences(report):
                if speaks_of(old.entity, sentence) and "resolved" in sentence:
                    assert later.find(old.entity) is None
        worse = [s for s in later.findings if (o := patient.find(s.entity)) and s.level > o.level]
        if not worse and not any(patient.find(s.entity) is None for s in later.findings):
            assert not any(phrase in report.text for phrase in WORDS.change["worse"] + WORDS.change["new"])


def test_severity_reaches_the_words():
    patient = sample_patient(4, prevalence=0.0)
    for entity in ENTITIES:
        for level, severity in enumerate(("mild", "moderate", "severe")):
            report = write_report(patient.add(FindingSpec(entity, severity)), style="template", mention_rate=(1, 0))
            assert f"There is {severity} {entity}" in report.text
            grades = WORDS.grades.get(entity, WORDS.grades["default"])
            assert not set(grades[level]) & set(grades[(level + 1) % 3])


def test_the_unseen_disease_is_named_and_its_ground_glass_not_denied():
    for seed in range(80):
        patient = sample_patient(seed, prevalence=0.0).add(FindingSpec(UNSEEN))
        report = write_report(patient, mention_rate=(1, 1), entities=(*ENTITIES, UNSEEN))
        assert speaks_of(UNSEEN, report.text)
        assert "ground-glass opacity" not in report.mentioned


def test_bad_arguments():
    with pytest.raises(ValueError, match="style"):
        write_report(sample_patient(0), style="poem")
    with pytest.raises(ValueError, match="mention_rate"):
        write_report(sample_patient(0), mention_rate=(0.5, 2))

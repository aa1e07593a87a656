"""Signs: drawn as their attributes say, asked by name, denied where absent, and come together as in patients."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from healthy_phantoms import grey, healthy
from scipy.ndimage import binary_dilation

from medvlp_lite.phantom import (
    ATTRIBUTES,
    DEVICES,
    ENTITIES,
    SIGNS,
    UNSEEN,
    FindingSpec,
    allowed_sides,
    follow_up,
    make_studies,
    render,
    sample_patient,
    study_from_patient,
    write_report,
)
from medvlp_lite.phantom.patients import IMPLIED, SIGN_ROWS, TABLE, UNGRADED
from medvlp_lite.phantom.reports import WORDS
from medvlp_lite.phantom.sampling import SYNDROMES
from medvlp_lite.reports import extract
from medvlp_lite.reports.knowledge import describe
from medvlp_lite.studies import SEVERITIES

GRADED = [name for name in SIGNS if name not in DEVICES]
LOCAL = [name for name in GRADED if SIGN_ROWS[name]["kind"] == "pieces"]


def test_at_least_forty_entities_can_be_asked():
    assert len(set(ENTITIES) | set(SIGNS)) == len(ENTITIES) + len(SIGNS) >= 40
    assert set(ATTRIBUTES) == {*ENTITIES, *SIGNS, UNSEEN}
    assert not set(SIGNS) & {*ENTITIES, UNSEEN}


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_is_seen_where_its_mask_is(name):
    for seed in range(3):
        patient = healthy(seed)
        for side in allowed_sides(name):
            drawn = render(patient.add(FindingSpec(name, side=side, seed=seed)), 96)
            (mask,) = drawn.masks
            change = np.abs(drawn.image.astype(float) - grey(patient))
            assert mask.any() and mask.dtype == bool
            factor = (
                1 if SIGN_ROWS[name]["kind"] == "outline" else 2
            )  # an outline's mask is the structure, inside and all
            assert change[mask].mean() > factor * change[~mask].mean(), (name, seed)


@pytest.mark.parametrize("name", GRADED)
def test_a_sign_grows_with_its_grade(name):
    for seed in range(3):
        patient = healthy(seed)
        before = grey(patient)
        change = [np.abs(grey(patient.add(FindingSpec(name, s, seed=seed))) - before).mean() for s in SEVERITIES]
        assert 0 < change[0] < change[1] < change[2]


@pytest.mark.parametrize("name", LOCAL)
def test_pieces_change_only_what_is_near_their_mask(name):
    for seed in range(3):
        patient = healthy(seed)
        drawn = render(patient.add(FindingSpec(name, "severe", seed=seed)), 128)
        near = binary_dilation(drawn.masks[0], iterations=9)
        assert not ((drawn.image != render(patient, 128).image) & ~near).any()


@pytest.mark.parametrize(
    "name", [name for name in SIGNS if "right" in allowed_sides(name) and "left" in allowed_sides(name)]
)
def test_the_right_of_a_sign_is_the_images_left(name):
    if SIGN_ROWS[name]["attributes"]["site"] == "mediastinum":
        pytest.skip("its side is the one it moves to")
    patient = healthy(4)
    at = {
        s: np.nonzero(render(patient.add(FindingSpec(name, side=s)), 96).masks[0])[1].mean() for s in ("right", "left")
    }
    assert at["right"] + 8 < at["left"]


def test_density_is_what_the_attribute_says():
    """Inside its mask a local sign is darker than before if its density is air, else brighter; metal brighter than faint."""
    gain = {}
    for name in [*LOCAL, "surgical clips", "prosthetic valve"]:
        if "centre" in SIGN_ROWS[name]:
            continue
        patient = healthy(2)
        drawn = render(patient.add(FindingSpec(name)), 128)
        gain[name] = (drawn.image.astype(float) - grey(patient, 128))[drawn.masks[0]].mean()
        assert (gain[name] < 0) == (ATTRIBUTES[name]["density"] == "air"), name
    assert gain["surgical clips"] > gain["septal lines"]


def test_interventions_work_on_signs():
    patient = healthy(5).add(FindingSpec("cavity", "mild", "left", "upper"))
    assert patient.regrade("cavity", "severe").find("cavity").severity == "severe"
    right = patient.move("cavity", side="right").add(FindingSpec("pacemaker"))
    assert right.devices == ("pacemaker",) and right.remove("pacemaker").move("cavity", side="left") == patient
    assert np.array_equal(render(patient.remove("cavity"), 96).image, render(healthy(5), 96).image)
    with pytest.raises(ValueError, match="side of cavity"):
        FindingSpec("cavity", side="bilateral")


def test_signs_leave_the_headline_findings_alone():
    seen = Counter()
    for seed in range(1500):
        patient = sample_patient(seed)
        plain = sample_patient(seed, signs=False, devices=False)
        assert plain.findings == tuple(spec for spec in patient.findings if spec.entity not in SIGNS)
        assert plain.anatomy == patient.anatomy
        here = {spec.entity for spec in patient.findings}
        assert not here & {sign for entity in here for sign in IMPLIED.get(entity, ())}
        assert set(sample_patient(seed, devices=False).devices) == set()
        seen.update(here & set(SIGNS))
    assert all(0.02 < seen[name] / 1500 < 0.11 for name in SIGNS), seen
    later = follow_up(sample_patient(1, prevalence={"scar": 1.0}))
    assert later.find("scar") is not None


def test_a_study_says_of_every_sign_whether_it_is_there():
    studies = make_studies(80, size=64)
    for study in studies:
        patient = study.meta["patient"]
        here = {spec.entity for spec in patient.findings}
        implied = {sign for entity in here for sign in IMPLIED.get(entity, ())}
        for name in SIGNS:
            finding = study.finding(name)
            assert finding.present is (None if name in implied else name in here)
            assert (finding.mask is not None) == (name in here)
            assert finding.severity is None or name not in UNGRADED
        assert not implied & {f.entity for f in study.findings if f.mentioned}
    without = make_studies(20, size=64, signs=False, devices=False)
    assert all({f.entity for f in study.findings} == set(ENTITIES) for study in without)


@pytest.mark.parametrize("name", SIGNS)
def test_the_filter_reads_every_phrase_of_a_sign(name):
    row, patient = SIGN_ROWS[name], healthy(0)
    for side in allowed_sides(name):
        patient = healthy(0).add(FindingSpec(name, side=side, severity="severe"))
        texts = {write_report(patient, seed=k, style="terse", mention_rate=(1, 0)).text for k in range(60)}
        read = [[t for t in extract(text) if t.entity == name] for text in texts]
        assert sum(map(bool, read)) > 30 and all(t.present for found in read for t in found)
    for phrase in row["present"]:
        text = phrase.lstrip("*").format(sev="moderate", mod="moderately", side="left", loc="in the left upper zone")
        for frame in WORDS.frames:
            found = extract(frame[phrase.startswith("*")].format(np=text, Np=text.capitalize()))
            assert {(t.entity, t.present) for t in found} == {(name, True)}, (text, frame)
            assert {t.side for t in found} == {"left"} or not ("{side}" in phrase or "{loc}" in phrase), text
    for word in row["names"]:
        for frame in WORDS.negations:
            found = extract(frame.format(names=word))
            assert {(t.entity, t.present) for t in found} == {(name, False)}, (word, frame)


def test_mention_rates_of_signs():
    present, absent = [], []
    for seed in range(1500):
        patient = sample_patient(seed)
        report, here = write_report(patient), {spec.entity for spec in patient.findings}
        present += [name in report.mentioned for name in SIGNS if name in here]
        absent += [name in report.mentioned for name in SIGNS if name not in here]
    assert np.mean(present) == pytest.approx(0.855, abs=0.03)
    assert np.mean(absent) == pytest.approx(0.0315, abs=0.004)


def test_no_stock_sentence_contradicts_a_sign():
    """What reports of one sign alone say of any other sign is denial, and of this sign nothing but assertion."""
    for name in SIGNS:
        patient = healthy(1).add(FindingSpec(name))
        for k in range(40):
            report = write_report(patient, seed=k, mention_rate=(1, 0))
            for triplet in extract(report.text):
                if triplet.entity in SIGNS:
                    assert triplet.present is (triplet.entity == name), (name, triplet, report.text)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_description_names_every_attribute(name):
    words = set(re.findall(r"[a-z]+(?:-[a-z]+)*", describe(name).lower()))
    words |= {part for word in words for part in word.split("-")}
    for attribute, lists in TABLE["words"].items():
        assert words & set(lists[ATTRIBUTES[name][attribute]]), (attribute, ATTRIBUTES[name][attribute])


def test_the_unseen_disease_is_made_of_known_attributes():
    trained = [row for name, row in ATTRIBUTES.items() if name != UNSEEN]
    for attribute, value in ATTRIBUTES[UNSEEN].items():
        assert any(row[attribute] == value for row in trained), attribute
    assert ATTRIBUTES[UNSEEN] not in trained


def test_syndromes_lift_what_comes_together_and_keep_each_prevalence():
    count = 12000
    drawn = {
        flag: [{s.entity for s in sample_patient(n, syndromes=flag).findings} for n in range(count)]
        for flag in (False, True)
    }
    share = {flag: Counter(name for here in rows for name in here) for flag, rows in drawn.items()}
    for name in ENTITIES:
        assert share[True][name] / count == pytest.approx(share[False][name] / count, abs=0.012), name
    for first, second, lift in SYNDROMES:
        a, b = share[True][first] / count, share[True][second] / count
        both = np.mean([{first, second} <= here for here in drawn[True]])
        assert both / (a * b) == pytest.approx(min(lift, 1 / max(a, b)), rel=0.12), (first, second)
        chance = np.mean([{first, second} <= here for here in drawn[False]])
        assert chance / (a * b) < 1.6


def test_repeat_gives_four_stock_texts_named_by_stage():
    texts = {}
    for seed in range(120):
        patient = sample_patient(seed, stage_prevalence=(0.25,) * 4)
        report = write_report(patient, repeat=1.0)
        texts.setdefault(patient.stage, set()).add(report.text)
        assert report.mentioned == {"pneumoconiosis"}
        found = {t.present for t in extract(report.text) if t.entity == "pneumoconiosis"}
        assert found == {patient.stage > 0}
    assert sorted(texts) == [0, 1, 2, 3] and all(len(kinds) == 1 for kinds in texts.values())
    stock = set.union(*texts.values())
    half = [write_report(sample_patient(seed), repeat=0.5).text in stock for seed in range(600)]
    assert np.mean(half) == pytest.approx(0.5, abs=0.07)
    assert all(
        report.text == write_report(sample_patient(seed)).text or report.text in stock
        for seed in range(50)
        for report in [write_report(sample_patient(seed), repeat=0.5)]
    )
    assert study_from_patient(sample_patient(3), size=64, repeat=1.0).report in stock
    with pytest.raises(ValueError, match="repeat"):
        write_report(sample_patient(0), repeat=2)

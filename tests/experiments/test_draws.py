from dataclasses import replace

import numpy as np
import pytest

from medvlp_lite.experiments import (
    PROFILES,
    STAGE_SHARES,
    Draw,
    phantom_data,
    screening_data,
    split_custom,
    with_labels,
)
from medvlp_lite.experiments.profiles import Profile


@pytest.fixture(scope="module")
def data():
    return phantom_data(160, seed=3)


@pytest.fixture(scope="module")
def screening():
    return screening_data(160)


def test_parts_share_no_patient(data):
    parts = [{study.patient_id for study in part.studies} for part in (data.train, data.val, data.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert data.counts() == {
        "train": len(data.train),
        "val": len(data.val),
        "test": len(data.test),
        "split": data.split,
    }


def test_the_unseen_disease_is_in_no_training_report_or_label(data):
    assert all(s.finding("covid-19") is None and "covid" not in s.report.lower() for s in data.train.studies)


def test_who_is_tested_in_a_small_run_was_never_trained_on_in_a_large_one(data):
    larger = phantom_data(400, seed=3)
    trained = {study.patient_id for part in (larger.train, larger.val) for study in part.studies}
    assert not trained & {study.patient_id for study in data.test.studies}


def test_a_draw_tells_all_that_decides_it():
    definition = Draw(screening=True, labels=0.25).definition(PROFILES["long"], 112)
    shares = {"labels": 0.25, "noise": 0.0, "repeat": 0.0}
    assert definition == {"studies": 20000, "image_size": 112, "screening": True, "seed": 0, **shares}


def test_reports_of_a_screening_repeat_as_often_as_asked():
    profile = Profile(160, 1, 8, 1)
    reports = [Draw(screening=True, repeat=share).data(profile, 64).train.reports for share in (0.0, 1.0)]
    assert len(set(reports[1])) < 0.2 * len(reports[1]) < len(set(reports[0]))


def test_rows_that_share_a_draw_share_its_data():
    profile = Profile(160, 1, 8, 1)
    first = Draw(screening=True).data(profile, 112)
    assert first is Draw(screening=True, labels=0.5, noise=0.2).data(replace(profile, steps=9), 112)


def test_the_tokenizer_learns_further_words(data):
    assert data.tokenizer().tokens("zyzzyva") != data.tokenizer(["zyzzyva " * 50] * 9).tokens("zyzzyva")


def test_a_screening_has_unequal_stages_and_few_other_findings():
    data = screening_data(600)
    found = np.concatenate([part.stages for part in (data.train, data.val, data.test)])
    assert np.allclose(np.bincount(found) / len(found), STAGE_SHARES, atol=0.06)
    others = [data.train.labels[:, c].mean() for c, e in enumerate(data.train.entities) if e != "pneumoconiosis"]
    assert 0.05 < np.mean(others) < 0.12


def test_fewer_labels_are_a_part_of_more_and_every_stage_keeps_some(screening):
    truth = screening.train.stages
    shares = {f: with_labels(screening.train, f, seed=3).stages for f in (0.05, 0.25, 0.5, 1.0)}
    for fraction, given in shares.items():
        assert ((given == truth) | (given == -1)).all() and set(given) >= {0, 1, 2, 3}
        assert np.mean(given >= 0) == pytest.approx(fraction, abs=0.03)
    assert (shares[0.5][shares[0.25] >= 0] >= 0).all() and (shares[1.0] == truth).all()
    with pytest.raises(ValueError, match="need 0 < fraction"):
        with_labels(screening.train, 0)


def test_noise_moves_labels_to_a_neighbour(screening):
    truth = screening.train.stages
    noisy = with_labels(screening.train, 1.0, 0.4, seed=0).stages
    assert np.mean(noisy != truth) == pytest.approx(0.4, abs=0.12)
    assert np.abs(noisy - truth).max() == 1 and noisy.min() >= 0 and noisy.max() <= 3
    assert {(a, b) for a, b in zip(truth, noisy) if a != b} == {(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)}


def test_ones_own_studies_become_the_three_parts(screening):
    parts = screening.train.studies[:60], screening.val.studies, screening.test.studies
    studies = [replace(study, meta={}) for part in parts for study in part]
    own = split_custom(studies)
    assert len(own.train) + len(own.val) + len(own.test) == len(studies) and own.train.entities == ("pneumoconiosis",)
    names = [name for name, part in zip(("train", "val", "test"), parts) for _ in part]
    named = [replace(study, meta={"split": name}) for study, name in zip(studies, names)]
    named[-1], named[0] = replace(named[-1], stage=None), replace(named[0], stage=None)
    found = split_custom(named)
    assert len(found.train) == 60 and len(found.test) == len(parts[2]) - 1, "without stage: in training only"
    with pytest.raises(ValueError, match="no patient of another"):
        split_custom([*named, replace(named[1], study_id="again", meta={"split": "test"})])
    with pytest.raises(ValueError, match="no study of stage 3"):
        split_custom([study for study in named if study.stage != 3])

"""Structured labels say nothing twice: a location gives up the words that its category holds."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from medvlp_lite.phantom import ENTITIES, UNSEEN, make_studies, sample_patient, write_report
from medvlp_lite.reports import extract
from medvlp_lite.reports.knowledge import own_words, structured_label, structured_labels
from medvlp_lite.reports.language_model import parse
from medvlp_lite.reports.structured_labels import reported_labels, true_labels
from medvlp_lite.reports.vocabulary import vocabulary
from medvlp_lite.sources import openi

CATEGORIES = (*vocabulary()["categories"], *ENTITIES, UNSEEN)


def repeats(label: str) -> bool:
    """Whether a word stands twice in a row, or the category's words stand before it, too."""
    words = label.split()
    return any(one == other for one, other in pairwise(words))


def spoken(report: str) -> list[str]:
    """Every label text that a report gives: from its triplets, and as labels of the categories used in training."""
    labels = reported_labels(report, CATEGORIES)
    for label in labels:
        assert not set((label.location or "").split()) & set(label.category.split()), label
    return [*structured_labels(extract(report), explain=False), *(structured_label(*label) for label in labels)]


@pytest.mark.parametrize(
    "report, label",
    [
        ("Mild pulmonary vascular congestion.", "mild pulmonary vascular congestion"),
        ("Prominent interstitial markings in both lungs.", "both lungs interstitial markings"),
        ("Moderate pleural thickening at the left apex.", "moderate left apex pleural thickening"),
        ("Right subcutaneous emphysema.", "right subcutaneous emphysema"),
        ("Small left pleural effusion.", "mild left pleural effusion"),
    ],
)
def test_no_word_is_said_twice(report, label):
    assert label in spoken(report)


def test_a_location_keeps_the_words_of_its_own():
    assert own_words("pulmonary vascular", "vascular congestion") == "pulmonary"
    assert own_words("vascular", "vascular congestion") is None is own_words(None, "mass")
    assert own_words("left pleural", "effusion") == "left pleural"


def test_answers_of_a_language_model_say_nothing_twice():
    answers = {
        "{yes} {moderate} {cardiac} {cardiac enlargement}": "moderate cardiac cardiomegaly",
        "{yes} {mild} {pulmonary vascular} {vascular congestion}": "mild pulmonary vascular congestion",
        "{yes} {severe} {left pleural} {pleural effusion}": "severe left pleural effusion",
    }
    for answer, label in answers.items():
        assert structured_labels(parse(answer).triplets, explain=False) == [label]


@pytest.mark.parametrize("style", ["varied", "terse", "template"])
def test_phantom_reports_give_labels_without_repeats(style):
    labels = [
        label for n in range(300) for label in spoken(write_report(sample_patient(n, prevalence=0.3), style=style).text)
    ]
    assert len(labels) > 500 and not [label for label in labels if repeats(label)]


def test_true_labels_say_nothing_twice():
    labels = [
        structured_label(*label) for s in make_studies(60, size=64) for label in true_labels(s.findings, CATEGORIES)
    ]
    assert len(labels) > 60 and not [label for label in labels if repeats(label)]


@pytest.mark.real
def test_real_reports_give_labels_without_repeats():
    folder = os.environ.get("MEDVLP_DATA")
    if not folder or not (Path(folder) / "openi").is_dir():
        pytest.skip("MEDVLP_DATA names no folder with Open-i reports")
    labels = [label for study in openi.load(Path(folder) / "openi").studies for label in spoken(study.report)]
    assert len(labels) > 3000 and not [label for label in labels if repeats(label)]

"""Answers of language models: read, repaired, or refused in one sentence."""

import json
import random
import string
import time

import pytest

from medvlp_lite.reports.language_model import LanguageModelFilter, parse
from medvlp_lite.studies import Triplet


@pytest.mark.parametrize(
    "answer,expected",
    [
        ("{yes} {mild} {left base} {atelectasis}", [("atelectasis", True, "left", "mild")]),
        ("{mild} {left base} {atelectasis}, {No} {NA} {pneumothorax}", [("atelectasis", True, "left", "mild"), ("pneumothorax", False, None, None)]),
        ("{atelectasis} {LEFT BASE} {Mild}", [("atelectasis", True, "left", "mild")]),
        ("{mask} {mask} {pleural effusions}", [("effusion", True, None, None)]),
        ("{unsure} {NA} {right upper lobe} {nodule}", [("nodule", None, "right", None)]),
        ('```json\n[{"severity": null, "location": "left lung", "category": "Pneumonia",},]\n```', [("pneumonia", True, "left", None)]),
        ("[['mild', 'heart', 'cardiac enlargement']]", [("cardiomegaly", True, None, "mild")]),
        ('{"present": false, "finding": "effusion", "side": "left"}', [("effusion", False, "left", None)]),
        ("{yes} {NA} {heart} {enlarged}", [("cardiomegaly", True, None, None)]),
        ("- small + right + effusion", [("effusion", True, "right", "mild")]),
        ("{small; left; granuloma}", [("granuloma", True, "left", "mild")]),
        ('Here it is: [{"finding": "effusion", "side": "left"}, {"finding": "mass", "side": "ri', [("effusion", True, "left", None), ("mass", True, None, None)]),
        ('[{"finding": effusion, "side": left}]', [("effusion", True, "left", None)]),
        ('[{"finding": "edema" "severity": "mild"} {"finding": "nodule"}]', [("edema", True, None, "mild"), ("nodule", True, None, None)]),
        ('{"present": False, "finding": "edema"}\n{"present": True, "finding": "mass"}', [("edema", False, None, None), ("mass", True, None, None)]),
        ('{"yes"} {"mild"} {"left"} {"effusion"}', [("effusion", True, "left", "mild")]),
    ],
)  # fmt: skip
def test_answers_are_read_and_repaired(answer, expected):
    got = parse(answer)
    assert [(t.entity, t.present, t.side, t.severity) for t in got.triplets] == expected and got.refused == ()


@pytest.mark.parametrize("piece", ['["', '{"', "['a',", '["a', '{"a": 1},', "{a}", "["])
def test_a_long_broken_answer_takes_seconds_at_most(piece):
    start = time.process_time()
    parse(piece * (50_000 // len(piece)))
    assert time.process_time() - start < 15


def test_two_findings_in_a_slot_become_two():
    answer = parse("{yes} {NA} {left base} {consolidation compatible with pneumonia}")
    assert [t.entity for t in answer.triplets] == ["consolidation", "pneumonia"]


@pytest.mark.parametrize("answer", ["I cannot help with that.", "{yes} {foo} {bar} {baz}", '["one", "two"]', "{}"])
def test_what_cannot_be_read_is_refused_in_one_sentence(answer):
    got = parse(answer)
    assert got.triplets == () and len(got.refused) == 1
    assert "\n" not in got.refused[0] and len(got.refused[0]) < 200


@pytest.mark.parametrize("answer", ["", "   ", "none", "NA."])
def test_an_empty_answer_is_no_fault(answer):
    assert parse(answer) == parse("")


def test_no_answer_makes_the_reader_fail():
    source = random.Random(0)
    pieces = ["{", "}", "[", "]", ",", '"', "'", ":", "+", "|", "```", "\n", " ", "no", "mild", "left", "effusion", "null", "true", "NaN", "1e999", "\\u12", "é", "\0"]  # fmt: skip
    for _ in range(3000):
        answer = "".join(
            source.choice([*pieces, source.choice(string.printable)]) for _ in range(source.randint(0, 60))
        )
        got = parse(answer, "left effusion")
        assert all(isinstance(t, Triplet) for t in got.triplets) and all(isinstance(line, str) for line in got.refused)
    for answer in (
        "{" * 5000,
        "[" * 100_000,
        "{a}" * 5000,
        json.dumps([[["x"]] * 10] * 10),
        "9" * 5000 + "]",
        "[" + "9" * 5000 + "]",
    ):
        parse(answer)


@pytest.mark.parametrize("wrap", [str, lambda s: [{"generated_text": s}], lambda s: [{"generated_text": [{"role": "user", "content": "?"}, {"role": "assistant", "content": s}]}], lambda s: [[{"generated_text": s}]]])  # fmt: skip
def test_callables_and_pipelines(wrap):
    reader = LanguageModelFilter(lambda prompt: wrap("{yes} {small} {left} {effusion}\n{yes} {NA} {NA} {wobble}"))
    report = "There is a left effusion {sic}."
    triplets = reader.extract(report)
    assert [(t.entity, t.side) for t in triplets] == [("effusion", "left")]
    assert report[slice(*triplets[0].span)] == "effusion" and len(reader.refused) == 1


def test_a_missing_report_is_an_empty_one_for_the_language_model():
    prompts = []
    reader = LanguageModelFilter(lambda prompt: prompts.append(prompt) or "none")
    assert reader.extract(None) == reader.extract("") == [] and prompts[0] == prompts[1]


def test_a_pipeline_that_repeats_the_prompt():
    reader = LanguageModelFilter(lambda prompt: [{"generated_text": prompt + "{no} {NA} {NA} {effusion}"}])
    assert [(t.entity, t.present) for t in reader("No effusion.")] == [("effusion", False)]

"""The knowledge base: complete, short, our own words, with sources; and the structured labels made from it."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from medvlp_lite.reports import extract, knowledge
from medvlp_lite.reports.structured_labels import explanation_of
from medvlp_lite.reports.vocabulary import vocabulary

TABLE = Path(__file__).parents[1] / "data" / "entity_table_6grams.txt"
PHANTOM = ("consolidation", "ground-glass opacity", "nodule", "mass", "effusion", "pneumothorax", "cardiomegaly", "edema", "atelectasis",
           "pleural thickening", "granuloma", "pneumoconiosis", "covid-19")  # fmt: skip
BASE = knowledge.base()
TEXTS = [row["text"] for group in ("entities", "categories") for row in BASE[group].values()]


def grams(text: str, size: int = 6) -> set[str]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}


def hashed(gram: str) -> str:
    return hashlib.sha256(gram.encode()).hexdigest()[:10]


def copied(texts: list[str], hashes: set[str]) -> list[str]:
    return sorted(gram for text in texts for gram in grams(text) if hashed(gram) in hashes)


def test_everything_is_described_in_the_official_order():
    entities = list(BASE["entities"])
    assert tuple(entities[:75]) == vocabulary()["entities"]
    assert tuple(BASE["categories"]) == vocabulary()["categories"]
    assert set(PHANTOM) <= set(entities)


@pytest.mark.parametrize("group", ["entities", "categories"])
def test_texts_are_short_sentences_with_a_source(group):
    for name, row in BASE[group].items():
        words = row["text"].split()
        assert 5 <= len(words) <= 40, name
        assert row["text"][0].isupper() and row["text"].endswith("."), name
        assert row["source"] in BASE["sources"], name
    assert len({row["text"] for row in BASE[group].values()}) == len(BASE[group])


def test_no_description_shares_six_words_with_the_published_table():
    hashes = set(TABLE.read_text(encoding="utf-8").split())
    assert len(hashes) > 900
    assert copied(TEXTS, hashes) == []


def test_the_guard_would_see_a_copy():
    sentence = "one two three four five six seven"
    assert copied([sentence], {hashed("two three four five six seven")}) == ["two three four five six seven"]


def test_no_text_shares_six_words_with_the_papers():
    folder = os.environ.get("MEDVLP_PAPERS")
    if not folder:
        pytest.skip("MEDVLP_PAPERS names no folder of papers")
    papers = set().union(*(grams(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.txt")))
    assert papers, "no .txt file in MEDVLP_PAPERS"
    assert sorted(set().union(*map(grams, TEXTS)) & papers) == []


def test_describe_falls_back_to_the_entity_of_a_finding():
    assert knowledge.describe("cystic fibrosis") == knowledge.describe("tail_abnorm_obs")
    assert "pleural" in knowledge.describe("effusion")
    assert knowledge.source("covid-19").startswith("Wong")


@pytest.mark.parametrize("look_up", [knowledge.describe, knowledge.source])
def test_unknown_names_are_refused_by_name(look_up):
    with pytest.raises(ValueError, match="'wobble'"):
        look_up("wobble")


def test_a_category_is_explained_or_at_least_described():
    assert explanation_of("effusion") == BASE["categories"]["effusion"]["text"]
    assert explanation_of("pneumoconiosis") == knowledge.describe("pneumoconiosis")
    assert explanation_of("wobble") == ""


def test_structured_labels_of_both_readings():
    text = explanation_of("effusion")
    slots = ("mild", "left pleural", "effusion")
    assert knowledge.structured_label(*slots, text, "code") == f"mild left pleural effusion. {text}"
    assert knowledge.structured_label(*slots, text) == (
        f"mild left pleural effusion, where effusion is {text[0].lower()}{text[1:-1]}"
    )
    assert knowledge.structured_label(None, None, "effusion") == "effusion"
    assert knowledge.structured_label(None, "right", "bruise") == "right bruise"
    with pytest.raises(ValueError, match="template"):
        knowledge.structured_label(None, None, "effusion", template="ours")


def test_labels_of_a_report_are_present_findings_once():
    triplets = extract("Small bilateral pleural effusions. No pneumothorax. Possible edema.")
    assert knowledge.structured_labels(triplets, explain=False) == ["mild bilateral pleural effusion"]

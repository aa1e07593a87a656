"""What MedFILIP's rows share and what each of them changes."""

from collections import Counter

import numpy as np
import pytest

from medvlp_lite.experiments import PROFILES, ROWS, phantom_data
from medvlp_lite.experiments.profiles import system_config
from medvlp_lite.experiments.runner import training_definition

LONG = PROFILES["long"]
MINE = [row for row in ROWS.values() if row.system == "medfilip"]


def options(name):
    return system_config("medfilip", ROWS[name].options, LONG)


def difference(one, other):
    first, second = options(one), options(other)
    return {key for key in first if first[key] != second[key]}


def test_shuffled_reports_are_those_of_other_studies():
    data, row = phantom_data(160, seed=3), ROWS["medfilip_shuffled"]
    wrong, again, other = (row.train_set(row, data, seed) for seed in (0, 0, 1))
    assert np.array_equal(wrong.images, data.train.images), "the images stay"
    assert Counter(wrong.reports) == Counter(data.train.reports) and wrong.reports == again.reports != other.reports
    by_report = {(s.report, s.findings): s.study_id for s in data.train.studies}
    sources = [by_report[s.report, s.findings] for s in wrong.studies]
    assert len(set(sources)) == len(sources), "every report is used once, with its own findings"
    assert all(source != study.study_id for source, study in zip(sources, wrong.studies))
    one, two = (training_definition(ROWS[name], LONG) for name in ("medfilip_shuffled", "medfilip"))
    assert {key for key in one if one[key] != two[key]} == {"train_set"}


def test_rows_share_data_training_and_measures():
    assert len({(row.draw, row.training, row.measures[:4]) for row in MINE if row.name != "medfilip_longer"}) == 1
    assert ROWS["medfilip"].training.config(LONG).batch_size == ROWS["convirt"].training.config(LONG).batch_size


def test_the_dial_moves_one_option():
    names = [f"medfilip_severity_{percent}" for percent in (0, 25, 50, 75, 100)]
    assert [options(name)["severity_similarity"] for name in names] == [0, 0.25, 0.5, 0.75, 1]
    assert all(difference(name, "medfilip_ontology") == {"severity_similarity"} for name in names)


@pytest.mark.parametrize("model", ["ssm", "words", "minilm", "ontology"])
def test_the_gate_is_a_row_of_every_similarity(model):
    gated = "medfilip_gated" if model == "ssm" else f"medfilip_{model}_gated"
    assert difference(gated, f"medfilip_{model}") == {"same_category_only"}
    assert difference(f"medfilip_{model}", "medfilip_ssm") <= {"similarity_model"}

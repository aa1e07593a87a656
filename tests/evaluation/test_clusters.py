from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medvlp_lite import experiments
from medvlp_lite.evaluation.clusters import (
    nearest_neighbour_purity,
    prototype_use,
    same_stage_retrieval,
    stage_one_measures,
)


def test_purity_is_one_for_clusters_and_chance_for_noise():
    generator = np.random.default_rng(6)
    groups = np.repeat(["a", "b"], 100)
    centres = np.where(groups == "a", 1.0, -1.0)[:, None] * np.ones((1, 5))
    assert nearest_neighbour_purity(centres + generator.normal(0, 0.1, (200, 5)), groups) == 1
    assert nearest_neighbour_purity(generator.normal(size=(200, 5)), groups) == pytest.approx(0.5, abs=0.07)
    with pytest.raises(ValueError, match="more than 10 points"):
        nearest_neighbour_purity(np.zeros((4, 2)), ["a"] * 4)


def test_same_stage_retrieval_by_hand():
    images, reports = np.eye(3), np.eye(3)[[1, 0, 2]]
    labels = np.array([0, 1, 2])
    assert same_stage_retrieval(images, reports, labels, 1) == pytest.approx(1 / 3)
    assert same_stage_retrieval(images, reports, np.array([0, 0, 2]), 1) == 1


def test_prototypes_that_are_stages_tell_all_of_them():
    system = SimpleNamespace(prototypes=SimpleNamespace(vectors=torch.eye(3)))
    labels = np.array([0, 0, 1, 2])
    found = prototype_use(system, np.eye(3)[labels], labels)
    assert found["usage"] == [0.5, 0.25, 0.25] and found["stage_information"] == pytest.approx(1)
    blind = prototype_use(system, np.eye(3)[[0, 1, 0, 1]], np.array([0, 0, 1, 1]))
    assert blind["stage_information"] == pytest.approx(0)
    assert prototype_use(SimpleNamespace(), np.eye(3), labels) == {}


def test_measures_of_the_first_stage():
    data = experiments.screening_data(160)
    found = stage_one_measures(experiments.load_pretrained("mskpt"), data)
    shares = np.bincount(data.test.stages, minlength=4) / len(data.test)
    assert found["purity_chance"] == pytest.approx((shares**2).sum()) and found["majority"] == shares.max()
    assert sum(map(sum, found["probe"]["confusion"])) == len(data.test) and 0 <= found["stage_information"] <= 1
    plain = experiments.load_pretrained("mskpt_global")
    assert "usage" not in stage_one_measures(plain, data)

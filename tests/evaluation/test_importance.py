import numpy as np
import pytest
import torch

from medvlp_lite import experiments
from medvlp_lite.evaluation.importance import (
    learn_scores,
    lung_area,
    patch_value,
    reconstruction_errors,
    share_inside,
    token_probe,
    weight_measures,
    weight_shares,
)
from medvlp_lite.records.record import plain


@pytest.fixture(scope="module")
def data():
    return experiments.phantom_data(80, seed=3)


@pytest.fixture(scope="module")
def system(data):
    """A MaCo with the pre-trained image side."""
    torch.manual_seed(0)
    return experiments.load_pretrained("maco")


def test_pre_trained_decoder_draws_better_than_grey(data):
    errors = reconstruction_errors(experiments.load_pretrained("maco_hr"), data.test.subset(range(8)))
    assert 0 < errors["0.5"] < 0.3 and errors["0.5"] < errors["0.9"]


def test_share_inside_the_lungs(system, data):
    area = lung_area(data.test, 14, limit=5)
    assert 0.2 < area.mean() < 0.5 and area.max() <= 1
    assert share_inside(np.full(196, 1 / 196), area) == pytest.approx(area.mean())
    one = np.zeros(196)
    one[area.argmax()] = 1
    assert share_inside(one, area) == pytest.approx(area.max())
    before = system.importance_score.weight.data.clone()
    system.importance_score.weight.data[:] = torch.from_numpy(area.ravel()).float()
    last = weight_shares(system, area)[-1]
    system.importance_score.weight.data[:] = before
    assert last["0.02"] > last["0.1"] > last["1.0"] > last["None"] == pytest.approx(area.mean())
    assert last["correlation"] == pytest.approx(1, abs=1e-5)


def test_what_a_patch_is_worth_is_the_loss_of_hiding_it(system, data, monkeypatch):
    def view(images, visible):
        """An image is known exactly when its first patch is visible."""
        known = (visible == 0).any(dim=1, keepdim=True)
        return torch.where(known, own[: len(images)], torch.ones_like(own[: len(images)]))

    own = torch.eye(16, system.config.dim)
    monkeypatch.setattr(system, "view", view)
    monkeypatch.setattr(system, "text_features", lambda texts: own[: len(texts)])
    value = patch_value(system, data.train.subset(range(16)), rounds=20)
    assert value.shape == (14, 14) and value.argmax() == 0 and value[0, 0] > 3 * np.abs(value.ravel()[1:]).max()


def test_only_the_score_layers_learn(system, data):
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    learned = learn_scores(system, data.train.subset(range(8)), block=3, rates=(0.001, 0.01), steps=3, batch=8)
    assert {rate: weights.shape for rate, weights in learned.items()} == {0.001: (3, 196), 0.01: (3, 196)}
    size = [np.abs(weights[0]).max() for weights in learned.values()]
    assert size[1] == pytest.approx(10 * size[0], rel=1e-3), "Adam's first step is the rate"
    after = system.state_dict()
    assert all(torch.equal(after[name].nan_to_num(), tensor.nan_to_num()) for name, tensor in before.items())


def test_measuring_leaves_the_random_state_alone(system, data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    patch_value(system, data.val.subset(range(4)), rounds=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_probe_reads_frozen_tokens_and_the_seed_draws_its_studies(system, data, monkeypatch):
    from medvlp_lite.evaluation import importance

    drawn, before = [], importance.pooled_features
    monkeypatch.setattr(importance, "pooled_features", lambda s, part: drawn.append(part.studies) or before(s, part))
    for seed in (0, 1):
        result = token_probe(system, data, limit=40, seed=seed)
        assert 0 <= result["macro"]["low"] <= result["macro"]["value"] <= 1
        assert set(result["per_class"]) <= set(data.test.entities)
    assert len(drawn[0]) == len(drawn[3]) == 40 and drawn[0] != drawn[3]


def test_what_is_measured_can_be_written_down(system, data):
    run = plain(weight_measures(system, data, block=3))
    assert len(run["weights"]) == 196 and np.shape(run["patch_value"]["map"]) == (14, 14)
    assert 0.2 < run["lungs"]["area"] < 0.5 and -1 <= run["patch_value"]["correlation_with_lungs"] <= 1

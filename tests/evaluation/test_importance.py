import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medvlp_lite import experiments
from medvlp_lite.evaluation.grounding import average_lesion
from medvlp_lite.evaluation.importance import (
    gini,
    learn_scores,
    lung_area,
    map_controls,
    patch_value,
    reconstruction_errors,
    token_probe,
    weight_measures,
    weight_shares,
)
from medvlp_lite.records.record import plain
from medvlp_lite.systems.maco import MaCo


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
    one = torch.zeros(196)
    one[area.argmax()] = 1
    before = system.importance_score.weight.data.clone()
    system.importance_score.weight.data[:] = torch.from_numpy(area.ravel()).float()
    last = weight_shares(system, area)[-1]
    assert last["0.02"] > last["0.1"] > last["1.0"] > last["None"] == pytest.approx(area.mean())
    assert last["correlation"] == pytest.approx(1, abs=1e-5) and 0.3 < last["gini"] < 1
    system.importance_score.weight.data[:] = one
    assert weight_shares(system, area, taus=(0.01,))[-1]["0.01"] == pytest.approx(area.max())
    system.importance_score.weight.data[:] = before


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
    assert run["temperature"] == pytest.approx(0.03, abs=1e-3) and 0 < run["mean_importance"] < math.log(2), "it faded"
    assert 0.2 < run["lungs"]["area"] < 0.5 and -1 <= run["patch_value"]["correlation_with_lungs"] <= 1


def test_gini_is_half_the_mean_difference_over_the_mean():
    shares = torch.rand(30, generator=torch.Generator().manual_seed(0)).tolist()
    slow = sum(abs(a - b) for a in shares for b in shares) / (2 * len(shares) ** 2) / (sum(shares) / len(shares))
    assert gini(torch.tensor(shares)) == pytest.approx(slow)
    assert gini(torch.ones(7)) == pytest.approx(0) and gini(torch.eye(10)[3]) == pytest.approx(0.9)


SHOWN = "ground-glass opacity"


class Known(MaCo):
    """Its token at a patch is 1 where the patch is bright, and every text is 1: the map is the image."""

    name = ""  # not registered

    def local_features(self, images):
        return F.adaptive_avg_pool2d(images, 14).permute(0, 2, 3, 1)

    def prompts(self, queries):
        signs = [[-1.0 if query.name == "mass" else 1.0] for query in queries]
        return torch.tensor(signs), torch.zeros(len(queries), 1)


@pytest.fixture(scope="module")
def bright():
    """A system and studies whose findings of one kind are the one bright place of the image; the weights lie evenly."""
    torch.manual_seed(0)
    data = experiments.phantom_data(300, seed=4)
    system = Known(experiments.load_pretrained("maco").tokenizer)
    system.image_projection = torch.nn.Identity()
    parts = []
    for part in (data.train, data.val, data.test):
        shown = part.subset(range(len(part)))
        masks = [study.region(SHOWN, 112, 112) for study in shown.studies]
        shown.images = np.stack([255 * (np.zeros((112, 112)) if m is None else m) for m in masks]).astype(np.uint8)
        parts.append(shown)
    return system, SimpleNamespace(train=parts[0], val=parts[1], test=parts[2])


def test_each_control_lacks_what_its_name_says(bright):
    system, data = bright
    found = map_controls(system, data, (SHOWN, "mass"))[SHOWN]
    assert found["own"] == pytest.approx(found["no weights"], abs=1e-4), "even weights are none"
    assert found["own"] == pytest.approx(found["shuffled weights"], abs=1e-4)
    own = found["own"]["cnr"]
    assert own > 1 and found["transplanted"]["cnr"] < 0.6 * own and found["lesion prior"]["cnr"] > 0.5
    assert found["other question"]["cnr"] == pytest.approx(-own, abs=1e-4), "the sign of the text turns the map"
    assert found["healthy"]["cnr"] == 0 and found["weights alone"]["cnr"] == pytest.approx(0, abs=1e-4)
    assert found["mean map"]["cnr"] < own


def test_weights_at_the_lesions_raise_the_own_map_and_shuffled_ones_do_not(bright):
    system, data = bright
    place = np.argmax([study.label(SHOWN) for study in data.test.studies])
    area = average_lesion([data.test.studies[place].region(SHOWN, 112, 112)], 14).ravel()
    system.importance_score.weight.data[:] = torch.from_numpy(area).float()
    absent = np.flatnonzero(data.test.labels[:, data.test.entities.index(SHOWN)] == 0)
    one = data.test.subset([*[place] * 4, *absent])
    found = map_controls(system, SimpleNamespace(train=data.train, test=one), (SHOWN,))[SHOWN]
    system.importance_score.weight.data.zero_()
    assert found["weights alone"]["pointing"] == found["own"]["pointing"] == 1
    assert found["shuffled weights"]["cnr"] < found["own"]["cnr"]

import numpy as np
import pytest
import torch

from medvlp_lite import experiments
from medvlp_lite.experiments import masked
from medvlp_lite.experiments.masking_cost import masking_cost, saved_activation_bytes
from medvlp_lite.phantom import ENTITIES
from medvlp_lite.records import MEASURES


@pytest.fixture(scope="module")
def data():
    return experiments.phantom_data(80, seed=3)


@pytest.fixture(scope="module")
def system(data):
    torch.manual_seed(0)
    return experiments.builder("maco", data)().eval()


def test_alignment_starts_from_the_committed_weights(system):
    start, text = experiments.load_pretrained("maco_hr"), experiments.load_pretrained("convirt")
    assert torch.equal(system.image_encoder.patches.weight, start.image_encoder.patches.weight)
    assert torch.equal(system.decoder.predict.weight, start.decoder.predict.weight)
    assert torch.equal(system.text_projection.weight, text.text_projection.weight)
    assert system.config["warm_start"].startswith("maco_hr ") and "convirt" in system.config["warm_start"]


def test_the_compared_pair_differs_in_the_weighting_alone(data):
    plain, weighted = (experiments.builder(name, data)().config for name in ("maco_contrastive", "maco"))
    differing = {key for key in plain if plain[key] != weighted[key]}
    assert differing == {"weighting", "score_rate", "trace_every"}
    scale = experiments.PROFILES["long"]
    assert experiments.plan_for("maco", scale, 1) == experiments.plan_for("maco_contrastive", scale, 1)


def test_pre_trained_decoder_draws_better_than_grey(data):
    errors = masked.reconstruction_errors(experiments.load_pretrained("maco_hr"), data.test.subset(range(8)))
    assert 0 < errors["0.5"] < 0.3 and errors["0.5"] < errors["0.9"]


def test_phrase_grounding_holds_every_setting(system, data):
    rows = masked.phrase_grounding(system, data, ENTITIES[:2], limit=3, taus=(None, 0.02), sigmas=(1.5,))
    assert {(row["tau_w"], row["sigma"]) for row in rows} == {(None, 1.5), (0.02, 1.5)}
    assert all(row["cnr_absolute"] >= abs(row["cnr"]) - 1e-9 and 0 <= row["miou"] <= 1 for row in rows)
    assert rows[0]["cnr"] == pytest.approx(rows[1]["cnr"], abs=1e-4), "zero weights are equal weights at any tau"
    run = {"phrase_grounding": rows}
    assert MEASURES["phrase CNR"].read(run) == pytest.approx(
        np.mean([row["cnr"] for row in rows if row["tau_w"] == 0.02])
    )


def test_share_inside_the_lungs(system, data):
    area = masked.lung_area(data.test, 14, limit=5)
    assert 0.2 < area.mean() < 0.5 and area.max() <= 1
    assert masked.share_inside(np.full(196, 1 / 196), area) == pytest.approx(area.mean())
    one = np.zeros(196)
    one[area.argmax()] = 1
    assert masked.share_inside(one, area) == pytest.approx(area.max())
    system.importance_score.weight.data[:] = torch.from_numpy(area.ravel()).float()
    last = masked.weight_shares(system, area)[-1]
    system.importance_score.weight.data.zero_()
    assert last["0.02"] > last["0.1"] > last["1.0"] > last["None"] == pytest.approx(area.mean())
    assert last["correlation"] == pytest.approx(1, abs=1e-5)
    run = {"lungs": {"area": float(area.mean()), "by_step": [last]}}
    assert MEASURES["lung share"].read(run) == last["0.02"] and MEASURES["lung area"].read(run) == area.mean()


def test_what_a_patch_is_worth_is_the_loss_of_hiding_it(system, data, monkeypatch):
    def view(images, visible):
        """An image is known exactly when its first patch is visible."""
        known = (visible == 0).any(dim=1, keepdim=True)
        return torch.where(known, own[: len(images)], torch.ones_like(own[: len(images)]))

    own = torch.eye(16, system.config["dim"])
    monkeypatch.setattr(system, "view", view)
    monkeypatch.setattr(system, "text_features", lambda texts: own[: len(texts)])
    value = masked.patch_value(system, data.train.subset(range(16)), rounds=20)
    assert value.shape == (14, 14) and value.argmax() == 0 and value[0, 0] > 3 * np.abs(value.ravel()[1:]).max()


def test_only_the_score_layers_learn(system, data):
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    learned = masked.learn_scores(system, data.train.subset(range(8)), block=3, rates=(0.001, 0.01), steps=3, batch=8)
    assert {rate: weights.shape for rate, weights in learned.items()} == {0.001: (3, 196), 0.01: (3, 196)}
    size = [np.abs(weights[0]).max() for weights in learned.values()]
    assert size[1] == pytest.approx(10 * size[0], rel=1e-3), "Adam's first step is the rate"
    after = system.state_dict()
    assert all(torch.equal(after[name].nan_to_num(), tensor.nan_to_num()) for name, tensor in before.items())


def test_measuring_leaves_the_random_state_alone(system, data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    masked.patch_value(system, data.val.subset(range(4)), rounds=1)
    assert torch.equal(torch.rand(3), expected)


def test_probe_reads_frozen_tokens(system, data):
    result = masked.token_probe(system, data, limit=40)
    assert 0 <= result["macro"]["low"] <= result["macro"]["value"] <= 1 and set(result["per_class"]) <= set(ENTITIES)
    assert MEASURES["probe AUC"].read({"probe": result}) == result["macro"]["value"]


def test_masked_encoding_costs_less():
    rows = masking_cost((0.0, 0.75), vit=[16, 2, 2, 4], image_size=56, batch=2, rounds=1, decoder=(16, 1, 2))
    encoder = [row for row in rows if row["part"] == "encoder"]
    assert [row["tokens"] for row in encoder] == [196, 49]
    assert encoder[1]["saved_activation_mb"] < 0.5 * encoder[0]["saved_activation_mb"] and all(
        row["seconds"] > 0 for row in rows
    )


def test_kept_bytes_by_hand():
    weight = torch.ones(10, requires_grad=True)
    values = torch.ones(10)
    assert saved_activation_bytes(lambda: (weight * values).sum()) == 40, "the gradient of the weight needs the values"
    assert saved_activation_bytes(lambda: (weight * weight.detach()).sum()) == 40, "one storage counts once"


def test_what_is_measured_can_be_written_down(system, data, tmp_path):
    from medvlp_lite.records.record import RunRecord

    record = RunRecord("maco", "smoke", [0], "d", metrics={"runs": [masked.alignment_measures(system, data)]})
    run = RunRecord.load(record.save(tmp_path)).metrics["runs"][0]
    assert len(run["weights"]) == 196 and np.shape(run["patch_value"]["map"]) == (14, 14)

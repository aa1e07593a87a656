import torch

from medvlp_lite.evaluation.efficiency import masking_cost, saved_activation_bytes


def test_masked_encoding_costs_less():
    rows = masking_cost((0.0, 0.75), vit=[16, 2, 2, 4], image_size=56, batch=2, rounds=1, decoder=(16, 1, 2))
    encoder = [row for row in rows if row["part"] == "encoder"]
    assert [row["tokens"] for row in encoder] == [196, 49]
    assert encoder[1]["saved_activation_mb"] < 0.5 * encoder[0]["saved_activation_mb"] and all(
        row["seconds"] > 0 for row in rows
    )


def test_saved_activation_bytes_by_hand():
    weight = torch.ones(10, requires_grad=True)
    values = torch.ones(10)
    assert saved_activation_bytes(lambda: (weight * values).sum()) == 40, "the gradient of the weight needs the values"
    assert saved_activation_bytes(lambda: (weight * weight.detach()).sum()) == 40, "one storage counts once"

import math

import numpy as np
import pytest
import torch

from medvlp_lite.components.entity_fusion import (
    EntityFusionDecoder,
    FusionLayer,
    cross_attention,
    entity_labels,
    existence_loss,
    position_loss,
    sample_positions,
)  # fmt: skip

NAN = float("nan")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_norm(x, layer):
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    out = np.zeros_like(x)
    for i, row in enumerate(x):
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        out[i] = [(v - mean) / math.sqrt(variance + layer.eps) * w + b for v, w, b in zip(row, weight, bias)]
    return out


def slow_attention(queries, memory, layer, heads):
    """Multi-head attention of one example by loops: out (Q, d) and head-averaged weights (Q, N)."""
    width = queries.shape[1]
    weight, bias = layer.in_proj_weight.detach().numpy(), layer.in_proj_bias.detach().numpy()
    q, k, v = (
        x @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width]
        for i, x in enumerate((queries, memory, memory))
    )
    size = width // heads
    out, mean = np.zeros_like(q), np.zeros((len(q), len(k)))
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for i in range(len(q)):
            logits = [sum(a * b for a, b in zip(q[i, part], row)) / math.sqrt(size) for row in k[:, part]]
            top = max(logits)
            shares = np.array([math.exp(value - top) for value in logits])
            shares /= shares.sum()
            mean[i] += shares / heads
            out[i, part] = shares @ v[:, part]
    return out @ layer.out_proj.weight.detach().numpy().T + layer.out_proj.bias.detach().numpy(), mean


def slow_layer(queries, memory, layer, heads):
    normed = slow_norm(queries, layer.norm1)
    queries = queries + slow_attention(normed, normed, layer.self_attn, heads)[0]
    seen, weights = slow_attention(slow_norm(queries, layer.norm2), memory, layer.multihead_attn, heads)
    queries = queries + seen
    hidden = np.maximum(
        slow_norm(queries, layer.norm3) @ layer.linear1.weight.detach().numpy().T + layer.linear1.bias.detach().numpy(),
        0,
    )
    return queries + hidden @ layer.linear2.weight.detach().numpy().T + layer.linear2.bias.detach().numpy(), weights


@pytest.mark.parametrize("memory_norm", [False, True])
def test_decoder_equals_the_slow_loops(memory_norm):
    torch.manual_seed(0)
    decoder = EntityFusionDecoder(8, 2, 2, 12, memory_norm=memory_norm).double().eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    queries, memory = torch.randn(1, 3, 8, dtype=torch.float64), torch.randn(1, 5, 8, dtype=torch.float64)
    fused, attention = decoder(queries, memory)
    state, seen = queries[0].numpy(), memory[0].numpy()
    seen = slow_norm(seen, decoder.memory_norm) if memory_norm else seen
    for depth, layer in enumerate(decoder.layers):
        state, weights = slow_layer(state, seen, layer, 2)
        assert np.allclose(attention[depth, 0].detach().numpy(), weights, atol=1e-9)
    assert np.allclose(fused[0].detach().numpy(), slow_norm(state, decoder.norm), atol=1e-9)


def test_a_normed_memory_has_no_scale():
    queries, memory = torch.randn(1, 3, 16), torch.randn(1, 9, 16)
    for memory_norm in (True, False):
        decoder = EntityFusionDecoder(16, 4, 1, 8, init_std=None, memory_norm=memory_norm).eval()
        same = torch.allclose(decoder(queries, 50 * memory + 3)[1], decoder(queries, memory)[1], atol=1e-4)
        assert same == memory_norm


@pytest.mark.parametrize("queries, places", [(3, 20), (12, 5)])
def test_cross_attention_equals_torchs_own(queries, places):
    torch.manual_seed(0)
    part = torch.nn.MultiheadAttention(16, 4, batch_first=True).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    asked = torch.randn(2, queries, 16, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(2, places, 16, dtype=torch.float64, requires_grad=True)
    results = []
    for out, weights in (cross_attention(part, asked, memory), part(asked, memory, memory)):
        gradient = torch.autograd.grad((out * out).sum() + weights.square().sum(), [asked, memory, part.in_proj_weight, part.out_proj.weight])  # fmt: skip
        results.append([out, weights, *gradient])
    for ours, theirs in zip(*results):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_attention_that_drops_out_keeps_its_mean():
    torch.manual_seed(0)
    part = torch.nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    torch.nn.init.normal_(part.in_proj_bias)
    queries, memory = torch.randn(1, 1, 8), torch.randn(1, 6, 8)
    still = cross_attention(part.eval(), queries, memory)[0]
    drawn = cross_attention(part.train(), queries.expand(8000, -1, -1), memory.expand(8000, -1, -1))[0]
    assert torch.allclose(drawn.mean(dim=0), still[0], atol=0.03) and drawn.std(dim=0).min() > 0.05


def test_attention_rows_sum_to_one_and_the_order_of_cells_does_not_matter():
    torch.manual_seed(0)
    decoder = EntityFusionDecoder(width=16, heads=4, layers=3, feedforward=8).eval()
    queries, memory = torch.randn(2, 4, 16), torch.randn(2, 9, 16)
    fused, attention = decoder(queries, memory)
    assert attention.shape == (3, 2, 4, 9) and torch.allclose(attention.sum(-1), torch.ones(3, 2, 4), atol=1e-5)
    order = torch.randperm(9, generator=generator())
    moved, moved_attention = decoder(queries, memory[:, order])
    assert torch.allclose(fused, moved, atol=1e-5) and torch.allclose(attention[..., order], moved_attention, atol=1e-5)


def test_queries_are_exchangeable_and_an_extra_one_is_heard():
    torch.manual_seed(0)
    layer = FusionLayer(16, 4, 8).eval()
    queries, memory = torch.randn(1, 4, 16), torch.randn(1, 9, 16)
    assert torch.allclose(layer(queries.flip(1), memory)[0], layer(queries, memory)[0].flip(1), atol=1e-5)
    with_extra = layer(torch.cat([queries, torch.randn(1, 1, 16)], 1), memory)[0][:, :4]
    assert not torch.allclose(with_extra, layer(queries, memory)[0], atol=1e-4), (
        "self-attention sees the 76th query (K-13)"
    )


def test_decoder_names_and_start_equal_the_official_ones():
    decoder = EntityFusionDecoder()
    names = dict(decoder.named_parameters())
    assert names["layers.3.multihead_attn.in_proj_weight"].shape == (768, 256)
    assert names["layers.0.linear1.weight"].shape == (1024, 256) and names["norm.weight"].shape == (256,)
    assert names["layers.2.self_attn.out_proj.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    with pytest.raises(ValueError, match="do not fit together"):
        decoder(torch.zeros(1, 2, 256), torch.zeros(1, 3, 128))


def test_entity_labels_by_hand():
    adjacency = torch.tensor([[[1, 0, NAN, 0], [NAN, NAN, NAN, 1]]])
    labels = entity_labels(adjacency)[0]
    assert labels[:2].tolist() == [1, 0] and labels[2].isnan() and labels[3] == 1


def slow_existence(logits, labels):
    total, count = 0.0, 0
    for row, truth in zip(logits.reshape(-1, 2).tolist(), labels.reshape(-1).tolist()):
        if not math.isnan(truth):
            total -= row[int(truth)] - math.log(math.exp(row[0]) + math.exp(row[1]))
            count += 1
    return total / count


def test_existence_loss_equals_the_loop_in_both_readings():
    logits = torch.randn(4, 5, 2, dtype=torch.float64, generator=generator())
    labels = torch.tensor(np.random.default_rng(0).choice([0.0, 1.0, NAN], (4, 5)))
    assert existence_loss(logits, labels).item() == pytest.approx(slow_existence(logits, labels), rel=1e-9)
    paper = existence_loss(logits[..., 1] - logits[..., 0], labels)
    assert paper.item() == pytest.approx(slow_existence(logits, labels), rel=1e-9)


def test_existence_loss_limits_and_gradient_only_where_known():
    logits = torch.zeros(2, 3, 2, requires_grad=True)
    labels = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, NAN]])
    loss = existence_loss(logits, labels)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert (logits.grad.abs().sum(-1) > 0).tolist() == (~labels.isnan()).tolist()
    logits.grad = None
    nothing = existence_loss(logits, torch.full((2, 3), NAN))
    nothing.backward()
    assert nothing.item() == 0 and logits.grad.abs().sum() == 0
    with pytest.raises(ValueError, match="do not fit labels"):
        existence_loss(torch.zeros(2, 3, 2), torch.zeros(2, 4))


def slow_position(predicted, positions, candidates, present, loc_log):
    values = []
    for b in range(len(predicted)):
        for q in range(predicted.shape[1]):
            if present[b, q]:
                products = [float(predicted[b, q] @ positions[c]) for c in candidates[b, q].tolist()]
                share = math.exp(products[0]) / sum(math.exp(p) for p in products)
                values.append(math.log(share) if loc_log else share)
    return -sum(values) / len(values)


@pytest.mark.parametrize("loc_log", [True, False])
def test_position_loss_equals_the_loop(loc_log):
    predicted = torch.randn(3, 4, 6, dtype=torch.float64, generator=generator(1))
    positions = torch.randn(9, 6, dtype=torch.float64, generator=generator(2))
    candidates = torch.stack([torch.randperm(9, generator=generator(i))[:8] for i in range(12)]).view(3, 4, 8)
    present = torch.rand(3, 4, generator=generator(3)) > 0.4
    fast = position_loss(predicted, positions, candidates, present, loc_log=loc_log)
    assert fast.item() == pytest.approx(slow_position(predicted, positions, candidates, present, loc_log), rel=1e-9)


def test_position_loss_limits():
    positions, candidates = torch.eye(8), torch.arange(8).expand(1, 2, 8)
    present = torch.tensor([[True, False]])
    assert position_loss(torch.zeros(1, 2, 8), positions, candidates, present).item() == pytest.approx(math.log(8))
    assert position_loss(torch.zeros(1, 2, 8), positions, candidates, present, loc_log=False).item() == pytest.approx(
        -1 / 8
    )
    sure = 100 * torch.eye(8)[:1].expand(1, 2, 8)
    assert position_loss(sure, positions, candidates, present).item() == pytest.approx(0, abs=1e-6)


def test_position_loss_without_any_present_entity_is_zero_and_not_nan():
    predicted = torch.randn(2, 3, 4, requires_grad=True)
    loss = position_loss(
        predicted, torch.randn(9, 4), torch.zeros(2, 3, 8, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool)
    )
    loss.backward()
    assert loss.item() == 0 and predicted.grad.abs().sum() == 0


def test_position_loss_teaches_only_present_entities():
    predicted = torch.randn(1, 2, 4, requires_grad=True)
    position_loss(
        predicted, torch.randn(9, 4), torch.arange(8).expand(1, 2, 8), torch.tensor([[True, False]])
    ).backward()
    assert predicted.grad[0, 0].abs().sum() > 0 and predicted.grad[0, 1].abs().sum() == 0


def test_the_released_draw_takes_rows_of_the_whole_matrix():
    torch.manual_seed(0)
    adjacency = torch.zeros(1, 4, 3)
    adjacency[0, 1, :2] = 1.0
    draws = torch.cat([sample_positions(adjacency, 3, pool="matrix") for _ in range(2000)])
    shares = torch.bincount(draws[:, 0, 1:].flatten(), minlength=4) / (2000 * 3)
    assert torch.allclose(shares, torch.tensor([3.0, 1.0, 3.0, 3.0]) / 10, atol=0.02), "cells that are not 1, per row"
    assert (draws[:, 0, 0] == 1).all() and (draws[:, 0, 1:] == 1).any(), "the true position may be its own negative"
    with pytest.raises(ValueError, match="pool must be"):
        sample_positions(adjacency, 3, pool="column")


def test_no_study_or_no_entity_gives_no_candidates():
    assert sample_positions(torch.zeros(0, 51, 3)).shape == (0, 3, 8)
    assert sample_positions(torch.zeros(2, 51, 0)).shape == (2, 0, 8)


def test_labels_of_other_conventions_are_refused():
    for logits in (torch.zeros(1, 2), torch.zeros(1, 2, 2)):
        with pytest.raises(ValueError, match="where -1 stands for unknown, put NaN"):
            existence_loss(logits, torch.tensor([[1.0, -1.0]]))


def test_positions_are_drawn_among_what_is_not_true_of_the_entity():
    torch.manual_seed(0)
    adjacency = torch.full((1, 12, 3), NAN)
    adjacency[0, [2, 5], 0] = 1.0
    adjacency[0, 3, 0] = 0.0
    adjacency[0, 7, 1] = 0.0
    draws = torch.cat([sample_positions(adjacency) for _ in range(400)])
    first, others = draws[:, 0, 0], draws[:, 0, 1:]
    assert set(first.tolist()) == {2, 5} and abs((first == 2).float().mean() - 0.5) < 0.1
    assert set(others.flatten().tolist()) == set(range(12)) - {2, 5}, "denied and unmentioned positions both serve"
    assert all(len(set(row)) == 7 for row in others.tolist())
    assert draws.shape == (400, 3, 8)
    with pytest.raises(ValueError, match="fewer than 7 that are not true"):
        sample_positions(torch.ones(1, 5, 2))


def test_a_small_attention_start_looks_everywhere_alike():
    queries, memory = torch.randn(2, 3, 32), 3 * torch.randn(2, 20, 32)

    def unevenness(attention_start):
        torch.manual_seed(0)
        decoder = EntityFusionDecoder(32, 4, 2, 64, 0.0, None, attention_start).eval()
        return float((decoder(queries, memory)[1].detach() - 1 / 20).abs().max())

    assert unevenness(0.0) < 1e-7 < unevenness(0.1) < 0.1 * unevenness(1.0)

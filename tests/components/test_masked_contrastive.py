import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medvlp_lite.components.contrastive import info_nce
from medvlp_lite.components.masked_contrastive import (
    ImportanceScore,
    importance,
    patch_weights,
    phrase_maps,
    sample_sentences,
    smooth_maps,
    upsample_maps,
    v1_alignment,
    v1_weights,
    weighted_info_nce,
    zero_shot_probability,
)  # fmt: skip

SIZES = [(1, 0.03), (2, 1.0), (5, 0.2), (16, 0.07)]


def random_case(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    similarity = 2 * torch.rand(size, size, dtype=torch.float64, generator=generator) - 1
    return similarity, importance(torch.randn(size, dtype=torch.float64, generator=generator))


def entropy(logits, i):
    """-log of the softmax share of entry i, by a loop."""
    top = max(logits)
    return -(logits[i] - top - math.log(sum(math.exp(value - top) for value in logits)))


def slow_weighted(similarity, weights, temperature, weighting):
    size, rows = len(weights), {"image": similarity.tolist(), "text": similarity.t().tolist()}
    w, sides = weights.tolist(), []
    if weighting == "joint_normalised":
        return slow_weighted(similarity, torch.tensor([x / (sum(w) / size) for x in w]).double(), temperature, "joint")
    for table in rows.values():
        plain = [entropy([value / temperature for value in table[i]], i) for i in range(size)]
        scaled = [entropy([w[i] * value / temperature for value in table[i]], i) for i in range(size)]
        sides.append({
            "none": sum(plain) / size,
            "logits": sum(scaled) / size,
            "loss": sum(a * b for a, b in zip(w, plain)) / sum(w),
            "joint": sum(a * b for a, b in zip(w, scaled)) / size,
        })  # fmt: skip
        sides[-1]["split"] = (sides[-1]["logits"] + sides[-1]["loss"]) / 2
    return sum(side[weighting] for side in sides) / 2


@pytest.mark.parametrize("size, temperature", SIZES)
@pytest.mark.parametrize("weighting", ["joint", "joint_normalised", "split", "logits", "loss", "none"])
def test_every_weighting_equals_the_loop(size, temperature, weighting):
    similarity, weights = random_case(size)
    fast = weighted_info_nce(similarity, weights, temperature, weighting=weighting).item()
    assert fast == pytest.approx(slow_weighted(similarity, weights, temperature, weighting), rel=1e-6)


@pytest.mark.parametrize("constant", [1e-3, 0.08, 5.0])
def test_normalised_weights_do_not_fade_the_contrast(constant):
    """Mean weight 1: a common factor changes nothing, and equal weights are no weights; "joint" fades with its weights."""
    similarity, weights = random_case(8)
    value = weighted_info_nce(similarity, weights, 0.1, weighting="joint_normalised").item()
    assert weighted_info_nce(similarity, constant * weights, 0.1, weighting="joint_normalised").item() == pytest.approx(
        value
    )
    mean_one = weights / weights.mean()
    assert mean_one.mean().item() == pytest.approx(1, abs=1e-15)
    assert value == pytest.approx(weighted_info_nce(similarity, mean_one, 0.1, weighting="joint").item(), rel=1e-12)
    equal = torch.full((8,), constant, dtype=torch.float64)
    plain = info_nce(similarity, 0.1).item()
    assert weighted_info_nce(similarity, equal, 0.1, weighting="joint_normalised").item() == pytest.approx(plain)
    faded = weighted_info_nce(similarity, equal, 0.1, weighting="joint").item()
    assert faded < 0.2 * plain or constant > 1


def test_gradient_of_normalised_weights_only_moves_scores_against_each_other():
    similarity, _ = random_case(6)
    raw = importance(torch.linspace(-1, 1, 6, dtype=torch.float64)).requires_grad_()
    weighted_info_nce(similarity, raw, 0.1, weighting="joint_normalised").backward()
    assert raw.grad.abs().max() > 1e-4 and (raw.grad * raw.detach()).sum().abs() < 1e-12, "along the weights it is flat"
    step, frozen, start = 1e-6, (raw / raw.mean()).detach(), raw.detach()

    def value(moved):
        logits = torch.stack([similarity, similarity.t()]) / 0.1 * (moved / moved.mean()).view(1, -1, 1)
        return (frozen * (logits.logsumexp(-1) - logits.diagonal(dim1=1, dim2=2))).mean()

    for place in range(6):
        nudge = torch.zeros(6, dtype=torch.float64)
        nudge[place] = step
        numeric = (value(start + nudge) - value(start - nudge)) / (2 * step)
        assert raw.grad[place].item() == pytest.approx(numeric.item(), rel=1e-4, abs=1e-8)


def test_zero_fc_weights_give_half_of_info_nce_at_two_temperatures():
    similarity, _ = random_case(8)
    score = ImportanceScore(49).double()
    weights = importance(score((torch.rand(8, 49) < 0.5).double()))
    assert torch.allclose(weights, torch.full((8,), math.log(2), dtype=torch.float64))
    expected = (info_nce(similarity, 0.03 / math.log(2)) + info_nce(similarity, 0.03)) / 2
    split = weighted_info_nce(similarity, weights, 0.03, weighting="split")
    assert split.item() == pytest.approx(expected.item(), rel=1e-12)
    joint = weighted_info_nce(similarity, weights, 0.03, weighting="joint")
    assert joint.item() == pytest.approx(math.log(2) * info_nce(similarity, 0.03 / math.log(2)).item(), rel=1e-12)


@pytest.mark.parametrize("constant", [0.01, 1.0, 30.0])
def test_constant_scores_cancel_in_the_loss_weighting(constant):
    similarity, _ = random_case(8)
    weights = torch.full((8,), constant, dtype=torch.float64)
    loss = weighted_info_nce(similarity, weights, 0.05, weighting="loss")
    assert loss.item() == pytest.approx(info_nce(similarity, 0.05).item(), rel=1e-12)


def gradient(weighting, **options):
    similarity, _ = random_case(6)
    raw = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    weighted_info_nce(similarity, importance(raw), 0.1, weighting=weighting, **options).backward()
    return raw.grad


def test_gradient_reaches_the_score_only_where_the_equations_say():
    similarity, _ = random_case(6)
    raw = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    assert not weighted_info_nce(similarity, importance(raw), 0.1, weighting="loss").requires_grad
    assert not weighted_info_nce(similarity, importance(raw), 0.1, weighting="none").requires_grad
    assert torch.allclose(gradient("split"), gradient("logits") / 2)
    assert not torch.allclose(gradient("joint"), gradient("joint", detach=False))
    assert gradient("loss", detach=False).abs().sum() > 0


def test_joint_gradient_is_that_of_the_logits_times_the_frozen_weight():
    similarity, _ = random_case(6)
    raw = torch.linspace(-1, 1, 6, dtype=torch.float64)
    step, frozen = 1e-6, importance(raw)

    def value(moved):
        logits = torch.stack([similarity, similarity.t()]) / 0.1 * importance(moved).view(1, -1, 1)
        losses = logits.logsumexp(-1) - logits.diagonal(dim1=1, dim2=2)
        return (frozen * losses).mean()

    for place in range(6):
        nudge = torch.zeros(6, dtype=torch.float64)
        nudge[place] = step
        numeric = (value(raw + nudge) - value(raw - nudge)) / (2 * step)
        assert gradient("joint")[place].item() == pytest.approx(numeric.item(), rel=1e-5)


def test_without_detaching_the_score_can_switch_the_loss_off():
    similarity, _ = random_case(6)
    tiny = torch.full((6,), 1e-6, dtype=torch.float64)
    assert weighted_info_nce(similarity, tiny, 0.1, weighting="joint").item() < 1e-4
    assert gradient("joint", detach=False).sum() > 0, "descent lowers every score"


def test_a_score_sharpens_its_row_in_the_journal_and_softens_it_in_v1():
    row = torch.tensor([0.9, 0.5, 0.1])
    peak = lambda logits: logits.softmax(-1).max().item()  # noqa: E731
    assert peak(importance(torch.tensor(2.0)) * row) > peak(importance(torch.tensor(-2.0)) * row)
    heat = v1_weights(torch.tensor([2.0, -2.0]), group=2)[0]
    assert heat[0] > heat[1] and peak(row / heat[0]) < peak(row / heat[1])


@pytest.mark.parametrize("size, group", [(4, 2), (6, 16), (7, 3), (1, 1)])
def test_v1_equals_the_loop(size, group):
    similarity, _ = random_case(size)
    scores = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).tolist()
    total = 0.0
    for start in range(0, size, group):
        part = scores[start : start + group]
        for place, p in enumerate(part):
            i = start + place
            heat = math.exp(math.exp(p / 1.0) / sum(math.exp(q / 1.0) for q in part))
            share = math.exp(p / 16) / sum(math.exp(q / 16) for q in part)
            assert 1 < heat <= math.e + 1e-12
            total += share * entropy([value / (heat * 0.03) for value in similarity[i].tolist()], i)
    fast = v1_alignment(similarity, torch.tensor(scores, dtype=torch.float64), 0.03, group=group)
    assert fast.item() == pytest.approx(total / math.ceil(size / group), rel=1e-9)


def test_v1_loss_weights_carry_no_gradient_and_temperatures_do():
    scores = torch.randn(8, dtype=torch.float64, requires_grad=True)
    heat, shares = v1_weights(scores, group=4)
    assert heat.requires_grad and not shares.requires_grad
    assert torch.allclose(shares.view(2, 4).sum(1), torch.ones(2, dtype=torch.float64))


def test_the_score_is_the_sum_of_weights_of_visible_patches():
    score = ImportanceScore(4)
    score.weight.data = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    score.bias.data.fill_(0.5)
    assert score(torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1]])).tolist() == [5.5, 8.5]


def test_bad_input_is_named():
    square, weights = torch.zeros(3, 3), torch.ones(3)
    with pytest.raises(ValueError, match="weighting must be one of joint"):
        weighted_info_nce(square, weights, 0.1, weighting="both")
    for similarity, given in ((torch.zeros(3, 2), weights), (square, torch.ones(2))):
        with pytest.raises(ValueError, match=r"need similarity \(B, B\)"):
            weighted_info_nce(similarity, given, 0.1)
    with pytest.raises(ValueError, match="group must be at least 1"):
        v1_weights(weights, group=0)
    with pytest.raises(ValueError, match="tau must be positive"):
        patch_weights(weights, 0)
    with pytest.raises(ValueError, match="mode must be"):
        upsample_maps(torch.zeros(1, 1, 2, 2), 4, "cubic")


def test_zero_shot_probability_by_hand():
    images, positive, negative = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 1.0]]), torch.tensor([[1.0, -1.0]])
    by_hand = math.exp(2.5) / (math.exp(2.5) + math.exp(-1.0))
    assert zero_shot_probability(images, positive, negative).item() == pytest.approx(by_hand, rel=1e-6)


def test_phrase_map_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    tokens, texts = torch.randn(2, 3, 3, 4, generator=generator), torch.randn(5, 4, generator=generator)
    weight = torch.randn(9, generator=generator)
    shares = [math.exp(w / 0.5) / sum(math.exp(v / 0.5) for v in weight.tolist()) for w in weight.tolist()]
    maps = phrase_maps(tokens, texts, patch_weights(weight, 0.5))
    for b, q, r, c in [(0, 0, 0, 0), (1, 4, 2, 1), (1, 2, 0, 2)]:
        assert maps[b, q, r, c].item() == pytest.approx(
            shares[3 * r + c] * float(tokens[b, r, c] @ texts[q]), rel=1e-4, abs=1e-7
        )


def test_patch_weights_between_uniform_and_one_patch():
    weight = torch.tensor([0.1, 0.3, 0.2])
    assert torch.allclose(patch_weights(weight, None), torch.full((3,), 1 / 3))
    assert torch.allclose(patch_weights(weight, 1e4), torch.full((3,), 1 / 3), atol=1e-4)
    assert patch_weights(weight, 1e-3).tolist() == pytest.approx([0, 1, 0], abs=1e-6)


@pytest.mark.parametrize("side, sigma", [(14, 1.5), (5, 1.5), (3, 2.0), (8, 0.4)])
def test_smoothing_equals_scipy(side, sigma):
    maps = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smooth = smooth_maps(maps, sigma)
    for b in range(2):
        for q in range(3):
            assert np.allclose(smooth[b, q].numpy(), gaussian_filter(maps[b, q].numpy(), sigma), atol=1e-9)
    assert smooth_maps(maps, 0) is maps


def test_upsampling_by_hand():
    small = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert upsample_maps(small, 4)[0, 0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert upsample_maps(small, 4, "nearest")[0, 0, 0].tolist() == [0, 0, 1, 1]


def test_as_many_sentences_stay_as_the_equation_says():
    """k is uniform in 1..n, and every sentence comes first equally often."""
    torch.manual_seed(0)
    ids = torch.tensor([[[5, 0], [6, 7], [8, 0], [0, 0]], [[9, 0], [0, 0], [0, 0], [0, 0]]]).repeat(1500, 1, 1)
    drawn = sample_sentences(ids, 10, pad=0, start=1, end=2)
    sentences = (drawn[:, :, None] == torch.tensor([5, 6, 8])).any(dim=1).sum(dim=1)
    assert all(abs((sentences[::2] == k).float().mean() - 1 / 3) < 0.04 for k in (1, 2, 3))
    assert all(abs((drawn[::2, 1] == first).float().mean() - 1 / 3) < 0.04 for first in (5, 6, 8))
    assert (drawn[1::2, :3] == torch.tensor([1, 9, 2])).all() and not drawn[1::2, 3:].any()
    assert all(row.tolist().index(7) == row.tolist().index(6) + 1 for row in drawn if 7 in row), (
        "words keep their order"
    )
    assert (sample_sentences(ids, 3, pad=0, start=1, end=2) == 2).any(dim=1).all(), "a cut text is closed"
    assert (
        sample_sentences(ids, 10, pad=0, start=1).max() == 9
        and not (sample_sentences(ids, 9, pad=0, start=1) == 2).any()
    )

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medvlp_lite.components.contrastive import info_nce
from medvlp_lite.components.prototype_alignment import same_class
from medvlp_lite.components.token_alignment import (
    batch_token_alignment,
    clipped_attention,
    grouping_weights,
    intra_modal_loss,
    token_alignment,
)


def units(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def softmax(values):
    top = max(values)
    total = sum(math.exp(value - top) for value in values)
    return [math.exp(value - top) / total for value in values]


def slow_group(row, temperature, grouping):
    if grouping == "softmax":
        return softmax([value / temperature for value in row])
    low, high = min(row), max(row)
    stretched = [1.0 if high == low else (value - low) / (high - low) for value in row]
    kept = [value if value >= 1 / len(row) else 0.0 for value in stretched]
    return [value / sum(kept) for value in kept]


def slow_contexts(queries, others, temperature=0.1, grouping="softmax"):
    rows = []
    for query in queries:
        weights = slow_group([float(query @ other) for other in others], temperature, grouping)
        mean = sum(weight * other for weight, other in zip(weights, others))
        rows.append(mean / math.sqrt(float(mean @ mean)))
    return rows


def slow_recognition(tokens, contexts, weights, temperature):
    grid = [[float(token @ context) / temperature for context in contexts] for token in tokens]
    value = 0.0
    for place, weight in enumerate(weights):
        column = [row[place] for row in grid]
        value -= weight * (math.log(softmax(grid[place])[place]) + math.log(softmax(column)[place])) / 2
    return value


MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True, False, True, True, False]])


@pytest.mark.parametrize("grouping", ["softmax", "sparse"])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_token_alignment_equals_the_loop(grouping, temperature):
    patches, words = units(3, 4, 6), units(3, 5, 6, seed=1)
    word_weights = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * MASK
    value = 0.0
    for image, text, real, weights in zip(patches.numpy(), words.numpy(), MASK.numpy(), word_weights.numpy()):
        text = text[real]
        value += (
            slow_recognition(text, slow_contexts(text, image, temperature, grouping), weights[real], temperature) / 3
        )
        even = [1 / len(image)] * len(image)
        value += slow_recognition(image, slow_contexts(image, text, temperature, grouping), even, temperature) / 3
    options = {"temperature": temperature, "grouping": grouping}
    fast = token_alignment(patches, words, MASK, word_weights=word_weights, **options)
    assert fast.item() == pytest.approx(value, abs=1e-9)
    default, even = (
        token_alignment(patches, words, MASK, **options, word_weights=weights)
        for weights in (None, MASK / MASK.sum(dim=1, keepdim=True))
    )
    assert default.item() == pytest.approx(even.item())


def test_padding_changes_nothing_and_gets_no_gradient():
    patches, words = units(3, 4, 6), units(3, 5, 6, seed=1)
    other = words.clone()
    other[~MASK] = units(int((~MASK).sum()), 6, seed=9)
    for loss in (token_alignment, batch_token_alignment):
        leaf = words.clone().requires_grad_()
        value = loss(patches, leaf, MASK)
        assert value.item() == pytest.approx(loss(patches, other, MASK).item(), abs=1e-9)
        value.backward()
        assert leaf.grad[~MASK].abs().sum() == 0 and leaf.grad[MASK].abs().sum() > 0
        assert leaf.grad.isfinite().all()


def test_limits_of_token_alignment():
    one = units(2, 1, 6)
    assert token_alignment(one, units(2, 1, 6, seed=1), torch.ones(2, 1, dtype=torch.bool)).item() == pytest.approx(0)
    same = one.expand(2, 4, 6)
    blind = token_alignment(same, same, torch.ones(2, 4, dtype=torch.bool)).item()
    assert blind == pytest.approx(2 * math.log(4)), "tokens that are all alike cannot be told apart, on either side"
    clear = torch.eye(4).expand(2, 4, 4)
    assert token_alignment(clear, clear, torch.ones(2, 4, dtype=torch.bool)).item() < 0.01


def test_sparse_grouping_by_hand():
    similarity = torch.tensor([[[0.0, 1.0, 0.2, 0.6]], [[0.5, 0.5, 0.5, 0.5]]])
    weights = grouping_weights(similarity, grouping="sparse")
    assert torch.allclose(weights[0, 0], torch.tensor([0, 1, 0, 0.6]) / 1.6), "0.2 is below 1/4"
    assert torch.allclose(weights[1, 0], torch.full((4,), 0.25))
    similarity[0, 0, 2] = 0.3
    masked = grouping_weights(similarity, torch.tensor([[True, False, True, True]] * 2), grouping="sparse")
    assert torch.allclose(masked[0, 0], torch.tensor([0, 0, 0.5, 1]) / 1.5), "1/3 of three tokens that are left"
    assert torch.allclose(masked.sum(dim=-1), torch.ones(2, 1)) and (masked[:, :, 1] == 0).all()


def test_weights_sum_to_one_and_bad_input_is_named():
    for grouping in ("softmax", "sparse"):
        weights = grouping_weights(units(3, 4, 5), MASK, grouping=grouping)
        assert torch.allclose(weights.sum(dim=-1), torch.ones(3, 4, dtype=torch.float64))
        assert (weights.transpose(1, 2)[~MASK] == 0).all()
    with pytest.raises(ValueError, match="softmax, sparse"):
        grouping_weights(units(1, 2, 3), grouping="hard")
    with pytest.raises(ValueError, match="no token at all"):
        grouping_weights(units(1, 2, 3), torch.zeros(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="do not fit"):
        token_alignment(units(3, 4, 6), units(3, 5, 7), MASK)
    with pytest.raises(ValueError, match="no token at all"):
        batch_token_alignment(units(3, 4, 6), units(3, 5, 6), MASK & False)


def test_single_precision_holds_the_least_temperature_and_a_lower_one_is_refused():
    patches, words = units(3, 4, 6), units(3, 5, 6, seed=1)
    exact = token_alignment(patches, words, MASK, temperature=0.025).item()
    assert token_alignment(patches.float(), words.float(), MASK, temperature=0.025).item() == pytest.approx(
        exact, rel=1e-4
    )
    with torch.autocast("cpu", torch.bfloat16):
        half = token_alignment(patches.float(), words.float(), MASK, temperature=0.025)
    assert half.item() == pytest.approx(exact, rel=1e-4), "in full precision whatever the training's"
    with pytest.raises(ValueError, match=r"at least 0\.025, got 0\.02"):
        token_alignment(patches, words, MASK, temperature=0.02)


def slow_batch(patches, words, mask, positives, compete, scales=(4.0, 5.0, 10.0)):
    size = len(words)
    z = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            sentence = [word for word, real in zip(words[j], mask[j]) if real]
            scores = [[float(word @ patch) for patch in patches[i]] for word in sentence]
            if compete:
                columns = [softmax([row[p] for row in scores]) for p in range(len(patches[i]))]
                scores = [[columns[p][w] for p in range(len(patches[i]))] for w in range(len(sentence))]
            total = 0.0
            for word, row in zip(sentence, scores):
                seen = sum(s * patch for s, patch in zip(softmax([scales[0] * value for value in row]), patches[i]))
                cosine = float(word @ seen) / math.sqrt(float(word @ word) * float(seen @ seen))
                total += math.exp(scales[1] * cosine)
            z[i, j] = math.log(total)
    value = 0.0
    for matrix, wanted in ((z, positives), (z.T, positives.T)):
        for row, partners in zip(matrix, wanted):
            shares = softmax([scales[2] * entry for entry in row])
            chosen = [share for share, partner in zip(shares, partners) if partner]
            value -= sum(map(math.log, chosen)) / len(chosen) / (2 * size)
    return value


@pytest.mark.parametrize("compete", [True, False])
@pytest.mark.parametrize("labels", [[0, 1, 2], [1, 1, 0]])
def test_batch_token_alignment_equals_the_loop(compete, labels):
    patches, words = 1.7 * units(3, 4, 6), 0.6 * units(3, 5, 6, seed=1)
    positives = same_class(torch.tensor(labels))
    slow = slow_batch(patches.numpy(), words.numpy(), MASK.numpy(), positives.numpy(), compete)
    fast = batch_token_alignment(patches, words, MASK, positives=positives, compete=compete)
    assert fast.item() == pytest.approx(slow, abs=1e-9)


def test_clipped_attention_by_hand():
    attention = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4, 9.0]]).requires_grad_()
    mask = torch.tensor([[True] * 5 + [False]])
    weights = clipped_attention(attention, mask)
    expected = np.clip([0.0, 0.1, 0.2, 0.3, 0.4], *np.quantile([0.0, 0.1, 0.2, 0.3, 0.4], [0.1, 0.9]))
    assert np.allclose(weights[0, :5].numpy(), expected / expected.sum(), atol=1e-6)
    assert weights[0, 5] == 0 and not weights.requires_grad


def test_intra_modal_loss_equals_the_loop_and_is_zero_when_all_agree():
    images, texts = units(5, 4).requires_grad_(), units(5, 4, seed=1)
    value = 0.0
    for i in range(5):
        inner = [(texts[i] @ texts[j] + images[i] @ images[j]).item() / (2 * 0.3) for j in range(5)]
        target, guess = softmax(inner), softmax([(texts[i] @ images[j]).item() / 0.2 for j in range(5)])
        value += sum(q * math.log(q / p) for q, p in zip(target, guess)) / 5
    loss = intra_modal_loss(images, texts, temperature=0.2, target_temperature=0.3)
    assert loss.item() == pytest.approx(value, abs=1e-9)
    assert intra_modal_loss(texts, texts).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="one shape"):
        intra_modal_loss(images, texts[:4])


def test_soft_target_carries_no_gradient():
    """Turning images and texts together leaves the inner similarities; only the across term may move them."""
    images, texts = units(4, 3).requires_grad_(), units(4, 3, seed=1).requires_grad_()
    intra_modal_loss(images, texts, temperature=1.0, target_temperature=0.5).backward()
    leaf = images.detach().clone().requires_grad_()
    fixed = ((texts @ texts.t() + images @ images.t()) / 1.0).detach().softmax(dim=-1)
    across = F.log_softmax(texts.detach() @ leaf.t(), dim=-1)
    F.kl_div(across, fixed, reduction="batchmean").backward()
    assert torch.allclose(images.grad, leaf.grad)


def test_two_reports_of_one_stage_are_negatives_without_labels():
    """Within-pair alignment never compares two patients, so it cannot make a false negative; the batch form does."""
    patches, words = units(2, 4, 6), units(2, 3, 6, seed=1).requires_grad_()
    mask = torch.ones(2, 3, dtype=torch.bool)
    first = token_alignment(patches, words, mask)
    alone = (token_alignment(patches[:1], words[:1], mask[:1]) + token_alignment(patches[1:], words[1:], mask[1:])) / 2
    assert first.item() == pytest.approx(alone.item())
    together = batch_token_alignment(patches, words, mask, positives=same_class(torch.tensor([1, 1])))
    apart = batch_token_alignment(patches, words, mask)
    assert together.item() != pytest.approx(apart.item()) and info_nce(torch.zeros(2, 2), 1.0) > 0

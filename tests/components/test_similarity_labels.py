import itertools
import math

import pytest
import torch

from medvlp_lite.components.similarity_labels import (
    identity_labels,
    itm_terms,
    multi_hot_labels,
    similarity_labels,
    soft_cross_entropy,
    text_similarity,
)

IMAGES, OWNERS = 4, torch.tensor([0, 0, 1, 3, 3, 3])  # image 2 owns nothing
CATEGORIES = torch.tensor([0, 1, 0, 2, 0, 2])


@pytest.fixture
def vectors():
    torch.manual_seed(1)
    return torch.randn(6, 5)


def slow_labels(vectors, gate=False, clamp=True):
    rows = []
    for i in range(IMAGES):
        row = []
        for j in range(6):
            near = []
            for a in range(6):
                if OWNERS[a] == i:
                    norm = math.sqrt(sum(float(x) ** 2 for x in vectors[a]) * sum(float(x) ** 2 for x in vectors[j]))
                    value = sum(float(x) * float(y) for x, y in zip(vectors[a], vectors[j])) / norm
                    near.append(value if not gate or CATEGORIES[a] == CATEGORIES[j] else 0.0)
            best = max(near, default=0.0)
            row.append(max(best, 0.0) if clamp else best)
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("gate, clamp", itertools.product([False, True], [False, True]))
def test_the_matrix_equals_a_slow_loop(vectors, gate, clamp):
    fast = similarity_labels(
        text_similarity(vectors),
        OWNERS,
        IMAGES,
        categories=CATEGORIES if gate else None,
        clamp_min=0.0 if clamp else None,
    )
    assert torch.allclose(fast, slow_labels(vectors, gate, clamp), atol=1e-6)


def test_own_labels_are_one_and_an_image_without_labels_is_zero(vectors):
    labels = similarity_labels(text_similarity(vectors), OWNERS, IMAGES)
    assert torch.allclose(labels[OWNERS, torch.arange(6)], torch.ones(6), atol=1e-6)
    assert labels[2].eq(0).all() and labels.min() >= 0 and labels.max() <= 1 + 1e-6


def test_the_gate_zeroes_other_categories(vectors):
    labels = similarity_labels(text_similarity(vectors), OWNERS, IMAGES, categories=CATEGORIES)
    shared = multi_hot_labels(OWNERS, CATEGORIES, IMAGES).bool()
    assert labels[~shared].eq(0).all()
    open_labels = similarity_labels(text_similarity(vectors.abs()), OWNERS, IMAGES)
    assert (open_labels[~shared] > 0).any(), "without the gate other categories keep their similarity"


def test_the_gate_comes_before_the_maximum():
    similarity = torch.tensor([[1.0, -0.4, 0.9], [-0.4, 1.0, 0.3], [0.9, 0.3, 1.0]])
    owners, categories = torch.tensor([0, 1, 1]), torch.tensor([5, 5, 7])
    labels = similarity_labels(similarity, owners, 2, categories=categories, clamp_min=None)
    assert labels[0].tolist() == pytest.approx([1.0, -0.4, 0.0]), "alone, a negative similarity stays"
    assert labels[1].tolist() == pytest.approx([0.0, 1.0, 1.0]), "beside a label of another category it becomes 0"


def test_a_power_spreads_crowded_similarities_and_keeps_their_order(vectors):
    plain = similarity_labels(text_similarity(vectors), OWNERS, IMAGES)
    sharp = similarity_labels(text_similarity(vectors), OWNERS, IMAGES, power=3)
    slow = [[value**3 for value in row] for row in slow_labels(vectors).tolist()]
    assert torch.allclose(sharp, torch.tensor(slow), atol=1e-6) and (sharp <= plain + 1e-6).all()
    hard = similarity_labels(torch.tensor([[1.0, 0.9], [0.9, 1.0]]), torch.tensor([0, 1]), 2, power=1000)
    assert torch.allclose(hard, identity_labels(torch.arange(2), 2)), "in the limit only equal labels count"


def test_permuting_images_or_labels_permutes_the_matrix(vectors):
    labels = similarity_labels(text_similarity(vectors), OWNERS, IMAGES)
    images, texts = torch.tensor([3, 1, 0, 2]), torch.tensor([5, 0, 3, 1, 4, 2])
    moved = similarity_labels(text_similarity(vectors[texts]), images[OWNERS[texts]], IMAGES)
    assert torch.allclose(moved[images], labels[:, texts], atol=1e-6)


def test_identity_and_multi_hot():
    assert torch.equal(identity_labels(torch.arange(3), 3), torch.eye(3))
    multi = multi_hot_labels(OWNERS, CATEGORIES, IMAGES)
    for i, j in itertools.product(range(IMAGES), range(6)):
        owned = [int(CATEGORIES[a]) for a in range(6) if OWNERS[a] == i]
        assert multi[i, j] == float(int(CATEGORIES[j]) in owned)
    assert identity_labels(OWNERS, IMAGES).sum() == 6 and (multi >= identity_labels(OWNERS, IMAGES)).all()


def slow_itm(cosine, labels, scale, ce, mse_on):
    rows, width = cosine.shape
    mse = bce = 0.0
    for i, j in itertools.product(range(rows), range(width)):
        z, y = float(cosine[i, j]) * scale, float(labels[i, j])
        mse += ((z if mse_on == "scaled" else z / scale) - y) ** 2 / (rows * width)
        p = 1 / (1 + math.exp(-z))
        bce -= (y * math.log(p) + (1 - y) * math.log(1 - p)) / (rows * width)

    def softmax(c, y):
        total = 0.0
        for row, target in zip(c.tolist(), y.tolist()):
            norm = math.log(sum(math.exp(x * scale) for x in row))
            mass = sum(target)
            total -= sum(t / mass * (x * scale - norm) for x, t in zip(row, target)) if mass else 0.0
        return total / len(c)

    return {"mse": mse, "ce": bce if ce == "bce" else softmax(cosine, labels)}


@pytest.mark.parametrize("ce, mse_on", itertools.product(("bce", "softmax"), ("cosine", "scaled")))
def test_every_reading_of_the_loss_equals_a_slow_loop(ce, mse_on):
    torch.manual_seed(2)
    cosine, labels = torch.rand(4, 6, dtype=torch.float64) * 2 - 1, torch.rand(4, 6, dtype=torch.float64)
    labels[2] = 0
    fast = itm_terms(cosine, labels, 14.3, ce=ce, mse_on=mse_on)
    slow = slow_itm(cosine, labels, 14.3, ce, mse_on)
    for name in ("mse", "ce"):
        assert fast[name].item() == pytest.approx(slow[name], rel=1e-6)


def test_scaled_mse_pulls_a_perfect_prediction_down():
    labels = torch.tensor([[1.0, 0.0]])
    for mse_on, best in (("cosine", 1.0), ("scaled", 1 / 14.3)):
        cosine = torch.tensor([[best, 0.0]], requires_grad=True)
        itm_terms(cosine, labels, 14.3, mse_on=mse_on)["mse"].backward()
        assert cosine.grad.abs().max() < 1e-5, f"{mse_on}: this cosine should be the optimum"


def test_no_labels_in_a_batch_is_safe():
    cosine = torch.zeros(3, 0, requires_grad=True)
    terms = itm_terms(cosine, torch.zeros(3, 0), 14.3)
    sum(terms.values()).backward()
    assert terms["mse"] == 0 and terms["ce"] == 0
    empty = torch.zeros(0, dtype=torch.long)
    assert similarity_labels(torch.zeros(0, 0), empty, 3).shape == (3, 0)
    assert multi_hot_labels(empty, empty, 3).shape == identity_labels(empty, 3).shape == (3, 0)


def test_soft_labels_below_zero_count_as_zero_and_half_precision_is_safe():
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([[1.0, -0.6, -0.6], [0.0, 0.0, 0.0]])
    expected = -logits[0].log_softmax(0)[0] / 2
    assert torch.allclose(soft_cross_entropy(logits, labels), expected)
    assert soft_cross_entropy(logits.half(), labels.half()).item() == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: similarity_labels(torch.eye(3), torch.tensor([0, 4, 1]), 2), "owners must be one number in 0..1"),
        (lambda: similarity_labels(torch.eye(2), torch.tensor([0, 1, 1]), 2), r"must be \(3, 3\) for 3 labels"),
        (lambda: similarity_labels(torch.eye(1), torch.tensor([0]), 1, power=0), "power must be above 0"),
        (lambda: similarity_labels(torch.eye(1), torch.tensor([0]), 1, clamp_min=None, power=2), "1 where negative"),
        (lambda: multi_hot_labels(torch.tensor([0, 1]), torch.tensor([0]), 2), "groups must number all 2 labels"),
        (lambda: itm_terms(torch.zeros(2, 3), torch.zeros(3, 2), 1.0), "must have one shape"),
        (lambda: itm_terms(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, ce="hinge"), "ce must be one of"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medvlp_lite.components.contrastive import info_nce, nt_xent
from medvlp_lite.components.prototype_alignment import (
    ClassPrototypes,
    ClusterPrototypes,
    class_prototype_loss,
    same_class,
    sinkhorn,
    supervised_contrast,
    swapped_prediction,
)


def units(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def slow_sinkhorn(scores, epsilon, iterations):
    """Prototypes in rows, samples in columns, one sum at a time."""
    samples, prototypes = scores.shape
    z = [[math.exp(scores[b, m] / epsilon) for b in range(samples)] for m in range(prototypes)]
    total = sum(map(sum, z))
    z = [[value / total for value in row] for row in z]
    for _ in range(iterations):
        z = [[value / sum(row) / prototypes for value in row] for row in z]
        columns = [sum(row[b] for row in z) for b in range(samples)]
        z = [[value / columns[b] / samples for b, value in enumerate(row)] for row in z]
    columns = [sum(row[b] for row in z) for b in range(samples)]
    return np.array([[z[m][b] / columns[b] for m in range(prototypes)] for b in range(samples)])


@pytest.mark.parametrize("samples, prototypes", [(6, 3), (5, 1), (1, 4), (9, 12)])
@pytest.mark.parametrize("epsilon, iterations", [(0.05, 3), (0.5, 1), (0.1, 7)])
def test_sinkhorn_equals_the_loop(samples, prototypes, epsilon, iterations):
    scores = units(samples, 8) @ units(prototypes, 8, seed=1).t()
    codes = sinkhorn(scores, epsilon, iterations)
    assert np.allclose(codes.numpy(), slow_sinkhorn(scores.numpy(), epsilon, iterations), atol=1e-9)


def test_sinkhorn_rows_sum_to_one_and_prototypes_share_alike_in_the_limit():
    scores = units(24, 6) @ units(4, 6, seed=1).t()
    for iterations in (1, 3, 500):
        assert torch.allclose(sinkhorn(scores, iterations=iterations).sum(dim=1), torch.ones(24, dtype=torch.float64))
    few, many = (sinkhorn(scores, 0.1, iterations).sum(dim=0) for iterations in (1, 500))
    assert torch.allclose(many, torch.full((4,), 6.0, dtype=torch.float64), atol=1e-6)
    assert (few - 6).abs().max() > 1e-3, "one round is not the limit"


def test_sinkhorn_of_equal_scores_is_uniform_and_large_scores_do_not_overflow():
    assert torch.allclose(sinkhorn(torch.zeros(5, 4)), torch.full((5, 4), 0.25))
    wild = torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]])
    assert torch.allclose(sinkhorn(wild), torch.eye(2)) and sinkhorn(wild.bfloat16()).dtype == torch.float32


def test_sinkhorn_has_no_gradient_and_names_bad_input():
    assert not sinkhorn(torch.zeros(3, 2, requires_grad=True)).requires_grad
    for bad, word in (({"epsilon": 0}, "epsilon"), ({"iterations": 0}, "iterations")):
        with pytest.raises(ValueError, match=word):
            sinkhorn(torch.zeros(3, 2), **bad)
    with pytest.raises(ValueError, match="samples, prototypes"):
        sinkhorn(torch.zeros(3))


def test_swapped_prediction_equals_the_loop():
    images, texts, prototypes = units(7, 5), units(7, 5, seed=1), units(3, 5, seed=2)
    value = 0.0
    codes = [slow_sinkhorn((side @ prototypes.t()).numpy(), 0.07, 2) for side in (images, texts)]
    for i in range(7):
        shares = [softmax([float(side[i] @ c) / 0.3 for c in prototypes]) for side in (images, texts)]
        for m in range(3):
            value -= (codes[0][i, m] * math.log(shares[1][m]) + codes[1][i, m] * math.log(shares[0][m])) / 14
    fast = swapped_prediction(images, texts, prototypes, temperature=0.3, epsilon=0.07, iterations=2)
    assert fast.item() == pytest.approx(value, abs=1e-9)
    assert fast.item() == pytest.approx(
        swapped_prediction(texts, images, prototypes, temperature=0.3, epsilon=0.07, iterations=2).item()
    )
    with pytest.raises(ValueError, match="do not fit"):
        swapped_prediction(images, texts[:6], prototypes)


def test_one_prototype_explains_everything_and_says_nothing():
    assert swapped_prediction(units(4, 5), units(4, 5, seed=1), units(1, 5)).item() == pytest.approx(0, abs=1e-12)


def test_cluster_prototypes_keep_length_one_and_learn():
    torch.manual_seed(0)
    module = ClusterPrototypes(4, 6)
    with torch.no_grad():
        module.vectors.mul_(3)
    loss = module(units(8, 6).float(), units(8, 6, seed=1).float())
    assert torch.allclose(module.vectors.norm(dim=1), torch.ones(4))
    loss.backward()
    assert module.vectors.grad.abs().sum() > 0
    module.eval()
    images, texts, unit = units(8, 6).float(), units(8, 6, seed=1).float(), module.vectors.detach().clone()
    with torch.no_grad():
        module.vectors.mul_(3)
    assert torch.allclose(module(images, texts), swapped_prediction(images, texts, unit))


def test_class_prototype_loss_equals_the_loop_and_leaves_out_the_unlabelled():
    vectors, prototypes = units(6, 5).requires_grad_(), units(3, 5, seed=1)
    labels = torch.tensor([0, 2, -1, 1, 1, -1])
    value = 0.0
    for i, label in enumerate(labels.tolist()):
        if label >= 0:
            value -= math.log(softmax([(vectors[i] @ p).item() / 0.2 for p in prototypes])[label]) / 4
    loss = class_prototype_loss(vectors, prototypes, labels)
    assert loss.item() == pytest.approx(value, abs=1e-9)
    loss.backward()
    assert (vectors.grad.abs().sum(dim=1) > 0).tolist() == (labels >= 0).tolist()
    vectors.grad = None
    nothing = class_prototype_loss(vectors, prototypes, torch.full((6,), -1))
    nothing.backward()
    assert nothing.item() == 0 and vectors.grad.abs().sum() == 0


def test_classes_without_a_prototype_take_no_part_and_a_label_too_large_is_named():
    vectors, prototypes = units(4, 5).requires_grad_(), units(3, 5, seed=1)
    prototypes[1] = 0
    labels = torch.tensor([0, 1, 2, -1])
    seen, place = prototypes[[0, 2]], torch.tensor([0, -1, 1, -1])
    loss = class_prototype_loss(vectors, prototypes, labels)
    assert loss.item() == pytest.approx(class_prototype_loss(vectors, seen, place).item(), abs=1e-12)
    loss.backward()
    assert (vectors.grad.abs().sum(dim=1) > 0).tolist() == [True, False, True, False]
    assert class_prototype_loss(vectors, prototypes, torch.full((4,), 1)).item() == 0
    for training in (True, False):
        with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, .* got 3"):
            ClassPrototypes(3, 5).train(training)(vectors, vectors, torch.full((4,), 3))


def test_class_prototypes_are_running_means_of_their_class():
    module = ClassPrototypes(3, 2, momentum=0.75)
    images = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), dim=1)
    texts = images.flip(1)
    loss = module(images, texts, torch.tensor([0, 0, -1]))
    middle = torch.tensor([1.0, 1.0]) / math.sqrt(2)
    assert torch.allclose(module.images[0], middle) and module.images[1:].abs().sum() == 0
    assert loss.item() == 0, "only one class was ever seen: nothing to tell apart"
    module(images[:1], texts[:1], torch.tensor([0]))
    expected = F.normalize(0.75 * middle + 0.25 * images[0], dim=0)
    assert torch.allclose(module.images[0], expected)
    before = module.texts.clone()
    module.eval()(images, texts, torch.tensor([0, 1, 2]))
    assert torch.equal(before, module.texts), "evaluation must not move a prototype"


def test_class_prototypes_compare_with_the_other_modality():
    module = ClassPrototypes(2, 2, temperature=1.0).eval()
    module.images.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    module.texts.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    vector, label = torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    near, far = -math.log(softmax([1.0, 0.0])[0]), -math.log(softmax([0.0, 1.0])[0])
    assert module(vector, vector, label).item() == pytest.approx((near + far) / 2, abs=1e-6)


def slow_supervised(similarity, positives, temperature):
    value = 0.0
    for matrix, wanted in ((similarity, positives), (similarity.T, positives.T)):
        for row, partners in zip(matrix.tolist(), wanted.tolist()):
            shares = softmax([s / temperature for s in row])
            chosen = [share for share, partner in zip(shares, partners) if partner]
            value -= sum(map(math.log, chosen)) / len(chosen) / (2 * len(matrix))
    return value


def test_supervised_contrast_equals_the_loop_and_infonce_on_the_diagonal():
    similarity = units(6, 5) @ units(6, 5, seed=1).t()
    labels = torch.tensor([0, 1, 0, -1, -1, 1])
    positives = same_class(labels)
    assert positives[3].tolist() == [False, False, False, True, False, False], "unlabelled pairs are their own class"
    value = supervised_contrast(similarity, positives, 0.3).item()
    assert value == pytest.approx(slow_supervised(similarity.numpy(), positives.numpy(), 0.3), abs=1e-9)
    alone = torch.eye(6, dtype=torch.bool)
    assert supervised_contrast(similarity, alone, 0.3).item() == pytest.approx(info_nce(similarity, 0.3).item())


def test_supervised_contrast_names_an_anchor_without_partner():
    with pytest.raises(ValueError, match="no positive partner"):
        supervised_contrast(torch.zeros(2, 2), torch.tensor([[True, False], [True, False]]))
    with pytest.raises(ValueError, match="does not fit"):
        supervised_contrast(torch.zeros(2, 2), torch.ones(3, 3, dtype=torch.bool))


def test_instance_contrast_pushes_same_stage_apart_and_class_contrast_pulls():
    similarity = torch.zeros(2, 2, requires_grad=True)
    labels = torch.tensor([1, 1])
    info_nce(similarity, 0.5).backward()
    assert similarity.grad[0, 1] > 0, "descent lowers the similarity of image 0 with its twin's report"
    similarity.grad = None
    supervised_contrast(similarity, same_class(labels), 0.5).backward()
    assert similarity.grad.abs().max() == 0


def test_nt_xent_equals_the_loop():
    images, texts = units(5, 4), units(5, 4, seed=1)
    both, value = torch.cat([images, texts]), 0.0
    for i in range(10):
        others = [j for j in range(10) if j != i]
        shares = softmax([float(both[i] @ both[j]) / 0.2 for j in others])
        value -= math.log(shares[others.index((i + 5) % 10)]) / 10
    assert nt_xent(images, texts, 0.2).item() == pytest.approx(value, abs=1e-9)
    with pytest.raises(ValueError, match="one shape"):
        nt_xent(images, texts[:4])

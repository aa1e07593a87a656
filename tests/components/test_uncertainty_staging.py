import math

import numpy as np
import pytest
import torch

from medvlp_lite import augment
from medvlp_lite.components import uncertainty_staging as us


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_scores_have_their_ranges_and_their_limits(classes):
    flat, sure = torch.full((1, classes), 1 / classes), torch.eye(classes)[:1]
    spread = (5 * draw(500, classes)).softmax(-1)
    for kind, most in {"max": 1 - 1 / classes, "normalised": 1.0, "entropy": 1.0, "margin": 1.0}.items():
        assert us.uncertainty(sure, kind).item() == pytest.approx(0, abs=1e-6)
        assert us.uncertainty(flat, kind).item() == pytest.approx(most, abs=1e-6)
        values = us.uncertainty(spread, kind)
        assert values.min() >= 0 and values.max() <= most + 1e-9
    assert us.uncertainty(torch.tensor([0.5, 0.3, 0.1, 0.1])).item() == pytest.approx(0.5)
    assert us.uncertainty(torch.tensor([0.5, 0.3, 0.1, 0.1]), "margin").item() == pytest.approx(0.8)
    with pytest.raises(ValueError, match="got 'variance' and 4"):
        us.uncertainty(torch.ones(1, 4), "variance")
    with pytest.raises(ValueError, match="and 1"):
        us.uncertainty(torch.ones(3, 1))


def slow_weighted(logits, labels, weight, score, threshold):
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist()):
        if label < 0:
            continue
        total = sum(math.exp(value) for value in row)
        p = [math.exp(value) / total for value in row]
        ordered = sorted(p, reverse=True)
        u = {
            "max": 1 - ordered[0],
            "normalised": (1 - ordered[0]) / (1 - 1 / len(p)),
            "entropy": -sum(x * math.log(x) for x in p) / math.log(len(p)),
            "margin": 1 - ordered[0] + ordered[1],
        }[score]
        w = {"linear": 1 - u, "gate": float(u <= threshold), "exp": math.exp(-u), "focal_like": 1 + u, "none": 1.0}[
            weight
        ]
        losses.append(-w * math.log(p[label]))
    return sum(losses) / len(losses)


def test_pooling_by_hand():
    maps = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]], [[-4.0, 0.0], [0.0, 0.0]]]])
    assert us.pool_features(maps, "mean").tolist() == [[2.0, -1.0]]
    assert us.pool_features(maps).tolist() == [[2.0, -1.0, 5.0, 0.0]]
    with pytest.raises(ValueError, match="pooling must be one of mean, mean_max, got 'max'"):
        us.pool_features(maps, "max")


def test_balanced_weights_let_every_class_weigh_alike():
    labels = torch.tensor([0, 0, 0, 1, 2, 2, -1])
    weights = us.balanced_weights(labels, 3)
    assert torch.allclose(weights, torch.tensor([6 / 9, 2.0, 1.0]))
    assert weights[labels[labels >= 0]].mean().item() == pytest.approx(1)
    logits = draw(7, 3)
    losses = -logits.log_softmax(-1)
    by_class = [losses[labels == k, k].mean().item() for k in range(3)]
    balanced = us.weighted_cross_entropy(logits, labels, weight="none", class_weights=weights.double())
    assert balanced.item() == pytest.approx(sum(by_class) / 3)


@pytest.mark.parametrize("weight", us.WEIGHTS)
@pytest.mark.parametrize("score", us.SCORES)
def test_weighted_cross_entropy_equals_the_loop(weight, score):
    logits, labels = 2 * draw(40, 4), torch.arange(40) % 5 - 1
    value = us.weighted_cross_entropy(logits, labels, weight=weight, score=score, threshold=0.6)
    assert value.item() == pytest.approx(slow_weighted(logits, labels, weight, score, 0.6), rel=1e-6)


def gradient(p_true, detach):
    """d loss / d logit of the true class, for a distribution whose largest entry is the true class."""
    rest = (1 - p_true) / 3
    logits = torch.tensor([[p_true, rest, rest, rest]], dtype=torch.float64).log().requires_grad_()
    us.weighted_cross_entropy(logits, torch.tensor([0]), detach=detach).backward()
    return logits.grad[0, 0].item()


def test_an_undetached_weight_reverses_the_gradient_below_one_over_e():
    for p in (0.26, 0.3, 0.36):
        assert p < 1 / math.e and gradient(p, detach=False) > 0 > gradient(p, detach=True)
    for p in (0.38, 0.5, 0.9):
        assert p > 1 / math.e and gradient(p, detach=False) < 0 > gradient(p, detach=True)
    p = 0.3  # by hand: -p (1 - p) with the weight fixed, -p (1 - p) (1 + log p) with it learned
    assert gradient(p, True) == pytest.approx(-p * (1 - p), rel=1e-6)
    assert gradient(p, False) == pytest.approx(-p * (1 - p) * (1 + math.log(p)), rel=1e-6)


def test_samples_without_label_do_not_count_and_none_at_all_is_zero():
    logits = draw(6, 4).requires_grad_()
    labels = torch.tensor([-1, 2, -1, 0, 1, -1])
    us.weighted_cross_entropy(logits, labels).backward()
    assert (logits.grad.abs().sum(1) > 0).tolist() == (labels >= 0).tolist()
    logits.grad = None
    nothing = us.weighted_cross_entropy(logits, torch.full((6,), -1))
    nothing.backward()
    assert nothing.item() == 0 and logits.grad.abs().sum() == 0
    with pytest.raises(ValueError, match="do not fit"):
        us.weighted_cross_entropy(logits, labels[:3])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.3"):
        us.weighted_cross_entropy(logits, labels + 2)
    with pytest.raises(ValueError, match="weight must be one of"):
        us.sample_weights(torch.zeros(2), "square")


def test_class_bank_is_the_mean_direction_of_each_class():
    vectors = torch.tensor([[2.0, 0.0], [0.0, 2.0], [3.0, 4.0], [9.0, 9.0]], requires_grad=True)
    bank = us.class_bank(vectors, torch.tensor([0, 0, 1, -1]), 2)
    assert torch.allclose(bank, torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]])) and not bank.requires_grad
    with pytest.raises(ValueError, match="no labelled sample of class 2"):
        us.class_bank(vectors, torch.tensor([0, 0, 1, 1]), 3)


def test_bank_logits_are_scaled_cosines():
    logits = us.bank_logits(torch.tensor([[3.0, 4.0]]), torch.tensor([[10.0, 0.0], [0.0, 0.1]]), 10)
    assert logits.tolist() == [[pytest.approx(6), pytest.approx(8)]]
    with pytest.raises(ValueError, match="width 3 but the bank has width 2"):
        us.bank_logits(torch.zeros(1, 3), torch.zeros(2, 2))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_equals_the_loop_and_is_zero_at_equality(temperature):
    student, teacher, keep = draw(9, 4), draw(9, 4, seed=1), torch.arange(9) % 3 > 0
    total = 0.0
    for s, t, kept in zip(student.tolist(), teacher.tolist(), keep.tolist()):
        if kept:
            p = [math.exp(x / temperature) for x in t]
            q = [math.exp(x / temperature) for x in s]
            total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q))
    expected = temperature**2 * total / int(keep.sum())
    value = us.distillation_loss(student, teacher, temperature=temperature, keep=keep)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert us.distillation_loss(student, student + 3.0).item() == pytest.approx(0, abs=1e-6)


def test_distillation_teaches_the_student_where_the_gate_is_open():
    student, teacher = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    us.distillation_loss(student, teacher, keep=torch.tensor([True, False, True])).backward()
    assert teacher.grad is None and (student.grad.abs().sum(1) > 0).tolist() == [True, False, True]
    student.grad = None
    shut = us.distillation_loss(student, teacher, keep=torch.zeros(3, dtype=torch.bool))
    shut.backward()
    assert shut.item() == 0 and student.grad.abs().sum() == 0
    with pytest.raises(ValueError, match="temperature > 0"):
        us.distillation_loss(student, teacher, temperature=0)


def test_strong_augmentation_differs_per_image_and_keeps_shape_and_range():
    torch.manual_seed(0)
    images = torch.rand(1, 1, 32, 40).expand(6, 1, 32, 40)
    strong = augment.strong_augment(images)
    assert strong.shape == images.shape and strong.min() >= 0 and strong.max() <= 1
    assert all(not torch.allclose(strong[0], other) for other in strong[1:])
    assert ((strong == 0).flatten(1).float().mean(1) > 0.005).all(), "each has its hole"
    assert torch.equal(augment.strong_augment(images, 0.0), images)
    weak = augment.strong_augment(images, 0.02)
    assert (weak - images).abs().mean() < (strong - images).abs().mean() / 2


def test_hint_loss_is_one_minus_cosine_of_those_that_are_kept():
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert us.hint_loss(student, teacher).item() == 0.5
    assert us.hint_loss(student, teacher, keep=torch.tensor([True, False])).item() == 1
    vectors = draw(5, 8)
    assert us.hint_loss(vectors, 3 * vectors).item() == pytest.approx(0, abs=1e-6)


def test_theta_by_accuracy_keeps_the_most_that_reach_the_target():
    unsure = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    correct = np.array([1, 1, 0, 1, 0], dtype=bool)
    assert us.choose_theta(unsure, correct, target=0.75) == pytest.approx(0.45), "3 of 4, though 2 of 3 before it"
    assert us.choose_theta(unsure, correct, target=1.0) == pytest.approx(0.25)
    assert us.choose_theta(unsure, ~correct, target=1.0) == 0.0, "the surest is wrong: refer everybody"
    everybody = us.choose_theta(unsure, correct, target=0.5)
    assert (unsure < everybody).all()


def test_theta_keeps_or_refers_equal_cases_together():
    unsure, correct = np.array([0.1, 0.3, 0.3, 0.3]), np.array([1, 1, 0, 0], dtype=bool)
    for order in ([0, 1, 2, 3], [0, 3, 2, 1]):
        assert us.choose_theta(unsure[order], correct[order], target=0.9) == pytest.approx(0.2)


def test_theta_by_coverage_and_by_youden():
    unsure = np.linspace(0.05, 0.7, 20)
    assert np.mean(unsure < us.choose_theta(unsure, unsure < 0.3, "coverage", target=0.8)) == pytest.approx(0.8)
    assert us.choose_theta(unsure, unsure < 0.3, "youden") == pytest.approx(0.3, abs=0.04)
    with pytest.raises(ValueError, match="got 'guess'"):
        us.choose_theta(unsure, unsure < 0.3, "guess")
    with pytest.raises(ValueError, match="need answers"):
        us.choose_theta(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="1 of 2 uncertainties are NaN"):
        us.choose_theta(np.array([0.1, np.nan]), np.array([1, 0]))


def test_a_threshold_with_confidence_meets_its_target_more_often():
    generator = np.random.default_rng(0)

    def sample(count):
        unsure = generator.uniform(0, 0.75, count)
        return unsure, generator.random(count) > unsure

    met = {0.0: 0, 0.9: 0}
    for _ in range(200):
        val, test = sample(300), sample(5000)
        for confidence in met:
            theta = us.choose_theta(*val, target=0.8, confidence=confidence)
            kept = test[0] < theta
            met[confidence] += not kept.any() or test[1][kept].mean() >= 0.8
    assert met[0.0] < 120 and met[0.9] > 150, met


def test_triage_refers_what_lies_on_the_threshold():
    result = us.triage(np.array([[0.5, 0.5, 0, 0], [0.0, 0.1, 0.9, 0], [0.25, 0.25, 0.25, 0.25]]), theta=0.5)
    assert result.stage.tolist()[1] == 2 and result.reliable.tolist() == [False, True, False]
    assert result.uncertainty.tolist() == pytest.approx([0.5, 0.1, 0.75])

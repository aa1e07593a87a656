import math

import numpy as np
import pytest
import torch
from processes import run_two_processes

from medvlp_lite.components.contrastive import cosine_matrix, gather_pairs, info_nce


def slow_info_nce(similarity: np.ndarray, temperature: float) -> float:
    """Equation C-1, term by term, in float64."""
    count, total = len(similarity), 0.0
    for i in range(count):
        row = sum(math.exp(similarity[i, j] / temperature) for j in range(count))
        column = sum(math.exp(similarity[j, i] / temperature) for j in range(count))
        own = similarity[i, i] / temperature
        total += (math.log(row) - own) + (math.log(column) - own)
    return total / (2 * count)


@pytest.mark.parametrize("count", [1, 2, 5, 17])
@pytest.mark.parametrize("temperature", [0.05, 0.07, 1.0, 10.0])
def test_equals_the_slow_loop(count, temperature):
    similarity = np.random.default_rng(count).uniform(-1, 1, (count, count))
    fast = info_nce(torch.from_numpy(similarity), temperature)
    assert fast.item() == pytest.approx(slow_info_nce(similarity, temperature), rel=1e-9, abs=1e-9)


def test_closed_forms():
    assert info_nce(torch.zeros(8, 8), 0.07).item() == pytest.approx(math.log(8), rel=1e-6)
    assert info_nce(torch.tensor([[0.3]]), 0.07).item() == 0
    assert info_nce(torch.eye(6, dtype=torch.float64), 0.01).item() < 1e-12
    b, tau = 5, 0.5
    expected = math.log(1 + (b - 1) * math.exp(-1 / tau))
    assert info_nce(torch.eye(b, dtype=torch.float64), tau).item() == pytest.approx(expected, rel=1e-9)


def test_is_symmetric_and_permutation_invariant():
    similarity = torch.randn(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    value = info_nce(similarity, 0.2)
    assert torch.isclose(value, info_nce(similarity.t(), 0.2))
    assert torch.isclose(value, info_nce(similarity[order][:, order], 0.2))


def test_gradients_match_finite_differences_and_reach_the_temperature():
    similarity = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(info_nce, (similarity, temperature))
    info_nce(similarity, temperature).backward()
    assert (similarity.grad.diagonal() < 0).all()
    assert temperature.grad.abs() > 0


@pytest.mark.parametrize("bad", [torch.zeros(3, 4), torch.zeros(3)])
def test_refuses_what_is_not_square(bad):
    with pytest.raises(ValueError, match="square matrix"):
        info_nce(bad, 0.1)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        info_nce(torch.eye(3), temperature)


def test_cosine_ignores_length_and_refuses_other_widths():
    images, texts = torch.randn(3, 4), torch.randn(5, 4)
    assert torch.allclose(cosine_matrix(images, texts), cosine_matrix(7 * images, 0.1 * texts), atol=1e-6)
    assert cosine_matrix(images, images).diagonal().allclose(torch.ones(3))
    with pytest.raises(ValueError, match="width 4 but text vectors have width 6"):
        cosine_matrix(images, torch.randn(5, 6))


def test_gather_is_the_identity_in_one_process():
    vectors = torch.randn(3, 4)
    assert gather_pairs(vectors) is vectors


TWO_PROCESSES = """
import torch
from torch.nn.parallel import DistributedDataParallel
from medvlp_lite.components.contrastive import cosine_matrix, gather_pairs, info_nce
torch.distributed.init_process_group("gloo")
class Pair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = torch.nn.Linear(6, 4), torch.nn.Linear(5, 4)
    def forward(self, x, y):
        return info_nce(cosine_matrix(gather_pairs(self.image(x)), gather_pairs(self.text(y))), 0.2)
generator = torch.Generator().manual_seed(1)
x, y = torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator)
whole = Pair()
info_nce(cosine_matrix(whole.image(x), whole.text(y)), 0.2).backward()
shared, rank = DistributedDataParallel(Pair()), torch.distributed.get_rank()
shared(x[4 * rank : 4 * rank + 4], y[4 * rank : 4 * rank + 4]).backward()
pairs = zip(whole.parameters(), shared.module.parameters())
say(all(torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in pairs))
"""


def test_two_processes_make_the_update_of_one_large_batch(tmp_path):
    assert run_two_processes(TWO_PROCESSES, tmp_path) == ["True", "True"]

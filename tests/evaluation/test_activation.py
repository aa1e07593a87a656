import numpy as np
import pytest
import torch
from torch import nn

from medvlp_lite.evaluation.activation import energy_inside, grad_cam


def test_grad_cam_equals_finite_differences():
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 3, 3, padding=1).double()
    head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 25, 4)).double()
    images, classes = torch.rand(2, 1, 5, 5, dtype=torch.float64), torch.tensor([2, 0])
    with torch.no_grad():
        cam = grad_cam(convolution, head, images, classes)
        maps, step = convolution(images), 1e-6
        for b in range(2):
            heat = torch.zeros(5, 5, dtype=torch.float64)
            for channel in range(3):
                alpha = 0.0
                for cell in range(25):
                    nudged = maps.clone()
                    nudged[b, channel].view(-1)[cell] += step
                    alpha += ((head(nudged) - head(maps))[b, classes[b]] / step).item() / 25
                heat += alpha * maps[b, channel]
            assert torch.allclose(cam[b], heat.relu(), atol=1e-6)
    assert convolution.weight.grad is None
    with pytest.raises(ValueError, match="one class for each of 2 images"):
        grad_cam(convolution, head, images, classes[:1])


def test_energy_inside_is_a_share():
    region = np.zeros((4, 4), dtype=bool)
    region[:2, :2] = True
    heat = np.array([[3.0, 1.0], [0.0, 0.0]])
    assert energy_inside(heat, region) == pytest.approx(0.75)
    assert energy_inside(np.ones((2, 2)), region) == pytest.approx(region.mean())
    assert np.isnan(energy_inside(np.zeros((2, 2)), region))
    with pytest.raises(ValueError, match="empty"):
        energy_inside(heat, np.zeros((4, 4), dtype=bool))
    with pytest.raises(ValueError, match="negative"):
        energy_inside(-heat, region)

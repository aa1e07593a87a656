import numpy as np
import pytest
import torch
from torch import nn

from medvlp_lite.evaluation.activation import energy_inside, grad_cam, stage_map_energy, stage_maps, worst_cases
from medvlp_lite.studies import Finding, Study, StudyDataset


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


class Known(nn.Module):
    """Answers the stage that the mean brightness of the lower half tells; its features are the image itself."""

    device = torch.device("cpu")
    image_encoder = staticmethod(lambda images: images)

    def stage_logits(self, maps):
        low = maps[:, 0, 2:].mean(dim=(1, 2))
        return 20 * torch.stack([0.6 - low, low - 0.6, low * 0 - 9, low * 0 - 9], dim=1)

    def probabilities(self, images):
        return self.stage_logits(images).softmax(dim=-1)


def graded(lows, stages):
    image = [np.concatenate([np.zeros((2, 4)), np.full((2, 4), low)]) for low in lows]
    made = [
        Study(
            f"s{i}", f"p{i}", "made up", (255 * pixels).astype(np.uint8), stage=stage,
            findings=(Finding("opacity", mask=pixels > 0),),
        )
        for i, (pixels, stage) in enumerate(zip(image, stages))
    ]  # fmt: skip
    return StudyDataset(made, size=4, entities=("opacity",))


def test_the_energy_of_right_and_of_wrong_answers_is_told_apart():
    """A map of the true stage I is the bright half where the answer is right, and so it is where it is wrong."""
    data = graded([0.9, 0.8, 0.1, 0.7], [1, 1, 1, 0])
    found = stage_map_energy(Known(), data, "opacity")
    maps = stage_maps(Known(), data.subset(range(3)), np.ones(3, dtype=int))
    inside = [energy_inside(heat, data.images[0] > 0) for heat in maps]
    assert found["count"] == 3 and found["uniform"] == 0.5, "stage 0 is left out"
    assert found["right"] == pytest.approx(np.mean(inside[:2])) and found["wrong"] == pytest.approx(inside[2])
    assert found["energy"] == pytest.approx(np.mean(inside))
    sure = stage_map_energy(Known(), graded([0.9], [1]), "opacity")
    assert np.isnan(sure["wrong"]) and sure["right"] == 1
    assert stage_map_energy(Known(), graded([0.9], [0]), "opacity")["count"] == 0


def test_the_worst_cases_are_wrong_and_give_the_truth_least():
    data = graded([0.9, 0.1, 0.8, 0.2, 0.7], [1, 1, 0, 0, 0])
    assert worst_cases(Known(), data).tolist() == [1, 2, 4]
    assert worst_cases(Known(), data, 1).tolist() == [1] and not len(worst_cases(Known(), data.subset([0])))
    with pytest.raises(ValueError, match="1 studies have no stage"):
        worst_cases(Known(), graded([0.5], [None]))

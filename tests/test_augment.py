import math

import pytest
import torch

from medvlp_lite.augment import intensity_jitter, mirror, random_affine, random_resized_crop, strong_augment
from medvlp_lite.reports.vocabulary import vocabulary


def test_intensities_change_and_left_stays_left():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 32).expand(2, 1, 32, 32)
    out = intensity_jitter(ramp, shift=0)
    assert out.min() >= 0 and out.max() <= 1
    assert (out[..., -1] > out[..., 0]).all()
    assert not torch.allclose(out[0], out[1])


def test_an_affine_view_is_turned_and_scaled_as_far_as_it_may_be_and_never_mirrored():
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    torch.manual_seed(0)
    right = random_affine(columns.expand(600, 1, 64, 64))
    torch.manual_seed(0)
    down = random_affine(rows.expand(600, 1, 64, 64))
    along = (right[:, 0, 32, 40] - right[:, 0, 32, 24], down[:, 0, 32, 40] - down[:, 0, 32, 24])
    turn, size = torch.atan2(along[1], along[0]), 32 / 63 / torch.hypot(*along)
    assert 0.3 < turn.max() <= math.radians(20.1) and -math.radians(20.1) <= turn.min() < -0.3
    assert 0.79 < size.min() < 0.82 and 1.18 < size.max() < 1.21 and abs(size.mean() - 1) < 0.02
    assert (along[0] > 0).all() and torch.allclose(random_affine(rows[None, None], 0.0, (1.0, 1.0)), rows, atol=1e-5)
    assert not random_affine(torch.ones(1, 1, 8, 8), 0.0, (0.5, 0.5))[..., 0, :].any(), "outside is black"
    with pytest.raises(ValueError, match="scale must rise"):
        random_affine(torch.zeros(1, 1, 8, 8), scale=(1.2, 0.8))


def cropped(plane: torch.Tensor, **options) -> torch.Tensor:
    torch.manual_seed(1)
    return random_resized_crop(plane.expand(500, 1, 64, 64), **options)


def test_a_crop_is_a_part_of_the_image_of_the_promised_size():
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")

    def span(plane: torch.Tensor) -> torch.Tensor:
        part = cropped(plane, scale=(0.3, 0.8))
        assert part.shape == (500, 1, 64, 64) and part.min() >= 0 and part.max() <= 1
        return part.amax((1, 2, 3)) - part.amin((1, 2, 3))

    height, width = span(rows), span(columns)
    area = height * width
    assert 0.25 < area.min() < 0.4 and 0.7 < area.max() < 0.85 and 0.48 < area.mean() < 0.6
    assert (width / height).max() > 1.25 and (width / height).min() < 1 / 1.25
    part = cropped(columns, scale=(0.3, 1.0))
    assert (part[..., -1] > part[..., 0]).all()  # never mirrored
    assert torch.allclose(cropped(columns, scale=(1.0, 1.0), ratio=(1.0, 1.0))[0, 0], columns, atol=1e-6)


def test_wide_crops_are_wider_than_high():
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    width, height = (cropped(plane, scale=(0.4, 0.4), ratio=(1.5, 2.0))[:, 0] for plane in (columns, rows))
    assert ((width[:, 0, -1] - width[:, 0, 0]) > (height[:, -1, 0] - height[:, 0, 0])).all()


@pytest.mark.parametrize(
    "wrong", [{"scale": (0.0, 1.0)}, {"scale": (0.8, 0.5)}, {"scale": (0.5, 1.2)}, {"ratio": (2.0, 1.0)}]
)
def test_impossible_crops_are_refused(wrong):
    with pytest.raises(ValueError, match="scale must rise"):
        random_resized_crop(torch.zeros(1, 1, 8, 8), **wrong)


def test_mirroring_takes_left_and_right_in_the_labels_along():
    positions = vocabulary()["positions"]
    images = torch.rand(400, 1, 4, 6)
    targets = torch.arange(51.0).view(1, 51, 1).repeat(400, 1, 2)
    torch.manual_seed(0)
    flipped, mirrored = mirror(images, targets, positions)
    turned = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(flipped[~turned], images[~turned]) and 150 < turned.sum() < 250
    left, right, heart = (positions.index(name) for name in ("upper_left_lobe", "upper_right_lobe", "heart_size"))
    assert (mirrored[turned, left] == right).all() and (mirrored[turned, right] == left).all()
    assert (mirrored[~turned, left] == left).all() and (mirrored[:, heart] == heart).all()
    assert torch.equal(mirror(*mirror(images, targets, positions, 1.0), positions, 1.0)[1], targets)


def test_the_strong_view_moves_stays_in_range_and_can_be_switched_off():
    torch.manual_seed(0)
    images = torch.rand(8, 1, 40, 40)
    strong = strong_augment(images)
    assert strong.shape == images.shape and strong.min() >= 0 and strong.max() <= 1
    assert (strong == 0).float().mean(dim=(1, 2, 3)).min() > 0.01, "each has its hole"
    assert strong_augment(images, 0.0) is images
    bright = torch.full((300, 1, 20, 20), 0.5)
    grey = strong_augment(bright).amax(dim=(1, 2, 3))
    assert 0.5**1.34 < grey.min() < 0.42 and 0.58 < grey.max() < 0.5 ** (1 / 1.34), "gamma 0.75 to 1.33"
    assert math.isclose(grey.log().mean().exp(), 0.5, abs_tol=0.03)

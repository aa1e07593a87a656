"""Every augmentation of training images: exposure, crops, mirroring, and the strong view that a student sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def intensity_jitter(images: torch.Tensor, shift: int = 4) -> torch.Tensor:
    """Images (B, 1, H, W) with a small random shift per batch and a random gain and offset per image, kept in [0, 1].

    Left stays left: nothing is mirrored, because reports name sides.
    """
    rows, columns = (int(torch.randint(-shift, shift + 1, ())) for _ in range(2))
    gain = 1 + 0.2 * (torch.rand(len(images), 1, 1, 1) - 0.5)
    offset = 0.1 * (torch.rand(len(images), 1, 1, 1) - 0.5)
    moved = images.roll((rows, columns), dims=(2, 3))
    return (moved * gain.to(images.device) + offset.to(images.device)).clamp(0, 1)


def random_resized_crop(
    images: torch.Tensor, scale: tuple[float, float] = (0.5, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> torch.Tensor:
    """A random part of every image (B, 1, H, W), resized to the whole: torchvision's RandomResizedCrop, image by image.

    ``scale`` bounds the share of the area that is kept, ``ratio`` its width by its height, where the image allows it. A
    report still names what a crop has cut off. Raises ValueError unless 0 < low <= high for both, and scale ends at most at 1.
    """
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(f"scale must rise within (0, 1] and ratio above 0, got {scale} and {ratio}")
    draw = torch.rand(len(images), 2)
    area = scale[0] + (scale[1] - scale[0]) * draw[:, :1]
    shape = ratio[0] * (ratio[1] / ratio[0]) ** draw[:, 1:]  # uniform in its logarithm
    size = torch.cat([(area * shape).sqrt(), (area / shape).sqrt()], dim=1).clamp(max=1)
    centre = (2 * torch.rand(len(images), 2) - 1) * (1 - size)
    across, down = (
        (torch.arange(1, 2 * side, 2) / side - 1) * size[:, axis : axis + 1] + centre[:, axis : axis + 1]
        for axis, side in enumerate((images.shape[3], images.shape[2]))
    )  # centres of the pixels, -1 to 1
    grid = torch.stack(torch.broadcast_tensors(across.unsqueeze(1), down.unsqueeze(2)), dim=-1)
    return F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False)


def random_affine(images: torch.Tensor, degrees: float = 20.0, scale: tuple[float, float] = (0.8, 1.2)) -> torch.Tensor:
    """Images (B, 1, H, W), each turned by up to ``degrees`` either way and drawn ``scale`` times as large: MaCo's augmentation.

    What comes in from outside is black. Not mirrored, as the paper does: reports name sides. Raises ValueError unless
    0 < low <= high for ``scale``.
    """
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must rise above 0, got {scale}")
    draw = torch.rand(2, len(images))
    turn = math.radians(degrees) * (2 * draw[0] - 1)
    still = torch.zeros(len(images))
    return _warp(images, turn, 1 / (scale[0] + (scale[1] - scale[0]) * draw[1]), still, still)


def _warp(images: torch.Tensor, turn: torch.Tensor, grow: torch.Tensor, *shift: torch.Tensor) -> torch.Tensor:
    """Images (B, 1, H, W) sampled on a grid that is turned (radians), ``grow`` times as wide and shifted by (x, y), each (B,)."""
    cos, sin = grow * turn.cos(), grow * turn.sin()
    affine = torch.stack([torch.stack([cos, -sin, shift[0]], -1), torch.stack([sin, cos, shift[1]], -1)], 1)
    grid = F.affine_grid(affine.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def random_flip(images: torch.Tensor, share: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, 1, H, W) of which a ``share``, drawn at random, is mirrored left to right, and which ones: bool (B,)."""
    chosen = (torch.rand(len(images)) < share).to(images.device)
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images), chosen


def mirror(
    images: torch.Tensor, targets: torch.Tensor, positions: Sequence[str], share: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror a ``share`` of images (B, 1, H, W), drawn at random, and left and right in their labels (B, positions, ...).

    ``positions`` names the labels' second axis, such as "upper_left_lobe". The official MedKLIP code flips images without
    this, so that left labels stand beside right findings.
    """
    swap = {"left": "right", "right": "left"}
    names = ["_".join(swap.get(part, part) for part in name.split("_")) for name in positions]
    order = [positions.index(name) if name in positions else place for place, name in enumerate(names)]
    flipped, chosen = random_flip(images, share)
    return flipped, torch.where(chosen.view(-1, *[1] * (targets.ndim - 1)), targets[:, order], targets)


def strong_augment(images: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """What the student sees (P-3, a reconstruction): images (B, 1, H, W) turned, scaled, moved, regraded, with a hole.

    Up to 8 degrees, 8 % of size and of place, gamma 0.75 to 1.33, and a black square of a fifth of the side; ``strength``
    scales all of it, 0 changes nothing. Never mirrored: reports name sides. Values stay in [0, 1].
    """
    if strength <= 0:
        return images
    count, device = len(images), images.device
    draw = (2 * torch.rand(7, count) - 1).to(device) * strength
    turn, grow = draw[0] * math.radians(8), 1 + 0.08 * draw[1]
    moved = _warp(images, turn, grow, 0.16 * draw[2], 0.16 * draw[3]).clamp(1e-6, 1)
    moved = moved ** (1.33 ** draw[4]).view(-1, 1, 1, 1)
    row, column = torch.meshgrid(
        *(torch.linspace(-1, 1, side, device=device) for side in images.shape[2:]), indexing="ij"
    )
    far = torch.maximum((row - draw[5].view(-1, 1, 1)).abs(), (column - draw[6].view(-1, 1, 1)).abs()) > 0.2 * strength
    return moved * far.unsqueeze(1)

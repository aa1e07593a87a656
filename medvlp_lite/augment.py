"""Every augmentation of training images: exposure, crops, and the strong view that a student sees."""

from __future__ import annotations

import math

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


def random_resized_crop(images: torch.Tensor, least: float, stretch: float = 4 / 3) -> torch.Tensor:
    """A random part of every image (B, 1, H, W), resized to the whole: what RandomResizedCrop does, image by image.

    Each part has between ``least`` and all of the area, and is up to ``stretch`` times as wide as high, or as high as wide,
    where the image allows it. A report still names what a crop has cut off.
    """
    area = least + (1 - least) * torch.rand(len(images), 1)
    ratio = stretch ** (2 * torch.rand(len(images), 1) - 1)
    size = torch.cat([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1)
    centre = (2 * torch.rand(len(images), 2) - 1) * (1 - size)
    affine = torch.cat([torch.diag_embed(size), centre.unsqueeze(2)], dim=2).to(images)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def strong_augment(images: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """What the student sees (P-3, a reconstruction): each image (B, 1, H, W) turned, scaled, moved, with other grey values, and a hole.

    Up to 8 degrees, 8 % of size and of place, gamma 0.75 to 1.33, and a black square of a fifth of the side; ``strength`` scales all
    of it, 0 changes nothing. Never mirrored: reports name sides. Values stay in [0, 1].
    """
    if strength <= 0:
        return images
    count, device = len(images), images.device
    draw = (2 * torch.rand(7, count) - 1).to(device) * strength
    turn, grow = draw[0] * math.radians(8), 1 + 0.08 * draw[1]
    cos, sin = grow * turn.cos(), grow * turn.sin()
    affine = torch.stack([torch.stack([cos, -sin, 0.16 * draw[2]], -1), torch.stack([sin, cos, 0.16 * draw[3]], -1)], 1)
    grid = F.affine_grid(affine.to(images.dtype), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False).clamp(1e-6, 1)
    moved = moved ** (1.33 ** draw[4]).view(-1, 1, 1, 1)
    row, column = torch.meshgrid(
        *(torch.linspace(-1, 1, side, device=device) for side in images.shape[2:]), indexing="ij"
    )
    far = torch.maximum((row - draw[5].view(-1, 1, 1)).abs(), (column - draw[6].view(-1, 1, 1)).abs()) > 0.2 * strength
    return moved * far.unsqueeze(1)

"""Masking an image and reconstructing it: random and block masks, patches, the decoder, its loss (M-1 to M-3).

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.encoders.image import VisionBlock, sincos_positions


def visible_count(patches: int, mask_ratio: float) -> int:
    """How many of ``patches`` stay visible: floor(N (1 - r)). Raises ValueError when r is outside [0, 1) or none stays."""
    count = int(patches * (1 - mask_ratio) + 1e-9)
    if not 0 <= mask_ratio < 1 or count < 1:
        raise ValueError(f"mask_ratio must lie in [0, 1) and leave one of {patches} patches visible, got {mask_ratio}")
    return count


def random_masking(
    batch: int, grid: int, mask_ratio: float, *, block: int = 1, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Indices (B, Ns) of the patches that stay visible, random for each image: equation M-1.

    Every patch of a ``grid`` x ``grid`` image gets uniform noise and the Ns = floor(N (1 - r)) smallest stay. With
    ``block`` > 1 squares of that many patches a side share their noise (at a random offset), so that whole regions
    are hidden or seen. Raises ValueError for a ratio that leaves nothing visible or a block outside 1..grid.
    """
    if not 1 <= block <= grid:
        raise ValueError(f"block must lie in 1..{grid}, got {block}")
    keep = visible_count(grid * grid, mask_ratio)
    noise = torch.rand(batch, grid, grid, device=device)
    if block > 1:
        coarse = torch.rand(batch, *[-(-grid // block) + 1] * 2, device=device)
        rows, columns = (
            (torch.arange(grid, device=device) + torch.randint(block, (batch, 1), device=device)) // block
            for _ in range(2)
        )
        picture = torch.arange(batch, device=device).view(-1, 1, 1)
        noise = coarse[picture, rows.unsqueeze(2), columns.unsqueeze(1)] + 1e-3 * noise
    return noise.flatten(1).argsort(dim=1)[:, :keep]


def position_map(visible: torch.Tensor, patches: int) -> torch.Tensor:
    """Which patches are visible, 1.0 or 0.0 (B, N), from their indices (B, Ns): the flattened position map of M-5."""
    return torch.zeros(len(visible), patches, device=visible.device).scatter_(1, visible, 1.0)


def patchify(images: torch.Tensor, patch: int) -> torch.Tensor:
    """Images (B, C, H, W) as patches (B, N, patch * patch * C), pixels in (row, column, channel) order.

    Raises ValueError when a side is not a multiple of ``patch``.
    """
    if images.shape[2] % patch or images.shape[3] % patch:
        raise ValueError(f"images {tuple(images.shape)} cannot be cut into patches of side {patch}")
    cut = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, h, p, w, p)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: torch.Tensor, patch: int, channels: int = 1) -> torch.Tensor:
    """The images (B, C, H, W) of a square grid of patches (B, N, patch * patch * C); undoes ``patchify``.

    Raises ValueError when N is not a square.
    """
    grid = round(patches.shape[1] ** 0.5)
    if grid * grid != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} patches do not form a square image")
    cut = patches.unflatten(2, (patch, patch, channels)).unflatten(1, (grid, grid))
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def shrink(images: torch.Tensor, ratio: int = 2) -> torch.Tensor:
    """Images (B, C, H, W) at 1 / ``ratio`` of their side: bicubic, without antialiasing, as the official code (M-3).

    Raises ValueError when a side is not a multiple of ``ratio``.
    """
    height, width = images.shape[2:]
    if ratio == 1:
        return images
    if height % ratio or width % ratio:
        raise ValueError(f"images {tuple(images.shape)} cannot be shrunk by {ratio}")
    size = (height // ratio, width // ratio)
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=False)


def reconstruction_loss(
    predicted: torch.Tensor,
    target: torch.Tensor,
    visible_map: torch.Tensor,
    norm: str = "mean",
) -> torch.Tensor:
    """Squared error of hidden patches: equations M-2 and M-3.

    ``predicted`` and ``target`` are (B, N, P), ``visible_map`` (B, N) is 1 where a patch was visible. ``norm`` "mean" is
    the official code's (mean over pixels, then over hidden patches), "sum" the paper's squared L2 norm per image, averaged
    over images. 0 when nothing is hidden. Raises ValueError for shapes that do not fit or an unknown norm.
    """
    if predicted.shape != target.shape or predicted.shape[:2] != visible_map.shape:
        shapes = tuple(predicted.shape), tuple(target.shape), tuple(visible_map.shape)
        raise ValueError(f"predicted {shapes[0]}, target {shapes[1]} and visible_map {shapes[2]} do not fit together")
    if norm not in ("mean", "sum"):
        raise ValueError(f"norm must be 'mean' or 'sum', got {norm!r}")
    hidden = 1 - visible_map.to(target.dtype)
    errors = (predicted.to(target.dtype) - target).square()
    if norm == "sum":
        return (errors.sum(dim=-1) * hidden).sum() / len(errors)
    return (errors.mean(dim=-1) * hidden).sum() / hidden.sum().clamp(min=1)


class MaskedDecoder(nn.Module):
    """Predicts every patch from the tokens of the visible ones: equations M-2 and M-3.

    ``forward(tokens (B, 1 + Ns, C), visible (B, Ns))``, class token first, gives ``outputs`` numbers per patch
    (B, N, outputs). A learned mask token stands in for each hidden patch.
    """

    def __init__(self, inputs: int, outputs: int, grid: int, *, width: int = 64, depth: int = 2, heads: int = 4):
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.blocks = nn.ModuleList(VisionBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, outputs)
        positions = torch.cat([torch.zeros(1, width), sincos_positions(grid, width)])
        self.register_buffer("positions", positions)

    def forward(self, tokens: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(tokens)
        patches = len(self.positions) - 1
        filled = self.mask_token.to(tokens.dtype).expand(len(tokens), patches, -1)
        filled = filled.scatter(1, visible.unsqueeze(-1).expand(-1, -1, tokens.shape[2]), tokens[:, 1:])
        tokens = torch.cat([tokens[:, :1], filled], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.predict(self.norm(tokens))[:, 1:]

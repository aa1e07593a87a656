"""Image encoders: torchvision ResNets and a ViT, in a size for a laptop and in the size the papers use.

Every encoder maps images (B, 1, H, W) in [0, 1] to a map of local features (B, C, h, w).

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50
from torchvision.models.resnet import BasicBlock

from medvlp_lite.encoders.attention import attend

GREY_MEAN, GREY_STD = 0.4978, 0.2449  # chest X-ray statistics stated in the MaCo papers
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Images (B, 1, H, W) in [0, 1] to zero mean and unit spread. Raises ValueError for another shape."""
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be (B, 1, H, W) in [0, 1], got {tuple(images.shape)}")
    return (images - GREY_MEAN) / GREY_STD


class ResNetEncoder(nn.Module):
    """A residual network: images (B, 1, H, W) to a feature map (B, ``width``, H / stride, W / stride).

    ``variant`` "lite": pixel-unshuffle stem (no pixel is thrown away), then torchvision basic blocks down to stride 8,
    0.3 M parameters. "resnet50" (stride 32, width 2048) and "resnet50_layer3" (stride 16, width 1024, as MedKLIP cuts it:
    K-2): torchvision's, from random weights, on three equal channels with ImageNet statistics, as the official MedKLIP code
    feeds it.
    """

    def __init__(self, variant: str = "lite"):
        super().__init__()
        if variant == "lite":
            self.body, self.width, self.stride = _lite_body(), 128, 8
        else:
            cut, self.width, self.stride = (-3, 1024, 16) if variant == "resnet50_layer3" else (-2, 2048, 32)
            self.body = nn.Sequential(*list(resnet50(weights=None).children())[:cut])
        self.variant = variant
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = standardise(images)
        if self.variant != "lite":
            mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
            pixels = (images.expand(-1, 3, -1, -1) - mean) / std
        return self.body(pixels.contiguous(memory_format=torch.channels_last))


def _lite_body() -> nn.Sequential:
    stem = (
        nn.PixelUnshuffle(4),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
    )
    return nn.Sequential(*stem, BasicBlock(32, 32), _widen(32, 64, stride=2), _widen(64, 128, stride=1))


def _widen(inputs: int, outputs: int, stride: int) -> BasicBlock:
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride=stride, downsample=shortcut)


VIT_SIZES = {"lite": (128, 4, 4, 8), "lite_p4": (96, 4, 4, 4), "b16": (768, 12, 12, 16)}  # width, depth, heads, patch


class VisionBlock(nn.Module):
    """One pre-norm transformer block over tokens (B, n, C), with the tensor names of timm's: attention, then two layers."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        q, k, v = self.attn["qkv"](self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        tokens = tokens + self.attn["proj"](attend(q, k, v).transpose(1, 2).flatten(2))
        return tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens))))


class ViTEncoder(nn.Module):
    """A vision transformer that may look at some patches only: equation M-1.

    ``variant`` "lite" (width 128, 4 blocks, patch 8), "lite_p4" (width 96, 4 blocks, patch 4, for half-size images), "b16"
    (width 768, 12 blocks, patch 16), or the four numbers (width, blocks, heads, patch). Positions are fixed 2-D sines and
    cosines. ``forward(images)`` gives the map (B, C, h, w); ``forward(images, visible)`` with patch indices ``visible``
    (B, n) encodes those alone and gives tokens (B, n, C), with ``class_token`` (B, 1 + n, C), the class token first.
    Raises ValueError when the image side is not a multiple of the patch.
    """

    def __init__(self, variant: str | Sequence[int] = "lite", image_size: int = 112):
        super().__init__()
        if isinstance(variant, str) and variant not in VIT_SIZES:
            raise ValueError(f"no ViT {variant!r}; use one of {sorted(VIT_SIZES)}")
        self.width, depth, heads, self.stride = VIT_SIZES[variant] if isinstance(variant, str) else variant
        if image_size % self.stride:
            raise ValueError(f"image_size {image_size} is not a multiple of the patch side {self.stride}")
        self.grid = image_size // self.stride
        self.patches = nn.Conv2d(1, self.width, self.stride, stride=self.stride)
        self.class_token = nn.Parameter(torch.randn(1, 1, self.width) * 0.02)
        self.blocks = nn.ModuleList(VisionBlock(self.width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(self.width, eps=1e-6)
        self.register_buffer("positions", sincos_positions(self.grid, self.width))

    def forward(
        self, images: torch.Tensor, visible: torch.Tensor | None = None, class_token: bool = False
    ) -> torch.Tensor:
        if images.shape[-2:] != (self.grid * self.stride,) * 2:
            raise ValueError(f"this ViT takes images of side {self.grid * self.stride}, got {tuple(images.shape)}")
        tokens = self.patches(standardise(images)).flatten(2).transpose(1, 2) + self.positions
        if visible is not None:
            tokens = tokens.gather(1, visible.unsqueeze(-1).expand(-1, -1, self.width))
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        if visible is not None:
            return tokens if class_token else tokens[:, 1:]
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))


def sincos_positions(grid: int, width: int, reading: str = "mae") -> torch.Tensor:
    """Fixed position codes (grid * grid, width): sines and cosines of the column, then of the row, as MAE orders them.

    Each of them takes D = ``width`` / 2 numbers from D / 2 rates: rate i is 10000^(-i / (D / 2)) as MAE has it, and with
    ``reading`` "maco" 10000^(-i / (2 D)), since that released code divides by D and then by 2; its slowest wave is about a
    thousand times faster. Raises ValueError when ``width`` is not a multiple of 4, or for another reading.
    """
    if width % 4:
        raise ValueError(f"width must be a multiple of 4, got {width}")
    if reading not in ("mae", "maco"):
        raise ValueError(f"reading must be 'mae' or 'maco', got {reading!r}")
    divisor = width if reading == "maco" else width // 4  # 2 D or D / 2
    rates = torch.exp(torch.arange(width // 4) * (-math.log(10_000) / divisor))
    angles = torch.arange(grid).unsqueeze(1) * rates
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = axis.repeat_interleave(grid, dim=0), axis.repeat(grid, 1)
    return torch.cat([columns, rows], dim=1)


IMAGE_ENCODERS = ("resnet_lite", "resnet50", "resnet50_layer3", "vit_lite", "vit_b16")


def image_encoder(name: str, image_size: int) -> nn.Module:
    """An image encoder by name, one of ``IMAGE_ENCODERS``; raises ValueError naming them otherwise."""
    if name not in IMAGE_ENCODERS:
        raise ValueError(f"no image encoder {name!r}; use one of {', '.join(IMAGE_ENCODERS)}")
    if name.startswith("vit_"):
        return ViTEncoder(name.removeprefix("vit_"), image_size)
    return ResNetEncoder(name.removeprefix("resnet_"))

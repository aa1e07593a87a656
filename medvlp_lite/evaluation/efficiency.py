"""What masked encoding saves: step time and memory by mask ratio. Built in chapter 05_masked_contrastive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from medvlp_lite.components.reconstruction import MaskedDecoder, random_masking
from medvlp_lite.encoders.image import ViTEncoder

RATIOS = (0.0, 0.5, 0.75)


def saved_activation_bytes(forward: Callable[[], torch.Tensor]) -> int:
    """How many bytes the forward pass keeps for the backward pass: each distinct storage counts once.

    Parameters count too, since the backward pass reads them.
    """
    storages: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # else its address could be given to the next one
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def masking_cost(
    ratios: Sequence[float] = RATIOS,
    *,
    vit: str | Sequence[int] = "lite_p4",
    image_size: int = 56,
    batch: int = 64,
    rounds: int = 5,
    decoder: Sequence[int] = (64, 1, 2),
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Time and memory of one forward and backward pass by mask ratio, for the encoder alone and with the decoder.

    Seconds are the median of ``rounds`` after one that is not counted; ratios take turns, so that a busy machine slows
    all alike. ``tokens`` counts visible patches.
    """  # fmt: skip
    encoder = ViTEncoder(vit, image_size).to(device)
    width, depth, heads = decoder
    rebuild = MaskedDecoder(
        encoder.width, (2 * encoder.stride) ** 2, encoder.grid, width=width, depth=depth, heads=heads
    ).to(device)
    images = torch.rand(batch, 1, image_size, image_size, device=device)
    masks = {ratio: random_masking(batch, encoder.grid, ratio, device=device) for ratio in ratios}

    def encode(ratio: float) -> torch.Tensor:
        return encoder(images, masks[ratio], class_token=True)

    parts: dict[str, Callable[[float], torch.Tensor]] = {
        "encoder": lambda ratio: encode(ratio).mean(),
        "encoder and decoder": lambda ratio: rebuild(encode(ratio), masks[ratio]).square().mean(),
    }
    rows = []
    for part, forward in parts.items():
        seconds: dict[float, list[float]] = {ratio: [] for ratio in ratios}
        for turn in range(rounds + 1):
            for ratio in ratios:
                took = _seconds(lambda f=forward, r=ratio: f(r).backward(), device)
                if turn:
                    seconds[ratio].append(took)
        rows += [
            {"part": part, "mask_ratio": ratio, "tokens": masks[ratio].shape[1], "seconds": median(seconds[ratio]),
             "saved_activation_mb": saved_activation_bytes(lambda f=forward, r=ratio: f(r)) / 1e6}
            for ratio in ratios
        ]  # fmt: skip
    return rows


def _seconds(work: Callable[[], None], device: torch.device | str) -> float:
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - began

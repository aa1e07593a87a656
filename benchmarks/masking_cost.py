"""Time and memory of a training step of MaCo's ViT by mask ratio: ``python benchmarks/masking_cost.py``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from medvlp_lite.evaluation.efficiency import RATIOS, masking_cost
from medvlp_lite.records.record import device_name

SIZES = {"lite_p4": (56, (64, 1, 2)), "lite": (112, (64, 1, 2)), "b16": (224, (768, 4, 6))}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vit", choices=SIZES, default="lite_p4")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    size, decoder = SIZES[chosen.vit]
    print(f"{chosen.vit}, {size} px, batch {chosen.batch}, {device_name()}")
    rows = masking_cost(
        chosen.ratios, vit=chosen.vit, image_size=size, batch=chosen.batch, decoder=decoder, device=chosen.device
    )
    whole = {row["part"]: row for row in reversed(rows)}
    for row in rows:
        first = whole[row["part"]]
        print(
            f"{row['part']:20s} mask {row['mask_ratio']:.2f}  {row['tokens']:4d} tokens  {1000 * row['seconds']:8.1f} ms "
            f"({row['seconds'] / first['seconds']:.2f}x)  {row['saved_activation_mb']:8.1f} MB kept ({row['saved_activation_mb'] / first['saved_activation_mb']:.2f}x)"
        )

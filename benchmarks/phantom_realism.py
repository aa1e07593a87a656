"""How far phantoms are from real films: ``MEDVLP_DATA=... python benchmarks/phantom_realism.py [--montage FILE.png]``.

Prints a table of phantoms and, where ChestX-ray14 is at hand, of its films, measured alike at 256 pixels. The montage sets both
side by side; it shows real films, so keep it under the terms on their data card.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medvlp_lite.figures.grounding import show_studies
from medvlp_lite.phantom import make_studies
from medvlp_lite.phantom.realism import pairwise_correlation, spectral_slope
from medvlp_lite.sources import registry
from medvlp_lite.studies import Study, resize_image


def collect(count: int) -> dict[str, list[Study]]:
    """Phantoms, and films of ChestX-ray14 evenly over its list, where it is at hand."""
    sets = {"phantom": make_studies(count, seed=500, size=256)}
    try:
        films = registry.load("nih").studies
    except registry.SourceError as missing:
        print(missing, file=sys.stderr)
        return sets
    return {**sets, "ChestX-ray14": films[:: max(1, len(films) // count)][:count]}


def measure(images: np.ndarray) -> dict[str, float]:
    """Measures of uint8 images (N, S, S); brightness as a share of white."""
    grey = images / 255
    return {
        "spectral slope": spectral_slope(images).mean(),
        "pairwise correlation": pairwise_correlation(images),
        "mean brightness": grey.mean(),
        "SD of an image's brightness": grey.mean(axis=(1, 2)).std(),
        "contrast (SD within an image)": grey.std(axis=(1, 2)).mean(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--montage", type=Path)
    options = parser.parse_args()
    sets = collect(options.count)
    table = {
        name: measure(np.stack([resize_image(s.image, 256, 256) for s in studies])) for name, studies in sets.items()
    }
    print(f"{'':32}" + "".join(f"{name:>14}" for name in table))
    for key in table["phantom"]:
        print(f"{key:32}" + "".join(f"{row[key]:14.3f}" for row in table.values()))
    if options.montage:
        rows = [s for studies in sets.values() for s in studies[:: max(1, len(studies) // 8)][:8]]
        show_studies(rows, titles=[s.source for s in rows], outlines=False).savefig(options.montage, dpi=130)

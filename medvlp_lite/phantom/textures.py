"""Drawing primitives: smooth steps, textures, soft spots and soft lines.

A texture is stored as Fourier coefficients, so it looks the same at every resolution; its pixels are made once per size and
then only cut out. Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from medvlp_lite.phantom.patients import rng_for

if TYPE_CHECKING:
    from medvlp_lite.phantom.anatomy import Frame

HIGHEST = 96  # cycles per image in the finest texture
BANDS = {  # lowest and highest frequency, fall of amplitude between
    "cloud": (1.5, 9.0, 1.2),
    "patch": (7.0, 26.0, 0.8),
    "fine": (24.0, 60.0, 0.3),
    "net": (16.0, 38.0, 0.0),
    "tissue": (18.0, 80.0, 1.2),
    "bowel": (3.0, 7.0, 0.0),
}


def ramp(distance: np.ndarray, softness: float) -> np.ndarray:
    """A smooth step from 0 to 1 over ``softness``, half at distance 0; exactly 0 and 1 outside."""
    t = distance * (1 / softness)
    t += 0.5
    np.maximum(t, 0.0, out=t)
    np.minimum(t, 1.0, out=t)
    smooth = t * -2.0
    smooth += 3.0
    t *= t
    smooth *= t
    return smooth


def bump(x: np.ndarray | float, centre: float, width: float) -> np.ndarray:
    """A Gaussian bump of height 1 and standard deviation ``width``."""
    z = (x - centre) * (0.7071068 / width)
    return np.exp(-z * z)


def bank_size(size: int) -> int:
    """Side of the texture bank for images of side ``size``: about twice, a power of two."""
    return int(min(2048, max(256, 2 ** int(np.ceil(np.log2(2 * size))))))


@lru_cache(maxsize=16)
def texture_bank(kind: str, side: int) -> np.ndarray:
    """A tileable random field (side, side) float32 of mean 0 and standard deviation 1; "net" shows ridges in [0, 1]."""
    low, high, slope = BANDS[kind]
    rng = rng_for(7, "texture", kind)
    shape = (2 * HIGHEST + 1, HIGHEST + 1)
    coefficients = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    rows = np.arange(-HIGHEST, HIGHEST + 1)
    radius = np.hypot(rows[:, None], np.arange(HIGHEST + 1)[None])
    weight = np.exp(-np.square(radius / high)) * (1 - np.exp(-np.square(radius / low)))
    coefficients *= weight / np.maximum(radius, 1) ** slope
    spectrum = np.zeros((side, side // 2 + 1), dtype=complex)
    spectrum[rows % side, : HIGHEST + 1] = coefficients
    image = np.fft.irfft2(spectrum, s=(side, side))
    image = (image - image.mean()) / image.std()
    if kind == "net":
        image = np.clip(1 - np.abs(image) / 0.55, 0, 1)
    return image.astype(np.float32)


def texture(kind: str, size: int, window: tuple[slice, slice], offset: np.ndarray) -> np.ndarray:
    """The texture ``kind`` in a window of an image of side ``size``, moved by ``offset`` (two fractions)."""
    side = bank_size(size)
    bank = texture_bank(kind, side)
    index = [
        (((np.arange(s.start, s.stop) + 0.5) / size + move) * side).astype(np.intp) % side
        for s, move in zip(window, offset)
    ]
    return bank.take(index[0], axis=0).take(index[1], axis=1)


def splat(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, radius: np.ndarray, height: np.ndarray) -> None:
    """Add soft round spots to ``image`` (H, W), in place: centres and radii in pixels, peak heights."""
    reach = int(np.ceil(1.6 * float(radius.max()) + 1))
    steps = np.arange(-reach, reach + 1)
    near_r, near_c = np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp)
    r, c = near_r[:, None] + steps, near_c[:, None] + steps
    width = np.maximum(radius, 0.45)[:, None] * 0.62
    shrink = np.minimum(1.0, radius / 0.45) ** 2  # a spot smaller than a pixel keeps its mass
    along_r = np.exp(-0.5 * np.square((r - rows[:, None]) / width))
    along_c = np.exp(-0.5 * np.square((c - columns[:, None]) / width))
    values = (height * shrink)[:, None, None] * along_r[:, :, None] * along_c[:, None, :]
    keep = ((r >= 0) & (r < image.shape[0]))[:, :, None] & ((c >= 0) & (c < image.shape[1]))[:, None, :]
    flat = (r[:, :, None] * image.shape[1] + c[:, None, :])[keep]
    image += np.bincount(flat, weights=values[keep], minlength=image.size).reshape(image.shape).astype(image.dtype)


def strokes(frame: Frame, image: np.ndarray, lines: Sequence[np.ndarray], width: float, height: float) -> None:
    """Add soft lines to ``image``, each through points (n, 2) of u and v: ``width`` in image heights, peak ``height``."""
    places = []
    for points in lines:
        t = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        at = np.linspace(0, t[-1], max(2, int(t[-1] * frame.size * 1.5)))
        places.append(np.stack([np.interp(at, t, points[:, 0]), np.interp(at, t, points[:, 1])]))
    rows, columns = frame.pixel(*np.concatenate(places, axis=1))
    radius = max(0.45, 0.5 * width * frame.size)
    thin = min(1.0, width * frame.size / 0.9)
    overlap = 0.62 * radius * np.sqrt(2 * np.pi) * 1.5 / frame.scale
    splat(image, rows, columns, np.full(len(rows), radius), np.full(len(rows), height * thin / overlap))


def smooth(points: list[tuple[float, float]], count: int = 60) -> np.ndarray:
    """A smooth curve (count, 2) through a few points (Catmull-Rom)."""
    p = np.asarray(points, dtype=float)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, len(points) - 1 - 1e-6, count)
    i, f = t.astype(int), (t % 1)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    return 0.5 * (2 * b + (c - a) * f + (2 * a - 5 * b + 4 * c - d) * f**2 + (3 * b - a - 3 * c + d) * f**3)

"""Textures, vessel trees and soft strokes: the brushes of the phantom.

A texture is stored as Fourier coefficients and a tree as line segments, so both look the same at every resolution; the
pixels are made once per size and then only cut out. Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .patients import stream

HIGHEST = 96  # cycles per image in the finest texture
BANDS = {"cloud": (1.5, 9.0, 1.2), "patch": (7.0, 26.0, 0.8), "fine": (24.0, 60.0, 0.3), "net": (16.0, 38.0, 0.0)}
TREES = 24


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
    rng = stream(7, "texture", kind)
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
    return bank[index[0][:, None], index[1][None]]


@lru_cache(maxsize=TREES)
def _tree(index: int) -> np.ndarray:
    """Line segments of one lung's vessels: columns w0, v0, w1, v1, calibre; the hilum is at (0.085, 0.45)."""
    rng = stream(7, "tree", index)
    trunks = [
        (-1.25, 0.0056),
        (-0.85, 0.0052),
        (-0.35, 0.0042),
        (0.2, 0.004),
        (0.6, 0.005),
        (0.95, 0.006),
        (1.3, 0.0062),
    ]
    todo = []
    for angle, calibre in trunks:
        angle = angle + rng.normal(0, 0.12)
        start = (0.075 + 0.015 * np.cos(angle), 0.45 + 0.04 * np.sin(angle))
        todo.append((*start, angle, calibre * rng.uniform(0.85, 1.15)))
    segments = []
    while todo:
        w, v, angle, calibre = todo.pop()
        bend = rng.normal(0, 0.07)
        for _ in range(int(rng.integers(3, 6))):
            length = rng.uniform(0.010, 0.022)
            angle += bend + rng.normal(0, 0.09)
            new_w, new_v = w + length * np.cos(angle), v + length * np.sin(angle)
            segments.append((w, v, new_w, new_v, calibre))
            w, v, calibre = new_w, new_v, 0.985 * calibre
        if calibre > 0.0011 and 0.03 < w < 0.42 and 0.1 < v < 0.92:
            fork, share = rng.uniform(0.35, 0.8), rng.uniform(0.70, 0.88)
            turn = rng.choice([-1, 1])
            todo.append((w, v, angle + turn * fork * 0.4, calibre * share))
            todo.append((w, v, angle - turn * fork, calibre * (1.5 - share)))
    return np.asarray(segments)


@lru_cache(maxsize=4 * TREES)
def vessel_bank(index: int, side: int) -> np.ndarray:
    """Vessels of one lung as float32 (side, side // 2): rows are v in [0, 1), columns distance from midline in [0, 0.5)."""
    from scipy.ndimage import gaussian_filter

    segments = _tree(index)
    image = np.zeros((side, side // 2))
    for low, high in ((0.0, 0.0017), (0.0017, 0.0024), (0.0024, 0.0034), (0.0034, 0.0046), (0.0046, 1.0)):
        chosen = segments[(segments[:, 4] >= low) & (segments[:, 4] < high)]
        if not len(chosen):
            continue
        steps = (np.arange(max(8, side // 24)) + 0.5) / max(8, side // 24)
        along = chosen[:, None, :2] + steps[None, :, None] * (chosen[:, None, 2:4] - chosen[:, None, :2])
        length = np.hypot(chosen[:, 2] - chosen[:, 0], chosen[:, 3] - chosen[:, 1])
        mass = np.repeat(length * chosen[:, 4] ** 1.6 / len(steps), len(steps))  # thickness of blood along the beam
        rows, columns = (along[..., 1] * side).astype(int).ravel(), (along[..., 0] * side).astype(int).ravel()
        inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side // 2)
        layer = np.bincount(
            rows[inside] * (side // 2) + columns[inside], weights=mass[inside], minlength=side * (side // 2)
        )
        width = 0.55 * chosen[:, 4].mean()
        image += gaussian_filter(layer.reshape(side, side // 2), width * side, truncate=3) * side**2
    mottle = texture_bank("patch", max(256, side))[-side:, : side // 2]  # vessels too fine to be seen one by one
    return (3.4 * image + 0.010 * mottle).astype(np.float32)


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

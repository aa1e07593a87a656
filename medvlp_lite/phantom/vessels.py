"""The vessels of the lungs: branching trees, drawn once and then fitted to each patient. Built in chapter 01_image_report_pairs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

from medvlp_lite.phantom.anatomy import SIDES, Frame, Outline
from medvlp_lite.phantom.patients import Patient, rng_for
from medvlp_lite.phantom.textures import bank_size, bump, texture_bank

TREES = 24  # vessel trees to choose from, made once


@lru_cache(maxsize=TREES)
def _tree(index: int) -> np.ndarray:
    """Line segments of one lung's vessels: columns w0, v0, w1, v1, calibre; the hilum is at (0.085, 0.45)."""
    rng = rng_for(7, "tree", index)
    angles = (-1.25, -0.85, -0.35, 0.2, 0.6, 0.95, 1.3)
    calibres = (0.0056, 0.0052, 0.0042, 0.004, 0.005, 0.006, 0.0062)
    todo = []
    for angle, calibre in zip(angles, calibres):
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
        pixel = rows[inside] * (side // 2) + columns[inside]
        layer = np.bincount(pixel, weights=mass[inside], minlength=side * (side // 2))
        width = 0.55 * chosen[:, 4].mean()
        image += gaussian_filter(layer.reshape(side, side // 2), width * side, truncate=3) * side**2
    mottle = 0.010 * texture_bank("patch", side) + 0.014 * texture_bank("tissue", side)  # vessels too fine to be seen
    return (3.4 * image + mottle[:, : side // 2]).astype(np.float32)


def vessels(frame: Frame, outline: Outline, patient: Patient, lungs: dict[str, np.ndarray]) -> np.ndarray:
    """Extra attenuation (S, S) of the pulmonary vessels and hila, inside the lungs."""
    a, rng = outline.a, rng_for(patient.seed, "vessels")
    side_of_bank = bank_size(frame.size)
    image = np.zeros_like(frame.u)
    for side, sign in SIDES.items():
        bank = vessel_bank(int(rng.integers(TREES)), side_of_bank)
        stretch_w, stretch_v, lean = ([0.9, 0.9, -0.12] + rng.random(3) * [0.25, 0.25, 0.24]).tolist()
        drop = 0.012 if side == "right" else -0.008
        hilum_w, hilum_v = 0.085 + sign * outline.shift, 0.45 + drop + 0.4 * outline.lower
        window = frame.half(side, a.lung_top - 0.02, 1.0)
        w, v = frame.u[window] * sign - hilum_w, frame.v[window] - hilum_v
        column = np.clip((0.085 + stretch_w * w) * side_of_bank, 0, side_of_bank // 2 - 1).astype(np.intp)
        row = np.clip((0.45 + stretch_v * v + lean * w) * side_of_bank, 0, side_of_bank - 1).astype(np.intp)
        image[window] += a.vessels * bank.take(row * (side_of_bank // 2) + column)
        window = frame.window(sign * hilum_w - 0.06, sign * hilum_w + 0.06, hilum_v - 0.10, hilum_v + 0.12)
        root = bump(frame.u[window], sign * hilum_w, 0.019) * bump(frame.v[window], hilum_v + 0.012, 0.036)
        image[window] += 0.11 * a.hilum * root
        if a.crowding > 0:  # full vessels or a shallow breath: a haze that is no disease
            window = frame.window(*sorted((0.0, 0.32 * sign)), 0.2, 0.82)
            image[window] += a.crowding * bump(frame.u[window] * sign, 0.13, 0.075) * bump(frame.v[window], 0.52, 0.12)
    return image * (lungs["right"] + lungs["left"])

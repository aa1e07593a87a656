"""What is not disease: tubes, lines, leads, wires and the side marker. Built in chapter 01_image_report_pairs."""

from __future__ import annotations

import numpy as np

from .anatomy import Frame
from .patients import Patient, stream
from .textures import ramp, splat

GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


def draw_devices(patient: Patient, frame: Frame, image: np.ndarray) -> None:
    """Add the patient's devices to ``image`` (S, S), in place."""
    for name in patient.devices:
        rng = stream(patient.seed, "device", name, patient.visit)
        PAINTERS[name](rng, frame, image)


def draw_marker(patient: Patient, frame: Frame, image: np.ndarray) -> None:
    """Put the lead letter into an upper corner: L on the patient's left, which is the image's right."""
    if patient.marker is None:
        return
    rng = stream(patient.seed, "marker", patient.visit)
    x, y = rng.uniform(0.05, 0.10), rng.uniform(0.05, 0.16)
    x = 1 - x if patient.marker == "L" else x
    cell, size, bright = rng.uniform(0.0062, 0.0085), frame.size, rng.uniform(0.85, 1.0)
    glyph = np.array([[int(c) for c in row] for row in GLYPHS[patient.marker]], dtype=np.float32)
    rows, columns = np.nonzero(glyph)
    steps = (np.arange(4) - 1.5) / 4
    r = (y + (rows[:, None, None] - 3 + steps[None, :, None]) * cell) * size + np.zeros((1, 1, 4))
    c = (x + (columns[:, None, None] - 2 + steps[None, None, :]) * cell) * size + np.zeros((1, 4, 1))
    layer = np.zeros_like(image)
    radius = np.full(r.size, 0.5 * cell * size)
    splat(layer, r.ravel() - 0.5, c.ravel() - 0.5, radius, np.full(r.size, 0.25))
    np.maximum(image, bright * np.clip(layer, 0, 1), out=image)


def stroke(frame: Frame, image: np.ndarray, points: np.ndarray, width: float, height: float) -> None:
    """Add a soft line through ``points`` (n, 2) of u and v to ``image``: ``width`` in image heights, peak ``height``."""
    t = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    count = max(2, int(t[-1] * frame.size * 1.5))
    at = np.linspace(0, t[-1], count)
    rows, columns = frame.pixel(np.interp(at, t, points[:, 0]), np.interp(at, t, points[:, 1]))
    radius = max(0.45, 0.5 * width * frame.size)
    thin = min(1.0, width * frame.size / 0.9)
    overlap = 0.62 * radius * np.sqrt(2 * np.pi) * 1.5 / frame.scale
    splat(image, rows, columns, np.full(count, radius), np.full(count, height * thin / overlap))


def smooth(points: list[tuple[float, float]], count: int = 60) -> np.ndarray:
    """A smooth curve (count, 2) through a few points (Catmull-Rom)."""
    p = np.asarray(points, dtype=float)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, len(points) - 1 - 1e-6, count)
    i, f = t.astype(int), (t % 1)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    return 0.5 * (2 * b + (c - a) * f + (2 * a - 5 * b + 4 * c - d) * f**2 + (3 * b - a - 3 * c + d) * f**3)


def _endotracheal(rng: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    tip = rng.uniform(0.27, 0.33)
    for offset in (-0.006, 0.006):
        stroke(frame, image, smooth([(0.004 + offset, -0.05), (offset, 0.12), (0.002 + offset, tip)]), 0.004, 0.16)


def _nasogastric(rng: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    x = rng.uniform(-0.01, 0.01)
    path = [(x, -0.05), (x - 0.008, 0.25), (x + 0.012, 0.5), (0.03, 0.74), (0.10, 0.86), (0.17, rng.uniform(0.86, 0.95))]
    stroke(frame, image, smooth(path), 0.005, 0.22)


def _central_line(rng: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    tip = (-0.035, rng.uniform(0.38, 0.48))
    if rng.random() < 0.5:
        path = [(-0.10, -0.02), (-0.075, 0.12), (-0.045, 0.24), tip]
    else:
        path = [(-0.36, 0.22), (-0.24, 0.185), (-0.11, 0.2), (-0.05, 0.27), tip]
    stroke(frame, image, smooth(path), 0.0045, 0.22)


def _pacemaker(rng: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    u, v = rng.uniform(0.24, 0.31), rng.uniform(0.20, 0.27)
    window = frame.window(u - 0.06, u + 0.06, v - 0.06, v + 0.06)
    x, y = np.abs(frame.u[window] - u) / 0.036, np.abs(frame.v[window] - v) / 0.031
    r = (x**4 + y**4) ** 0.25
    image[window] += 0.55 * ramp(1 - r, 0.12) - 0.12 * ramp(0.72 - r, 0.2)
    end = (rng.uniform(0.09, 0.14), rng.uniform(0.68, 0.73))
    path = [(u, v - 0.02), (0.16, 0.175), (0.02, 0.25), (-0.045, 0.36), (-0.05, 0.55), (0.01, 0.67), end]
    stroke(frame, image, smooth(path), 0.0045, 0.32)
    if rng.random() < 0.6:
        path = [(u, v - 0.02), (0.15, 0.165), (0.01, 0.245), (-0.05, 0.38), (-0.062, 0.5), (-0.03, 0.545)]
        stroke(frame, image, smooth(path), 0.0045, 0.32)


def _leads(rng: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    for u, v in ((-0.27, 0.24), (0.28, 0.23), (-0.26, 0.72), (0.27, 0.74))[: int(rng.integers(3, 5))]:
        u, v = u + rng.uniform(-0.04, 0.04), v + rng.uniform(-0.04, 0.04)
        window = frame.window(u - 0.03, u + 0.03, v - 0.03, v + 0.03)
        r = np.hypot(frame.u[window] - u, frame.v[window] - v)
        image[window] += 0.22 * ramp(0.011 - r, 0.006)
        way = np.sign(u) * rng.uniform(0.05, 0.16)
        path = [(u, v), (u + 0.3 * way, v + rng.uniform(-0.05, 0.09)), (u + way, v + 0.14), (0.42 * np.sign(u), 1.02)]
        stroke(frame, image, smooth(path), 0.003, 0.16)


def _wires(rng: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    for k in range(int(rng.integers(4, 7))):
        v, tilt, x = 0.30 + 0.068 * k, rng.normal(0, 0.004), rng.normal(0, 0.003)
        t = np.linspace(0, 2 * np.pi, 24)
        loop = np.stack([x + 0.013 * np.cos(t), v + 0.005 * np.sin(t) + tilt * np.cos(t)], axis=1)
        stroke(frame, image, loop, 0.0032, 0.30)


PAINTERS = {
    "endotracheal tube": _endotracheal,
    "nasogastric tube": _nasogastric,
    "central venous catheter": _central_line,
    "pacemaker": _pacemaker,
    "ECG leads": _leads,
    "sternal wires": _wires,
}

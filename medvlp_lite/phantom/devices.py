"""What is not disease: tubes, lines, leads, wires and the side marker. Built in chapter 01_image_report_pairs."""

from __future__ import annotations

import numpy as np

from medvlp_lite.phantom.anatomy import SIDES, Frame
from medvlp_lite.phantom.patients import Patient, rng_for
from medvlp_lite.phantom.textures import ramp, smooth, strokes

GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


def draw_device(name: str, side: str, rng: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    """Add one device to ``image`` (S, S), in place; the side matters only to a chest tube."""
    DRAW[name](rng, frame, image, side)


def draw_marker(patient: Patient, frame: Frame, image: np.ndarray) -> None:
    """Put the lead letter into an upper corner: L on the patient's left, which is the image's right."""
    if patient.marker is None:
        return
    rng = rng_for(patient.seed, "marker", patient.visit)
    x, y = rng.uniform(0.05, 0.10), rng.uniform(0.05, 0.16)
    x = 1 - x if patient.marker == "L" else x
    cell, size, bright = rng.uniform(0.0062, 0.0085), frame.size, rng.uniform(0.85, 1.0)
    glyph = np.array([[int(c) for c in row] for row in GLYPHS[patient.marker]], dtype=np.float32)
    window = tuple(
        slice(max(0, int((at - reach * cell) * size)), min(size, int((at + reach * cell) * size) + 2))
        for at, reach in ((y, 5), (x, 4))
    )
    rows, columns = (((np.arange(s.start, s.stop) + 0.5) / size - at) / cell for s, at in zip(window, (y, x)))
    near_r = ramp(0.5 - np.abs(rows[:, None] - np.arange(7) + 3), 1.0)
    near_c = ramp(0.5 - np.abs(columns[:, None] - np.arange(5) + 2), 1.0)
    letter = (near_r @ glyph @ near_c.T).astype(np.float32)
    image[window] = np.maximum(image[window], bright * letter)


def _endotracheal(rng: np.random.Generator, frame: Frame, image: np.ndarray, side: str) -> None:
    tip = rng.uniform(0.27, 0.33)
    for offset in (-0.006, 0.006):
        strokes(frame, image, [smooth([(0.004 + offset, -0.05), (offset, 0.12), (0.002 + offset, tip)])], 0.004, 0.16)


def _nasogastric(rng: np.random.Generator, frame: Frame, image: np.ndarray, side: str) -> None:
    x = rng.uniform(-0.01, 0.01)
    end = (0.17, rng.uniform(0.86, 0.95))
    path = [(x, -0.05), (x - 0.008, 0.25), (x + 0.012, 0.5), (0.03, 0.74), (0.10, 0.86), end]
    strokes(frame, image, [smooth(path)], 0.005, 0.22)


def _central_line(rng: np.random.Generator, frame: Frame, image: np.ndarray, side: str) -> None:
    tip = (-0.035, rng.uniform(0.38, 0.48))
    if rng.random() < 0.5:
        path = [(-0.10, -0.02), (-0.075, 0.12), (-0.045, 0.24), tip]
    else:
        path = [(-0.36, 0.22), (-0.24, 0.185), (-0.11, 0.2), (-0.05, 0.27), tip]
    strokes(frame, image, [smooth(path)], 0.0045, 0.22)


def _pacemaker(rng: np.random.Generator, frame: Frame, image: np.ndarray, side: str) -> None:
    u, v = rng.uniform(0.24, 0.31), rng.uniform(0.20, 0.27)
    window = frame.window(u - 0.06, u + 0.06, v - 0.06, v + 0.06)
    x, y = np.abs(frame.u[window] - u) / 0.036, np.abs(frame.v[window] - v) / 0.031
    r = (x**4 + y**4) ** 0.25
    image[window] += 0.55 * ramp(1 - r, 0.12) - 0.12 * ramp(0.72 - r, 0.2)
    end = (rng.uniform(0.09, 0.14), rng.uniform(0.68, 0.73))
    path = [(u, v - 0.02), (0.16, 0.175), (0.02, 0.25), (-0.045, 0.36), (-0.05, 0.55), (0.01, 0.67), end]
    strokes(frame, image, [smooth(path)], 0.0045, 0.32)
    if rng.random() < 0.6:
        path = [(u, v - 0.02), (0.15, 0.165), (0.01, 0.245), (-0.05, 0.38), (-0.062, 0.5), (-0.03, 0.545)]
        strokes(frame, image, [smooth(path)], 0.0045, 0.32)


def _leads(rng: np.random.Generator, frame: Frame, image: np.ndarray, side: str) -> None:
    for u, v in ((-0.27, 0.24), (0.28, 0.23), (-0.26, 0.72), (0.27, 0.74))[: int(rng.integers(3, 5))]:
        u, v = u + rng.uniform(-0.04, 0.04), v + rng.uniform(-0.04, 0.04)
        window = frame.window(u - 0.03, u + 0.03, v - 0.03, v + 0.03)
        r = np.hypot(frame.u[window] - u, frame.v[window] - v)
        image[window] += 0.22 * ramp(0.011 - r, 0.006)
        way = np.sign(u) * rng.uniform(0.05, 0.16)
        path = [(u, v), (u + 0.3 * way, v + rng.uniform(-0.05, 0.09)), (u + way, v + 0.14), (0.42 * np.sign(u), 1.02)]
        strokes(frame, image, [smooth(path)], 0.003, 0.16)


def _chest_tube(rng: np.random.Generator, frame: Frame, image: np.ndarray, side: str) -> None:
    entry, tip, sign = rng.uniform(0.55, 0.68), (rng.uniform(0.14, 0.19), rng.uniform(0.22, 0.30)), SIDES[side]
    for offset in (-0.006, 0.006):
        path = [(0.50, entry + 0.05), (0.37, entry), (0.27, entry - 0.09 + offset), (0.22 + offset, 0.42)]
        path.append((tip[0] + offset, tip[1]))
        strokes(frame, image, [smooth(path) * [sign, 1]], 0.004, 0.24)


def _port(rng: np.random.Generator, frame: Frame, image: np.ndarray, side: str) -> None:
    u, v = -rng.uniform(0.22, 0.28), rng.uniform(0.28, 0.34)
    window = frame.window(u - 0.04, u + 0.04, v - 0.04, v + 0.04)
    x, y = np.abs(frame.u[window] - u) / 0.023, np.abs(frame.v[window] - v) / 0.023
    r = (x**4 + y**4) ** 0.25
    image[window] += 0.42 * ramp(1 - r, 0.15) - 0.16 * ramp(0.6 - r, 0.2)
    path = [(u, v - 0.02), (-0.20, 0.18), (-0.11, 0.17), (-0.05, 0.26), (-0.035, rng.uniform(0.40, 0.47))]
    strokes(frame, image, [smooth(path)], 0.0045, 0.24)


def _wires(rng: np.random.Generator, frame: Frame, image: np.ndarray, side: str) -> None:
    t, loops = np.linspace(0, 2 * np.pi, 24), []
    for k in range(int(rng.integers(4, 7))):
        v, tilt, x = 0.30 + 0.068 * k, rng.normal(0, 0.004), rng.normal(0, 0.003)
        loops.append(np.stack([x + 0.013 * np.cos(t), v + 0.005 * np.sin(t) + tilt * np.cos(t)], axis=1))
    strokes(frame, image, loops, 0.0032, 0.30)


DRAW = {
    "endotracheal tube": _endotracheal,
    "nasogastric tube": _nasogastric,
    "central venous catheter": _central_line,
    "pacemaker": _pacemaker,
    "ECG leads": _leads,
    "sternal wires": _wires,
    "chest tube": _chest_tube,
    "port": _port,
}

"""The normal chest: outlines of lungs, heart and diaphragm, and the layers that a beam passes.

Lengths are in units of the image height. In the patient's frame u runs from the midline (u > 0 is the patient's left,
the image's right), v from top to bottom, and w = |u| on either side. Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .patients import Anatomy, Exposure, Patient, stream
from .textures import TREES, bank_size, bump, ramp, texture, vessel_bank

SIDES = {"right": -1, "left": 1}
LUNG, FLESH, ABDOMEN, CENTRE, HEART = 0.17, 0.50, 0.84, 0.78, 0.72


class Outline:
    """Where lungs, heart and diaphragm end. ``lift`` raises a dome (right, left), ``shift`` moves the mediastinum."""

    def __init__(
        self,
        anatomy: Anatomy,
        exposure: Exposure,
        view: str = "PA",
        *,
        lift: tuple[float, float] = (0.0, 0.0),
        shift: float = 0.0,
        heart: float = 1.0,
    ):
        self.a, self.lift = anatomy, {"right": lift[0], "left": lift[1]}
        self.shift = exposure.turn + shift
        self.heart_scale = anatomy.heart * heart * (1.1 if view == "AP" else 1.0)
        self.lower = exposure.inspiration - (0.02 if view == "AP" else 0.0)

    def outer(self, side: str, v: np.ndarray | float) -> np.ndarray:
        """w of the lateral lung border at height v."""
        a, tip = self.a, 0.125
        t = np.clip((0.50 - v) / (0.50 - a.lung_top), 0, 1)
        width = a.lung_width + 0.012 * bump(v, 0.62, 0.15) + 0.004 * SIDES[side]
        return tip + (width - tip) * np.maximum(1 - t**1.9, 0) ** 0.58

    def inner(self, side: str, v: np.ndarray | float) -> np.ndarray:
        """w of the medial lung border at height v, behind the heart."""
        a, tip = self.a, 0.125
        t = np.clip((a.lung_top + 0.10 - v) / 0.10, 0, 1)
        return tip - (tip - 0.8 * a.mediastinum) * np.sqrt(np.maximum(1 - t**2, 0)) + SIDES[side] * self.shift

    def dome(self, side: str, w: np.ndarray | float) -> np.ndarray:
        """v of the diaphragm at distance w from the midline."""
        a = self.a
        top = a.dome_right + self.lower + (a.dome_step if side == "left" else 0.0) - self.lift[side]
        crest = 0.46 * a.lung_width
        fall = np.where(w > crest, (w - crest) / (a.lung_width - crest), 0.65 * (crest - w) / crest)
        return top + a.dome_curve * 0.095 * np.abs(fall) ** 2.5

    def silhouette(self, side: str, v: np.ndarray | float) -> np.ndarray:
        """w of the border of mediastinum and heart at height v."""
        a, sign = self.a, SIDES[side]
        size = self.heart_scale
        base = a.dome_right + self.lower - 0.04
        if side == "left":
            edge = a.mediastinum + 0.034 * a.knob * bump(v, 0.325, 0.032) + 0.025 * a.trunk * bump(v, 0.43, 0.042)
            edge = edge + (0.158 * size + 0.2 * a.heart_tilt) * np.where(
                v < base, bump(v, base, 0.125), bump(v, base, 0.16)
            )
        else:
            edge = a.mediastinum + 0.008 * bump(v, 0.33, 0.08)
            edge = edge + (0.058 * size - 0.2 * a.heart_tilt) * np.where(
                v < base - 0.05, bump(v, base - 0.05, 0.10), bump(v, base - 0.05, 0.17)
            )
        return edge + sign * self.shift

    def extent(self, side: str, v: float) -> tuple[float, float]:
        """The visible lung at height v, medial and lateral w, clear of the heart."""
        return max(float(self.inner(side, v)), float(self.silhouette(side, v))), float(self.outer(side, v))

    def height(self, side: str, fraction: float) -> float:
        """v at a fraction of the lung's height, 0 at the apex and 1 at the top of the dome."""
        bottom = self.dome(side, 0.46 * self.a.lung_width)
        return float(self.a.lung_top + fraction * (bottom - self.a.lung_top))


@lru_cache(maxsize=8)
def pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x (1, S) and y (S, 1) of pixel centres in [0, 1]."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return centres[None, :], centres[:, None]


class Frame:
    """The patient's coordinates of every pixel: u and v (S, S), and fast look-up of curves along u and v."""

    def __init__(self, patient: Patient, size: int):
        e = patient.exposure
        self.size, self.scale = size, e.scale
        self.cos, self.sin = float(np.cos(e.rotation)), float(np.sin(e.rotation))
        self.centre = (0.5 + e.shift_x, 0.5 + e.shift_y)
        x, y = pixel_grid(size)
        dx, dy = (x - self.centre[0]) / e.scale, (y - self.centre[1]) / e.scale
        self.u = dx * np.float32(self.cos) + dy * np.float32(self.sin)
        self.v = dy * np.float32(self.cos) - dx * np.float32(self.sin) + np.float32(0.5)
        self.w = np.abs(self.u)
        steps = 2048 if size <= 256 else 8192
        self.ticks = np.linspace(0, 1, steps, dtype=np.float32)
        self.along_u = self.ticks * 2 - 1
        self.along_v = self.ticks * 2 - 0.5
        self._u = np.clip((self.u + 1) * (0.5 * steps), 0, steps - 1).astype(np.intp)
        self._v = np.clip((self.v + 0.5) * (0.5 * steps), 0, steps - 1).astype(np.intp)

    def by_u(self, curve: np.ndarray, window: tuple = (...,)) -> np.ndarray:
        """A curve given at ``along_u``, at every pixel of the window."""
        return curve.astype(np.float32, copy=False).take(self._u[window])

    def by_v(self, curve: np.ndarray, window: tuple = (...,)) -> np.ndarray:
        """A curve given at ``along_v``, at every pixel of the window."""
        return curve.astype(np.float32, copy=False).take(self._v[window])

    def pixel(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column (in pixels, fractional) of points in the patient's frame."""
        v = np.asarray(v) - 0.5
        x = self.centre[0] + self.scale * (np.asarray(u) * self.cos - v * self.sin)
        y = self.centre[1] + self.scale * (np.asarray(u) * self.sin + v * self.cos)
        return y * self.size - 0.5, x * self.size - 0.5

    def window(self, u0: float, u1: float, v0: float, v1: float) -> tuple[slice, slice]:
        """The smallest pixel window holding a box of the patient's frame; at least one pixel."""
        rows, columns = self.pixel([u0, u0, u1, u1], [v0, v1, v0, v1])
        return tuple(
            slice(max(0, min(int(p.min()), self.size - 1)), max(1, min(int(p.max()) + 2, self.size)))
            for p in (rows, columns)
        )


def lung_fields(frame: Frame, outline: Outline, softness: float = 0.012) -> dict[str, np.ndarray]:
    """Each lung as a soft mask (S, S), from 0 to 1, reaching behind the heart down to the diaphragm."""
    fields = {}
    for side, sign in SIDES.items():
        w = frame.u * sign
        depth = np.minimum(frame.by_v(outline.outer(side, frame.along_v)) - w, w - frame.by_v(outline.inner(side, frame.along_v)))
        depth = np.minimum(depth, frame.by_u(outline.dome(side, sign * frame.along_u)) - frame.v)
        depth = np.minimum(depth, frame.v - outline.a.lung_top)
        fields[side] = ramp(depth, softness)
    return fields


def soft_tissue(frame: Frame, outline: Outline, patient: Patient, lungs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation (S, S) of body wall, abdomen, mediastinum, heart and lungs without vessels; and where the heart covers."""
    a, v, w = outline.a, frame.along_v, frame.w
    neck = a.neck + 0.012 * bump(v, 0.0, 0.06)
    shoulder = neck + (0.60 - neck) * np.clip((v - a.shoulder * 0.35) / (a.shoulder * 1.1), 0, 1) ** 1.5
    trunk = a.lung_width + a.flank + 0.02 * ramp(v - 0.7, 0.4) + 0.25 * ramp(0.26 - v, 0.16)
    body = ramp(frame.by_v(np.minimum(shoulder, trunk)) - w, 0.035)
    arm = ramp(0.075 - np.abs(w - frame.by_v(trunk + 0.10 + 0.05 * (v - 0.3))), 0.05) * frame.by_v(ramp(v - 0.20, 0.1))
    depth = FLESH + 0.10 * frame.by_v(bump(v, 0.19, 0.06)) - 0.16 * frame.by_v(bump(v, 0.02, 0.09))
    flesh = depth * (0.62 + 0.38 * ramp(a.lung_width + a.flank - 0.05 - w, 0.20))
    image = flesh * body
    np.maximum(image, 0.40 * arm, out=image)
    image += frame.by_v((ABDOMEN - FLESH) * ramp(v - 0.74, 0.26)) * body * ramp(a.lung_width + a.flank - w, 0.14)
    image += (CENTRE - FLESH) * frame.by_u(bump(frame.along_u, outline.shift * 0.5, 0.075)) * body * (1 - 0.55 * frame.by_v(bump(v, 0.0, 0.10)))
    air = LUNG + a.lung_density + frame.by_v(0.05 * ramp(v - 0.62, 0.4) - 0.03 * bump(v, 0.2, 0.08))
    air = air + 0.16 * np.square(w * (1 / a.lung_width)) ** 3 + 0.05 * frame.by_u(bump(frame.along_u, 0, 0.14))
    image += lungs * (air - image)
    edge = np.where(
        frame.u > 0,
        frame.by_v(outline.silhouette("left", v)),
        frame.by_v(outline.silhouette("right", v)),
    )
    core = ramp(edge - w, 0.016)
    image += 0.93 * core * lungs * (HEART - image)
    if a.breast > 0:
        for sign in (-1, 1):
            r = np.hypot((frame.u - sign * 0.205) / 0.165, (frame.v - a.breast_drop) / (0.13 + 0.03 * a.breast))
            image += 0.15 * a.breast * ramp(1.0 - r, 0.22) * (0.45 + 0.55 * ramp(frame.v - a.breast_drop, 0.2)) * (0.95 - image)
    return image, core


def bones(frame: Frame, outline: Outline, patient: Patient) -> np.ndarray:
    """Extra attenuation (S, S) of spine, ribs, clavicles, scapulae and humeral heads."""
    a, v, w = outline.a, frame.along_v, frame.w
    cage = ramp(frame.by_v(np.maximum(outline.outer("right", v), 0.125 + 0.6 * np.clip(v - 0.06, 0, 0.1)) + 0.012) - w, 0.01)
    cage *= frame.by_v(ramp(v - a.lung_top + 0.05, 0.04) * (1 - 0.75 * ramp(v - outline.a.dome_right - 0.06, 0.12)))
    d = np.abs(frame.along_u) - 0.03
    upper = 1 + 1.2 * np.clip(0.45 - frame.along_v, 0, 1)
    posterior = frame.by_u(a.rib_slope * (1.15 * np.clip(d, 0, 1) ** 2 - 0.10 * d)) * frame.by_v(upper)
    back = _stripes((frame.v - posterior) * (1 / a.rib_spacing) + a.rib_phase, 0.40)
    back *= frame.by_u(ramp(np.abs(frame.along_u) - 0.03, 0.03))
    front_line = a.rib_slope * 0.52 * (a.lung_width - np.abs(frame.along_u)) + 0.4 * np.clip(0.2 - np.abs(frame.along_u), 0, 1) ** 2
    front = _stripes((frame.v - frame.by_u(front_line)) * (1 / (1.08 * a.rib_spacing)) + a.rib_phase + 0.35, 0.46)
    front *= frame.by_u(ramp(np.abs(frame.along_u) - 0.19, 0.10)) * frame.by_v(ramp(v - 0.2, 0.1))
    image = a.rib_contrast * cage * (0.115 * back + 0.06 * front)
    image += 0.06 * ramp(cage * 1.0 - 0.5, 1.0) * ramp(w - frame.by_v(outline.outer("right", v)) + 0.008, 0.012)
    image += _spine(frame, outline, patient)
    for side, sign in SIDES.items():
        image[_shoulder_window(frame, sign)] += _shoulder(frame, outline, side)
    return image


def _stripes(phase: np.ndarray, share: float) -> np.ndarray:
    """Ribs: a share of each period, brighter at both cortical edges, brightest at the lower."""
    x = phase - np.floor(phase)
    inside = ramp(x, 0.12) * ramp(share - x, 0.12)
    return inside * (0.62 + 0.9 * np.square((x - 0.42 * share) * (1 / share)) * 2)


def _spine(frame: Frame, outline: Outline, patient: Patient) -> np.ndarray:
    a, v = outline.a, frame.along_v
    line = a.bend * np.sin((v - 0.15) * 6.0)
    x = frame.u - frame.by_v(line)
    period = (v - 0.02) / 0.052
    disc = 0.5 + 0.5 * np.cos(2 * np.pi * period)
    body = ramp(0.036 - np.abs(x), 0.014) * frame.by_v(0.055 * (1 - 0.75 * disc**6))
    pedicle = frame.by_v(0.05 * np.exp(-np.square((period - np.floor(period) - 0.45) / 0.16))) * (
        np.exp(-np.square((np.abs(x) - 0.022) * (1 / 0.006)))
    )
    process = frame.by_v(0.05 * np.exp(-np.square((period - np.floor(period) - 0.75) / 0.2))) * np.exp(-np.square(x * (1 / 0.006)))
    windpipe = ramp(0.017 - np.abs(frame.u - 0.8 * outline.shift - 0.003), 0.012) * frame.by_v(-0.13 * ramp(v - 0.03, 0.05) * ramp(0.375 - v, 0.05))
    arm = np.abs(frame.v - 0.365 - 0.85 * np.abs(frame.u - outline.shift))
    bronchi = -0.06 * ramp(0.012 - arm, 0.012) * ramp(0.085 - frame.w, 0.05)
    return a.spine * (body + pedicle + process) + windpipe + bronchi


def _shoulder_window(frame: Frame, sign: int) -> tuple[slice, slice]:
    return frame.window(*((0.0, 0.56) if sign > 0 else (-0.56, 0.0)), 0.02, 0.56)


def _shoulder(frame: Frame, outline: Outline, side: str) -> np.ndarray:
    a, sign = outline.a, SIDES[side]
    window = _shoulder_window(frame, sign)
    u = np.abs(frame.along_u)
    w, v = frame.u[window] * sign, frame.v[window]
    d = np.clip((u - 0.025) / 0.34, 0, 1.2)
    middle = a.lung_top + a.clavicle_height + 0.010 * np.sin(d * 2 * np.pi) - a.clavicle_slope * d - 0.25 * sign * outline.shift
    half = 0.0105 + 0.005 * bump(d, 0, 0.12) + 0.003 * d
    inside = frame.by_u(half.astype(np.float32), window) - np.abs(v - frame.by_u(middle, window))
    bone = ramp(inside, 0.007) * ramp(w - 0.026, 0.01) * ramp(0.40 - w, 0.03)
    image = bone * (0.10 + 0.06 * (1 - ramp(inside - 0.005, 0.006)))
    border = a.scapula + 0.05 * np.square((v - 0.22) * 4) - 0.02 * (v - 0.2)
    blade = ramp(w - border, 0.012) * ramp(v - 0.15, 0.05) * ramp(0.44 + 0.9 * (0.33 - np.abs(w - 0.35)) - 0.3 - v, 0.05)
    image += blade * (0.035 + 0.05 * (1 - ramp(w - border - 0.008, 0.01)))
    r = np.hypot(w - 0.44, (v - 0.20) * 0.9)
    shaft = ramp(0.026 - np.abs(w - 0.47 - 0.12 * (v - 0.2)), 0.012) * ramp(v - 0.22, 0.04)
    image += 0.16 * np.maximum(ramp(0.048 - r, 0.014), 0.8 * shaft)
    return image


def vessels(frame: Frame, outline: Outline, patient: Patient, lungs: dict[str, np.ndarray]) -> np.ndarray:
    """Extra attenuation (S, S) of the pulmonary vessels and hila, inside the lungs."""
    a, rng = outline.a, stream(patient.seed, "vessels")
    side_of_bank = bank_size(frame.size)
    image = np.zeros_like(frame.u)
    for side, sign in SIDES.items():
        bank = vessel_bank(int(rng.integers(TREES)), side_of_bank)
        stretch, lean = rng.uniform(0.9, 1.15, 2), rng.uniform(-0.12, 0.12)
        drop = 0.012 if side == "right" else -0.008
        hilum_w, hilum_v = 0.085 + sign * outline.shift, 0.45 + drop + 0.4 * outline.lower
        w, v = frame.u * sign - hilum_w, frame.v - hilum_v
        column = np.clip((0.085 + stretch[0] * w) * side_of_bank, 0, side_of_bank // 2 - 1).astype(np.intp)
        row = np.clip((0.45 + stretch[1] * v + lean * w) * side_of_bank, 0, side_of_bank - 1).astype(np.intp)
        layer = bank.take(row * (side_of_bank // 2) + column)
        root = np.exp(-(np.square(w * (1 / 0.026)) + np.square((v - 0.012) * (1 / 0.05))))
        image += lungs[side] * (a.vessels * layer + 0.13 * a.hilum * root)
    haze = 0.010 * texture("patch", frame.size, (slice(0, frame.size),) * 2, rng.random(2))
    image += haze * (lungs["right"] + lungs["left"])
    return image


def gas_bubble(frame: Frame, outline: Outline, image: np.ndarray) -> None:
    """Air in the stomach under the left dome, darkening ``image`` in place; absent in some patients."""
    size = outline.a.gas
    if size <= 0:
        return
    top = float(outline.dome("left", 0.16)) + 0.016
    u, half = 0.15, 0.03 + 0.04 * size
    window = frame.window(u - half - 0.02, u + half + 0.02, top - 0.02, top + half + 0.06)
    r = np.hypot((frame.u[window] - u) / half, (frame.v[window] - top - 0.55 * half) / (0.55 * half))
    image[window] -= (0.16 + 0.14 * size) * ramp(1 - r, 0.35)

"""The normal chest: outlines of lungs, heart and diaphragm, and the layers that a beam passes.

Lengths are in units of the image height. In the patient's frame u runs from the midline (u > 0 is the patient's left,
the image's right), v from top to bottom, and w = |u| on either side. Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from medvlp_lite.phantom.patients import Anatomy, Exposure, Patient, rng_for
from medvlp_lite.phantom.textures import bump, ramp, texture

SIDES = {"right": -1, "left": 1}
LUNG, FLESH, ABDOMEN, CENTRE, HEART = 0.17, 0.50, 0.78, 0.72, 0.69


class Outline:
    """Where lungs, heart and diaphragm end.

    Args:
        lift: how far each dome (right, left) is raised.
        shift: how far the mediastinum is moved towards the patient's left.
        heart: the heart's width relative to ``anatomy``'s.
    """

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
        self._curves: dict[tuple[str, str, int], np.ndarray] = {}

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
        return np.minimum(edge + sign * self.shift, self.outer(side, v) - 0.006)  # the heart stays in the rib cage

    def spine(self, v: np.ndarray | float) -> np.ndarray:
        """u of the middle of the spine at height v."""
        return self.a.bend * np.sin((v - 0.15) * 6.0)

    def curve(self, name: str, side: str, ticks: np.ndarray) -> np.ndarray:
        """``outer``, ``inner``, ``silhouette`` (over v) or ``dome`` (over w) of one side at all ``ticks``, computed once."""
        key = (name, side, len(ticks))
        if key not in self._curves:
            self._curves[key] = getattr(self, name)(side, ticks)
        return self._curves[key]

    def extent(self, side: str, v: float) -> tuple[float, float]:
        """The visible lung at height v, medial and lateral w, clear of the heart."""
        return max(float(self.inner(side, v)), float(self.silhouette(side, v))), float(self.outer(side, v))

    def height(self, side: str, fraction: float) -> float:
        """v at a fraction of the lung's height, 0 at the apex and 1 at the top of the dome."""
        bottom = self.dome(side, 0.46 * self.a.lung_width)
        return float(self.a.lung_top + fraction * (bottom - self.a.lung_top))


class Frame:
    """Pixel centres x (1, S) and y (S, 1) in [0, 1], the patient's coordinates u and v (S, S), and look-up of curves along them."""

    def __init__(self, patient: Patient, size: int):
        e = patient.exposure
        self.size, self.scale = size, e.scale
        self.cos, self.sin = float(np.cos(e.rotation)), float(np.sin(e.rotation))
        self.centre = (0.5 + e.shift_x, 0.5 + e.shift_y)
        at = ((np.arange(size) + 0.5) / size).astype(np.float32)
        self.x, self.y = at[None, :], at[:, None]
        dx, dy = (self.x - self.centre[0]) / e.scale, (self.y - self.centre[1]) / e.scale
        self.u = dx * np.float32(self.cos) + dy * np.float32(self.sin)
        self.v = dy * np.float32(self.cos) - dx * np.float32(self.sin) + np.float32(0.5)
        self.w = np.abs(self.u)
        ticks = (np.arange(5 * size, dtype=np.float32) + 0.5) * np.float32(0.25 / size)  # four to a pixel
        self.along_u, self.along_v = ticks - np.float32(0.625), ticks - np.float32(0.125)
        self._u = np.clip((self.u + 0.625) * (4 * size), 0, 5 * size - 1).astype(np.intp)
        self._v = np.clip((self.v + 0.125) * (4 * size), 0, 5 * size - 1).astype(np.intp)

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
        u0, u1, v0, v1 = u0 * self.scale, u1 * self.scale, (v0 - 0.5) * self.scale, (v1 - 0.5) * self.scale
        rows = [u * self.sin + v * self.cos + self.centre[1] for u in (u0, u1) for v in (v0, v1)]
        columns = [u * self.cos - v * self.sin + self.centre[0] for u in (u0, u1) for v in (v0, v1)]
        return self._clip(rows), self._clip(columns)

    def _clip(self, places: list[float]) -> slice:
        first, last = int(min(places) * self.size - 0.5), int(max(places) * self.size + 1.5)
        return slice(max(0, min(first, self.size - 1)), max(1, min(last, self.size)))

    def half(self, side: str, top: float, bottom: float) -> tuple[slice, slice]:
        """The pixel window of one half of the chest between two heights."""
        return self.window(*((0.0, 0.47) if side == "left" else (-0.47, 0.0)), top, bottom)


def lung_fields(frame: Frame, outline: Outline, softness: float = 0.012) -> dict[str, np.ndarray]:
    """Each lung as a soft mask (S, S), from 0 to 1, reaching behind the heart down to the diaphragm."""
    fields = {}
    v, u = frame.along_v, np.abs(frame.along_u)
    for side, sign in SIDES.items():
        window = frame.half(side, outline.a.lung_top - 0.02, 1.0)
        w = frame.u[window] * sign
        depth = np.minimum(
            frame.by_v(outline.curve("outer", side, v), window) - w,
            w - frame.by_v(outline.curve("inner", side, v), window),
        )
        np.minimum(depth, frame.by_u(outline.curve("dome", side, u), window) - frame.v[window], out=depth)
        np.minimum(depth, frame.v[window] - outline.a.lung_top, out=depth)
        fields[side] = np.zeros_like(frame.u)
        fields[side][window] = ramp(depth, softness)
    return fields


class Tissue(NamedTuple):
    """Soft tissue as layers (S, S): ``image`` with lungs, ``solid`` as it would be without air, ``heart`` and ``body`` in [0, 1]."""

    image: np.ndarray
    solid: np.ndarray
    heart: np.ndarray
    body: np.ndarray


def soft_tissue(frame: Frame, outline: Outline, lungs: np.ndarray) -> Tissue:
    """Attenuation of body wall, abdomen, mediastinum, heart and the air in the lungs, before bone and vessels."""
    a, u, v, w = outline.a, frame.along_u, frame.along_v, frame.w
    neck = a.neck + 0.012 * bump(v, 0.0, 0.06)
    shoulder = neck + (0.60 - neck) * np.clip((v - a.shoulder * 0.35) / (a.shoulder * 1.1), 0, 1) ** 1.5
    trunk = a.lung_width + a.flank + 0.02 * ramp(v - 0.7, 0.4) + 0.25 * ramp(0.25 - v, 0.20)
    body = ramp(frame.by_v(np.minimum(shoulder, trunk)) - w, 0.035)
    limb = np.abs(w - frame.by_v(_arm(a, v)))
    arm = ramp(0.075 - limb, 0.05) * frame.by_v(ramp(v - 0.17, 0.1))
    depth = frame.by_v(FLESH + 0.10 * bump(v, 0.19, 0.06) - 0.16 * bump(v, 0.02, 0.09))
    solid = depth * frame.by_u(0.45 + 0.55 * ramp(a.lung_width + a.flank - 0.04 - np.abs(u), 0.22)) * body
    np.maximum(solid, 0.40 * arm, out=solid)
    belly = frame.by_u(ramp(a.lung_width + a.flank - np.abs(u), 0.14)) * body
    solid += frame.by_v((ABDOMEN - FLESH) * ramp(v - 0.72, 0.24)) * belly
    core = frame.by_u(bump(u, outline.shift * 0.5, 0.08)) * body
    solid += (CENTRE - FLESH) * core * frame.by_v(1 - 0.55 * bump(v, 0.0, 0.10) - 0.55 * ramp(v - 0.72, 0.3))
    air = LUNG + a.lung_density + frame.by_v(0.05 * ramp(v - 0.62, 0.4) - 0.03 * bump(v, 0.2, 0.08))
    air = air + frame.by_u(0.16 * np.square(np.square(u / a.lung_width) * (u / a.lung_width)) + 0.05 * bump(u, 0, 0.14))
    image = solid + lungs * (air - solid)
    right, left = (frame.by_v(outline.curve("silhouette", side, v)) for side in SIDES)
    border = np.where(frame.u > 0, left, right)
    right, left = (outline.curve("dome", side, np.abs(u)) for side in SIDES)
    floor = frame.by_u(np.maximum(right + ramp(u, 0.12) * (left - right), np.where(u > 0, left, right)))
    heart = ramp(border - w, 0.016) * ramp(floor - frame.v, 0.014) * frame.by_v(ramp(v - 0.10, 0.12))
    image += 0.93 * heart * (frame.by_u(HEART + 0.07 * bump(u, 0, 0.06)) - image)
    if a.breast > 0:
        for sign in (-1, 1):
            window = frame.window(sign * 0.205 - 0.19, sign * 0.205 + 0.19, a.breast_drop - 0.19, a.breast_drop + 0.19)
            x, y = (frame.u[window] - sign * 0.205) * (1 / 0.165), frame.v[window] - a.breast_drop
            disc = ramp(1.0 - np.hypot(x, y * (1 / (0.13 + 0.03 * a.breast))), 0.22)
            image[window] += 0.15 * a.breast * disc * (0.45 + 0.55 * ramp(y, 0.2)) * (0.95 - image[window])
    return Tissue(image, solid, heart, np.maximum(body, arm))


def _arm(a: Anatomy, v: np.ndarray | float) -> np.ndarray:
    """w of the middle of the upper arm at height v, from the shoulder joint at v = 0.2 downwards."""
    return a.lung_width + 0.5 * a.flank + 0.055 + a.abduction * (v - 0.2)


def bones(frame: Frame, outline: Outline) -> np.ndarray:
    """Extra attenuation (S, S) of spine, ribs, clavicles, scapulae and humeral heads."""
    a, u, v = outline.a, np.abs(frame.along_u), frame.along_v
    image = np.zeros_like(frame.u)
    window = frame.window(-0.43, 0.43, a.lung_top - 0.06, a.dome_right + 0.14)
    wall = outline.curve("outer", "right", v)
    to_wall = frame.by_v(wall, window) - frame.w[window]
    cage = ramp(
        frame.by_v(np.maximum(wall, 0.125 + 0.6 * np.clip(v - 0.06, 0, 0.1)) + 0.012, window) - frame.w[window], 0.01
    )
    cage *= frame.by_v(ramp(v - a.lung_top + 0.05, 0.04) * (1 - 0.9 * ramp(v - a.dome_right - 0.05, 0.12)), window)
    d, y = u - 0.03, frame.v[window]
    slope = frame.by_u(a.rib_slope * (1.15 * np.clip(d, 0, 1) ** 2 - 0.10 * d), window)
    y_back = y - slope * frame.by_v(1 + 1.2 * np.clip(0.45 - v, 0, 1), window)
    back = _stripes(y_back * (1 / a.rib_spacing) + a.rib_phase, 0.40) * frame.by_u(0.115 * ramp(d, 0.03), window)
    line = a.rib_slope * 0.52 * (a.lung_width - u) + 0.4 * np.clip(0.2 - u, 0, 1) ** 2
    front = _stripes((y - frame.by_u(line, window)) * (1 / (1.08 * a.rib_spacing)) + a.rib_phase + 0.35, 0.46)
    front *= frame.by_u(0.06 * ramp(u - 0.19, 0.10), window) * frame.by_v(ramp(v - 0.2, 0.1), window)
    image[window] = cage * (a.rib_contrast * (back + front) + 0.05 * ramp(0.008 - to_wall, 0.012))
    _add_spine(frame, outline, image)
    _add_shoulders(frame, outline, image)
    return image


@lru_cache(maxsize=4)
def _stripe_profile(share: float) -> np.ndarray:
    x = (np.arange(512, dtype=np.float32) + 0.5) / 512
    return ramp(x, 0.09) * ramp(share - x, 0.09) * (0.62 + 1.8 * np.square((x - 0.42 * share) / share))


def _stripes(phase: np.ndarray, share: float) -> np.ndarray:
    """Ribs: a share of each period, brighter at both cortical edges, brightest at the lower."""
    return _stripe_profile(share).take((phase * 512 + 512 * 64).astype(np.intp) & 511)


def _add_spine(frame: Frame, outline: Outline, image: np.ndarray) -> None:
    a, v, window = outline.a, frame.along_v, frame.window(-0.1, 0.1, -0.1, 1.1)
    x = np.abs(frame.u[window] - frame.by_v(outline.spine(v), window))
    period = (v - 0.02) / 0.052
    phase = period - np.floor(period)
    body = ramp(0.036 - x, 0.014) * frame.by_v(
        0.055 * (1 - 0.75 * (0.5 + 0.5 * np.cos(2 * np.pi * period)) ** 6), window
    )
    pedicle = bump(x, 0.022, 0.0042) * frame.by_v(0.05 * bump(phase, 0.45, 0.11), window)
    process = bump(x, 0.0, 0.0042) * frame.by_v(0.05 * bump(phase, 0.75, 0.14), window)
    image[window] += a.spine * (body + pedicle + process)
    x = np.abs(frame.u[window] - 0.8 * outline.shift - 0.003)
    image[window] += ramp(0.017 - x, 0.012) * frame.by_v(-0.13 * ramp(v - 0.03, 0.05) * ramp(0.375 - v, 0.05), window)
    window = frame.window(-0.1, 0.1, 0.34, 0.48)
    x = np.abs(frame.u[window] - outline.shift)
    image[window] -= 0.06 * ramp(0.012 - np.abs(frame.v[window] - 0.365 - 0.85 * x), 0.012) * ramp(0.085 - x, 0.05)


def _add_shoulders(frame: Frame, outline: Outline, image: np.ndarray) -> None:
    a, u = outline.a, np.abs(frame.along_u)
    d = np.clip((u - 0.025) / 0.34, 0, 1.2)
    middle = a.lung_top + a.clavicle_height + 0.010 * np.sin(d * 2 * np.pi) - a.clavicle_slope * d
    middle -= 0.25 * outline.shift * np.sign(frame.along_u)
    half = 0.0105 + 0.005 * bump(d, 0, 0.12) + 0.003 * d
    window = frame.window(-0.42, 0.42, a.lung_top - 0.03, a.lung_top + 0.15)
    inside = frame.by_u(half, window) - np.abs(frame.v[window] - frame.by_u(middle, window))
    bone = ramp(inside, 0.007) * frame.by_u(ramp(u - 0.026, 0.01) * ramp(0.40 - u, 0.03), window)
    image[window] += bone * (0.16 - 0.06 * ramp(inside - 0.005, 0.006))
    window = frame.window(-0.6, 0.6, 0.12, 0.5)
    w, v = frame.w[window], frame.v[window]
    border = w - frame.by_v(a.scapula + 0.8 * np.square(frame.along_v - 0.22) - 0.02 * (frame.along_v - 0.2), window)
    blade = ramp(border, 0.012) * ramp(frame.by_u(0.14 + 0.9 * (0.33 - np.abs(u - 0.35)), window) - v, 0.05)
    blade *= 0.085 - 0.05 * ramp(border - 0.008, 0.01)
    image[window] += blade
    joint, axis = _arm(a, 0.2), _arm(a, frame.along_v)
    for sign in SIDES.values():
        window = frame.window(*sorted((sign * (joint - 0.06), sign * (joint + 0.36))), 0.14, 0.75)
        w, v = frame.w[window], frame.v[window]
        head = ramp(0.042 - np.hypot(w - joint, (v - 0.20) * 0.9), 0.02)
        shaft = ramp(0.024 - np.abs(w - frame.by_v(axis, window)), 0.012) * ramp(v - 0.22, 0.04)
        image[window] += 0.13 * np.maximum(head, 0.8 * shaft)


def add_grain(frame: Frame, patient: Patient, image: np.ndarray) -> None:
    """Muscle, fat and skin folds too fine to be drawn one by one: ``image`` varies in place by about 2 %."""
    offset = rng_for(patient.seed, "grain", patient.visit).random(2)
    whole = slice(0, frame.size)
    image *= 1 + 0.016 * texture("tissue", frame.size, (whole, whole), offset)


def add_bowel(frame: Frame, outline: Outline, patient: Patient, image: np.ndarray) -> None:
    """Pockets of gas below the diaphragm, darkening ``image`` in place; absent in some patients."""
    a = outline.a
    if a.bowel <= 0:
        return
    top = a.dome_right + outline.lower + 0.07
    window = frame.window(-0.3, 0.3, top, 1.2)
    pockets = texture("bowel", frame.size, window, rng_for(patient.seed, "bowel", patient.visit).random(2))
    within = frame.by_v(ramp(frame.along_v - top - 0.05, 0.08), window) * ramp(0.27 - frame.w[window], 0.1)
    image[window] -= 0.13 * within * ramp(pockets - 1.9 + 0.7 * a.bowel, 0.8)


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

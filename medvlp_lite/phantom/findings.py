"""Findings of the pleura, the heart and the chest as a whole, and the one call that draws any finding.

The function that draws a finding changes the scene's image and vessels in place and returns (window, mask inside the window).
Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medvlp_lite.phantom import opacities
from medvlp_lite.phantom.anatomy import SIDES
from medvlp_lite.phantom.patients import SIGN_ROWS, Anatomy, Exposure, FindingSpec, Patient, rng_for
from medvlp_lite.phantom.signs import draw_sign
from medvlp_lite.phantom.textures import bump, ramp, strokes, texture

if TYPE_CHECKING:
    from medvlp_lite.phantom.render import Scene

HEART_GROWTH = (1.20, 1.38, 1.60)
DOME_LIFT = (0.016, 0.036, 0.065)
PULL = (0.004, 0.012, 0.022)
PUSH = (0.0, 0.004, 0.02)


def deform(patient: Patient) -> dict:
    """The arguments of the outline as findings change it: dome lifts, shift, heart, build and breath. Empty if they do not."""
    lift, shift, heart = {"right": 0.0, "left": 0.0}, 0.0, 1.0
    build, breath = patient.anatomy, patient.exposure
    for spec in patient.findings:
        if spec.entity == "cardiomegaly":
            calm = 1 + 0.35 * (patient.anatomy.heart - 1)  # a big heart is big whatever it was before
            heart = max(heart, HEART_GROWTH[spec.level] * calm / patient.anatomy.heart)
        elif spec.entity == "atelectasis":
            lift[spec.side] += DOME_LIFT[spec.level]
            shift += SIDES[spec.side] * PULL[spec.level]
        elif spec.entity == "effusion" and spec.side != "bilateral":
            shift -= SIDES[spec.side] * PUSH[spec.level]
        elif spec.entity in SIGN_ROWS and SIGN_ROWS[spec.entity]["kind"] == "outline":
            size, name = SIGN_ROWS[spec.entity]["size"][spec.level], spec.entity
            if name in ("raised diaphragm", "volume loss"):
                lift[spec.side] += size
            if name in ("mediastinal shift", "volume loss"):
                shift += SIDES[spec.side] * size * (1.0 if name == "mediastinal shift" else 0.3)
            build, breath = _grown(build, name, size, spec.seed), _breathed(breath, name, size)
    if build is patient.anatomy and breath is patient.exposure and heart == 1 and not shift and not any(lift.values()):
        return {}
    lifts = (lift["right"], lift["left"])
    return dict(anatomy=build, exposure=breath, view=patient.view, lift=lifts, shift=shift, heart=heart)


def _grown(build: Anatomy, sign: str, size: float, seed: int) -> Anatomy:
    """The build with a sign of spine, aorta, mediastinum or inflation."""
    if sign == "scoliosis":
        return replace(build, bend=(size, -size)[seed % 2])
    if sign == "tortuous aorta":
        return replace(build, knob=build.knob + 30 * size, trunk=build.trunk + 40 * size)
    if sign == "wide mediastinum":
        return replace(build, mediastinum=build.mediastinum + size)
    if sign == "hyperinflation":
        return replace(build, dome_curve=0.35 * build.dome_curve, heart=build.heart * (1 - 2 * size))
    return build


def _breathed(breath: Exposure, sign: str, size: float) -> Exposure:
    """The film with more or less air in the lungs."""
    change = {"hyperinflation": size, "low volume": -size}.get(sign)
    return breath if change is None else replace(breath, inspiration=breath.inspiration + change)


def draw_finding(spec: FindingSpec, scene: Scene) -> np.ndarray:
    """Draw one finding into the scene and return its mask, bool (S, S)."""
    mask = np.zeros(scene.image.shape, dtype=bool)
    sides = ("right", "left") if spec.side in ("bilateral", None) else (spec.side,)
    if spec.entity == "cardiomegaly":
        return _heart_mask(scene)
    if spec.entity in SIGN_ROWS:
        return draw_sign(spec, scene)
    for index, side in enumerate(sides):
        rng = rng_for(scene.patient.seed, "finding", spec.entity, spec.seed, index)
        window, part = DRAW[spec.entity](scene, spec, side, rng)
        mask[window] |= part
    return mask


def _heart_mask(scene: Scene) -> np.ndarray:
    frame, outline = scene.frame, scene.outline
    v = frame.along_v
    left, right = (frame.by_v(outline.curve("silhouette", side, v)) for side in ("left", "right"))
    floor = np.float32(min(outline.dome("left", 0.12), outline.dome("right", 0.12)) + 0.02)
    return (frame.u < left) & (frame.u > -right) & (frame.v > 0.45) & (frame.v < floor)


def _effusion(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    jitter, sharp, tilt, veil, fade = rng.random(5).tolist()
    flat = (0.022, 0.09, 0.23)[spec.level] * (0.85 + 0.35 * jitter)
    climb = (0.055, 0.085, 0.11)[spec.level]
    dense = (0.55, 0.78, 0.93)[spec.level] * (0.8 + 0.2 * fade)
    wall = float(scene.outline.outer(side, 0.78))
    floor = float(scene.outline.dome(side, wall - 0.005))
    window = scene.frame.half(side, floor - flat - climb - 0.16, floor + 0.03)
    w, v = scene.w(side, window), scene.frame.v[window]
    across = np.clip(np.abs(scene.frame.along_u) / wall, 0, 1.1)
    level = scene.frame.by_u(floor - flat - climb * across**3 + 0.03 * (tilt - 0.5) * (across - 0.5), window)
    depth = v - level
    lung = scene.lungs[side][window]
    alpha = dense * ramp(depth, 0.012 + 0.02 * sharp) * lung
    if veil < 0.3:  # a film taken lying down: fluid spreads behind the lung
        alpha = np.maximum(alpha, lung * (0.10 + 0.08 * spec.level) * ramp(depth + 0.09, 0.16))
    alpha *= ramp(wall + 0.05 - w, 0.02)
    fluid = np.clip(scene.solid[window] + 0.12, 0.66, 0.76)
    scene.image[window] += alpha * np.maximum(fluid - scene.image[window], 0)
    scene.blood[window] *= 1 - alpha
    return window, (depth > 0) & (lung > 0.5)


def _wall_distance(scene: Scene, side: str, window: tuple) -> np.ndarray:
    """Distance from the pleura of the wall and the apex, at every pixel of the window."""
    frame, outline = scene.frame, scene.base
    lateral = frame.by_v(outline.curve("outer", side, frame.along_v), window) - scene.w(side, window)
    apex = frame.v[window] - frame.by_u(_roof(scene, side), window)
    return np.minimum(lateral, apex)


def _roof(scene: Scene, side: str) -> np.ndarray:
    """v of the lung's upper border over |u|."""
    outline, v = scene.base, scene.frame.along_v
    rows = (v >= outline.a.lung_top) & (v <= 0.5)
    reach, heights = outline.outer(side, v[rows]), v[rows]
    near = outline.inner(side, v[rows])
    over = np.interp(np.abs(scene.frame.along_u), reach, heights)
    return np.maximum(over, np.interp(np.abs(scene.frame.along_u), near[::-1], heights[::-1]))


def _pneumothorax(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    jitter, dark, edge, wave = rng.random(4).tolist()
    gap = (0.040, 0.070, 0.118)[spec.level] * (0.88 + 0.24 * jitter)
    top, bottom = scene.base.a.lung_top, scene.base.height(side, 1.0)
    t = (scene.frame.along_v - top) / (bottom - top)
    if spec.position == "apical":
        profile = gap * (1.15 * np.clip(1 - t / (0.38, 0.6, 0.95)[spec.level], 0, 1) ** 0.7)
    else:
        profile = gap * np.clip(bump(t, 0.45 + 0.2 * wave, (0.24, 0.30, 0.40)[spec.level]) * 1.15 - 0.15, 0, 1)
    window = scene.frame.half(side, top - 0.02, bottom + 0.14)
    inward = scene.frame.by_v(profile, window) - _wall_distance(scene, side, window)
    lung = scene.healthy[side][window]
    gone = ramp(inward, 0.008) * lung * scene.frame.by_v(ramp(profile - 0.004, 0.006), window)
    line = np.exp(-np.square(inward * (1 / 0.0032))) * lung * scene.frame.by_v(ramp(profile - 0.006, 0.008), window)
    scene.blood[window] *= 1 - gone
    scene.image[window] += -(0.065 + 0.03 * dark) * gone + (0.085 + 0.05 * edge) * line
    if spec.level == 2:
        scene.image[window] += 0.05 * (1 - gone) * lung  # the lung that is left is denser
    return window, (gone > 0.5)


def _pleural_thickening(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    jitter, place, wave = rng.random(3).tolist()
    offset = rng.random(2)
    thick = (0.023, 0.034, 0.050)[spec.level] * (0.9 + 0.3 * jitter)
    dense = (0.22, 0.28, 0.36)[spec.level]
    top, bottom = scene.base.a.lung_top, scene.base.height(side, 1.0)
    span = {"apical": (0.0, 0.16), "lateral": (0.38 + 0.2 * place, 0.20), "basal": (1.02, 0.20)}[spec.position]
    v = scene.frame.along_v
    here = bump((v - top) / (bottom - top), span[0], span[1] * (0.85 + 0.12 * spec.level))
    profile = thick * (1.5 if spec.position == "apical" else 1.0) * np.clip(1.35 * here - 0.35, 0, 1)
    window = scene.frame.half(side, top - 0.02, bottom + 0.16)
    depth = scene.frame.by_v(profile, window) - _wall_distance(scene, side, window)
    depth += 0.004 * (1 + wave) * texture("patch", scene.frame.size, window, offset)
    lung = scene.healthy[side][window] * scene.frame.by_v(ramp(profile - 0.003, 0.004), window)
    alpha = ramp(depth, 0.009) * lung
    scene.add_density(window, dense * alpha)
    return window, alpha > 0.5


def _edema(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    reach, low = rng.random(2).tolist()
    offset = rng.random(2)
    dense = (0.07, 0.13, 0.21)[spec.level] * (0.9 + 0.2 * reach)
    window = scene.frame.half(side, 0.10, 0.98)
    w, v = scene.w(side, window), scene.frame.v[window]
    centre = 0.50 + 0.06 * low
    wing = np.exp(-0.5 * (np.square((w - 0.13) / (0.075 + 0.02 * spec.level)) + np.square((v - centre) / 0.13)))
    lung = scene.lungs[side][window]
    haze = wing * lung
    cloud = 0.8 + 0.25 * texture("cloud", scene.frame.size, window, offset)
    cloud += 0.15 * texture("patch", scene.frame.size, window, offset)
    scene.add_density(window, dense * haze * cloud)
    scene.blood[window] *= 1 + (0.12, 0.3, 0.5)[spec.level] * wing
    floor = scene.base.height(side, 1.0)
    count = 9
    start = floor + 0.03 - 0.024 * np.arange(count) + rng.normal(0, 0.003, count)
    edge = scene.base.outer(side, start) - 0.006
    stop = np.stack([edge - rng.uniform(0.022, 0.05, count), start + rng.normal(0, 0.003, count)], axis=1)
    lines = np.stack([np.stack([edge, start], axis=1), stop], axis=1) * [SIDES[side], 1]
    strokes(scene.frame, scene.image, lines[: (3, 6, 9)[spec.level]], 0.0045, 0.035 + 0.02 * spec.level)
    return window, haze > 0.35


DRAW: dict[str, Callable[..., tuple]] = {
    **opacities.DRAW,
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "pleural thickening": _pleural_thickening,
    "edema": _edema,
}

"""Findings inside the lung: focal, diffuse, linear and small opacities. Built in chapter 01_image_report_pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medvlp_lite.phantom.anatomy import SIDES
from medvlp_lite.phantom.patients import UNSEEN, FindingSpec, opacity_type
from medvlp_lite.phantom.textures import bump, ramp, splat, texture

if TYPE_CHECKING:
    from medvlp_lite.phantom.render import Scene

SMALL_OPACITIES = (90, 190, 330)  # per lung, stages 1 to 3


def _blob(
    scene: Scene, side: str, window: tuple, w: float, v: float, radii: tuple[float, float], shape: list[float]
) -> np.ndarray:
    """Radius-normalised distance from a lumpy ellipse: 0 at its centre, 1 on its border. ``shape`` holds 8 draws."""
    x, y = scene.w(side, window) - w, scene.frame.v[window] - v
    turn = np.pi * shape[0]
    c, s = np.cos(turn), np.sin(turn)
    x, y = (x * c + y * s) / radii[0], (y * c - x * s) / radii[1]
    angle = np.arctan2(y, x)
    border = 1.0
    for k in (2, 3, 5):
        border = border + 0.20 / k * (shape[k] + 0.3) * np.cos(k * angle + 6.28 * shape[k + 1])
    return np.hypot(x, y) / border


def _consolidation(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    draws, shape, offset = rng.random(6).tolist(), rng.random(8).tolist(), rng.random(2)
    radius = (0.068, 0.095, 0.128)[spec.level] * (0.9 + 0.25 * draws[2])
    w, v = scene.place(side, spec.position, draws, radius)
    window = scene.around(side, w, v, 1.5 * radius)
    r = _blob(scene, side, window, w, v, (radius, radius * (0.65 + 0.35 * draws[3])), shape)
    ragged = texture("patch", scene.frame.size, window, offset)
    uneven = texture("cloud", scene.frame.size, window, offset)
    alpha = ramp(1 - r + 0.10 * ragged + 0.14 * uneven, 0.7) * ramp(1.42 - r, 0.1) * scene.healthy[side][window]
    if side == "right" and spec.position != "lower" and draws[4] < 0.5:  # bounded by the horizontal fissure
        alpha *= ramp(v + 0.45 * radius - scene.frame.v[window] - 0.12 * (scene.w(side, window) - w), 0.012)
    dense = (0.20, 0.29, 0.38)[spec.level] * (0.9 + 0.2 * draws[5])
    scene.add_density(window, dense * alpha * (0.95 + 0.10 * ragged + 0.10 * uneven))
    scene.blood[window] *= 1 - 1.5 * alpha  # vessels vanish, air in the bronchi shows dark
    return window, alpha > 0.5


def _ground_glass(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    draws, shape, offset = rng.random(6).tolist(), rng.random(8).tolist(), rng.random(2)
    radius = (0.085, 0.112, 0.142)[spec.level] * (0.9 + 0.25 * draws[2])
    w, v = scene.place(side, spec.position, draws, 0.8 * radius)
    window = scene.around(side, w, v, 1.5 * radius)
    r = _blob(scene, side, window, w, v, (radius, radius * (0.7 + 0.3 * draws[3])), shape)
    mottle = texture("patch", scene.frame.size, window, offset)
    uneven = texture("cloud", scene.frame.size, window, offset)
    alpha = ramp(0.95 - r + 0.05 * mottle + 0.12 * uneven, 0.85) * ramp(1.42 - r, 0.2) * scene.healthy[side][window]
    dense = (0.095, 0.135, 0.18)[spec.level] * (0.9 + 0.2 * draws[5])
    scene.add_density(window, dense * alpha * (1 + 0.08 * mottle + 0.10 * uneven))
    return window, alpha > 0.4


def _nodule(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    draws, shape = rng.random(5).tolist(), rng.random(8).tolist()
    radius = (0.019, 0.025, 0.032)[spec.level] * (0.94 + 0.14 * draws[2])
    w, v = scene.place(side, spec.position, draws, 0.03)
    window = scene.around(side, w, v, 1.6 * radius)
    r = _blob(scene, side, window, w, v, (radius, radius * (0.85 + 0.15 * draws[3])), [0.4 * x for x in shape])
    alpha = ramp(1 - r, 0.55) * scene.healthy[side][window]
    scene.add_density(window, (0.24, 0.29, 0.34)[spec.level] * (0.92 + 0.16 * draws[4]) * alpha)
    return window, alpha > 0.4


def _mass(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    draws, shape, offset = rng.random(5).tolist(), rng.random(8).tolist(), rng.random(2)
    radius = (0.046, 0.062, 0.084)[spec.level] * (0.94 + 0.14 * draws[2])
    if spec.position == "perihilar":
        w, v = 0.105 + SIDES[side] * scene.base.shift + 0.3 * radius, 0.44 + 0.08 * draws[0]
    else:
        w, v = scene.place(side, spec.position, draws, radius)
    window = scene.around(side, w, v, 1.7 * radius)
    r = _blob(scene, side, window, w, v, (radius, radius * (0.75 + 0.25 * draws[3])), shape)
    spicules = 0.02 * texture("fine", scene.frame.size, window, offset)
    lung = scene.healthy[side][window]
    alpha = ramp(1 - r + spicules * ramp(r - 0.6, 0.4), 0.34) * ramp(1.6 - r, 0.1) * lung
    scene.add_density(
        window, (0.27, 0.33, 0.39)[spec.level] * (0.92 + 0.16 * draws[4]) * alpha * (1.1 - 0.35 * np.minimum(r, 1))
    )
    scene.blood[window] *= 1 - 0.7 * alpha
    return window, alpha > 0.5


def _granuloma(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    draws, cluster = rng.random(4).tolist(), rng.normal(0, 1, (4, 2))
    w, v = scene.place(side, spec.position, draws, 0.03)
    window = scene.around(side, w, v, 0.07)
    lung, bright = scene.healthy[side][window], 0.0
    for k in range((1, 2, 4)[spec.level]):
        radius = 0.0130 * (0.9 + 0.3 * draws[2]) * (1 if k == 0 else 0.8)
        du, dv = (0, 0) if k == 0 else np.clip(cluster[k] * 0.026, -0.045, 0.045)
        r = np.hypot(scene.w(side, window) - w - du, scene.frame.v[window] - v - dv)
        bright = np.maximum(bright, ramp(radius - r, 0.008))
    alpha = bright * lung
    scene.add_density(window, (0.58 + 0.10 * draws[3]) * alpha)
    return window, alpha > 0.35


def _atelectasis(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    draws, offset = rng.random(6).tolist(), rng.random(2)
    length = (0.075, 0.10, 0.125)[spec.level] * (0.9 + 0.25 * draws[2])
    thick = (0.0125, 0.0175, 0.026)[spec.level] * (0.9 + 0.2 * draws[3])
    w, v = scene.place(side, spec.position, draws, 0.8 * length)
    v = min(v, scene.outline.height(side, 1.0) - 0.03)
    slope = -0.45 * (draws[4] - 0.25)
    window = scene.around(side, w, v, 1.25 * length)
    lung = scene.healthy[side][window] * scene.lungs[side][window]
    x, y = scene.w(side, window) - w, scene.frame.v[window] - v
    alpha = 0.0
    for k in range((1, 1, 2)[spec.level]):
        bow = y - slope * x + 0.8 * np.square(x) * (draws[5] - 0.3) / length * 0.5 - 0.05 * k
        end = ramp(length * (1 - 0.3 * k) - np.abs(x), 0.05)
        alpha = np.maximum(alpha, ramp(thick - np.abs(bow), 0.9 * thick) * end)
    grain = 1 + 0.12 * texture("patch", scene.frame.size, window, offset)
    alpha = alpha * lung
    scene.add_density(window, (0.21, 0.25, 0.28)[spec.level] * alpha * grain)
    return window, alpha > 0.4


def _pneumoconiosis(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    kind, size = opacity_type(scene.patient.seed, spec.seed)
    centre = {"upper": 0.30, "mid": 0.48, "lower": 0.72}[spec.position]
    spread = 0.19 + 0.04 * spec.level
    top, bottom = scene.base.a.lung_top, scene.base.height(side, 1.0)
    window = scene.frame.half(side, top - 0.01, bottom + 0.10)
    lung = scene.healthy[side][window]
    count = SMALL_OPACITIES[2]
    heights = np.abs(centre - 0.04 + rng.normal(0, 1, count) * spread) + 0.04
    across, sizes, fade = rng.uniform(0.03, 0.97, count), rng.uniform(0.75, 1.3, count), rng.uniform(0.6, 1.2, count)
    offset, shape, draws = rng.random(2), rng.random(8).tolist(), rng.random(4).tolist()
    density = np.zeros(lung.shape, dtype=np.float32)
    here = bump((scene.frame.along_v - top) / (bottom - top), centre, 1.25 * spread)
    zone = scene.frame.by_v(here, window)
    if kind == "irregular":
        strength = (0.10, 0.155, 0.215)[spec.level]
        density += strength * zone * texture("net", scene.frame.size, window, offset)
    else:
        n = SMALL_OPACITIES[spec.level]
        v = top + heights[:n] * (bottom - top)
        near, far = scene.base.inner(side, v), scene.base.outer(side, v)
        rows, columns = scene.frame.pixel(SIDES[side] * (near + (far - near) * across[:n]), v)
        radius = size * sizes[:n] * scene.frame.size
        height = (0.115, 0.125, 0.135)[spec.level] * fade[:n]
        splat(density, rows - window[0].start, columns - window[1].start, radius, height)
        density += (0.006, 0.016, 0.03)[spec.level] * zone
    scene.add_density(window, density * lung)
    mask = (zone > 0.5) & (lung > 0.5)
    if spec.level == 2:
        mask = mask | _large_opacity(scene, spec, side, window, shape, draws)
    return window, mask


def _large_opacity(
    scene: Scene, spec: FindingSpec, side: str, window: tuple, shape: list[float], draws: list[float]
) -> np.ndarray:
    """Progressive massive fibrosis: a confluent opacity in the zone most affected."""
    radius = 0.042 + 0.03 * draws[2]
    v = scene.base.height(side, {"upper": 0.26, "mid": 0.42, "lower": 0.62}[spec.position] + 0.08 * (draws[0] - 0.5))
    near, far = scene.base.extent(side, v)
    w = near + (far - near) * (0.4 + 0.3 * draws[1])
    r = _blob(scene, side, window, w, v, (radius, 1.45 * radius), [0.1 * shape[0], *shape[1:]])
    alpha = ramp(1 - r, 0.6) * scene.healthy[side][window]
    scene.add_density(window, 0.26 * alpha)
    return alpha > 0.5


def _covid(scene: Scene, spec: FindingSpec, side: str, rng: np.random.Generator) -> tuple:
    draws, shapes, offset = rng.random((6, 4)).tolist(), rng.random((6, 8)).tolist(), rng.random(2)
    top, bottom = scene.base.a.lung_top, scene.base.height(side, 1.0)
    window = scene.frame.half(side, top + 0.2 * (bottom - top), bottom + 0.14)
    alpha: np.ndarray | float = 0.0
    for k in range((3, 4, 6)[spec.level]):
        radius = (0.052, 0.06, 0.07)[spec.level] * (0.8 + 0.4 * draws[k][2])
        v = scene.base.height(side, 0.55 + 0.45 * draws[k][0])
        w = float(scene.base.outer(side, v)) - radius * (0.35 + 0.55 * draws[k][1])
        r = _blob(scene, side, window, w, v, (0.85 * radius, 1.2 * radius), [0.0, *shapes[k][1:]])
        alpha = np.maximum(alpha, ramp(1 - r, 0.7))
    mottle = texture("patch", scene.frame.size, window, offset)
    alpha = alpha * scene.healthy[side][window]
    scene.add_density(window, (0.115, 0.16, 0.21)[spec.level] * alpha * (1 + 0.18 * mottle))
    return window, alpha > 0.4


DRAW = {
    "consolidation": _consolidation,
    "ground-glass opacity": _ground_glass,
    "nodule": _nodule,
    "mass": _mass,
    "granuloma": _granuloma,
    "atelectasis": _atelectasis,
    "pneumoconiosis": _pneumoconiosis,
    UNSEEN: _covid,
}

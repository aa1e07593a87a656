"""Signs drawn from their attributes: where, how many, which shape, how dense, how sharp. Rows in ``data/signs.json``.

One painter serves all signs, so that signs which share an attribute look alike in it: a cavity and a bulla are both rings, a
calcified aorta and a healed rib are both as dense as bone. Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medvlp_lite.phantom.anatomy import SIDES
from medvlp_lite.phantom.devices import draw_device
from medvlp_lite.phantom.patients import SIGN_ROWS, FindingSpec, rng_for
from medvlp_lite.phantom.textures import bump, ramp, splat, texture

if TYPE_CHECKING:
    from medvlp_lite.phantom.render import Scene

DENSITY = {"air": -0.13, "faint": 0.13, "soft": 0.27, "calcified": 0.42, "metal": 0.6}
BORDER = {"sharp": 0.008, "hazy": 0.045}
COUNTS = {"one": (1, 1, 1), "few": (2, 3, 4)}
GRADE = (0.85, 1.0, 1.2)
HIDING = ("soft", "calcified", "air")
ZONES = {"upper": (0.22, 0.26), "lower": (0.95, 0.27), "diffuse": (0.5, 3.0)}


class Piece(NamedTuple):
    """One piece of a sign: its centre (w, v), its size in image heights and its turn in radians."""

    w: float
    v: float
    size: float
    turn: float


class Spot(NamedTuple):
    """Where piece ``index`` of a sign is wanted: by draws of its own, and by ``common`` ones that all its pieces share."""

    scene: Scene
    spec: FindingSpec
    side: str
    index: int
    draw: np.ndarray
    common: list[float]


def draw_sign(spec: FindingSpec, scene: Scene) -> np.ndarray:
    """Draw one sign into the scene and return its mask, bool (S, S): where its shape covers more than half a pixel."""
    row, mask = SIGN_ROWS[spec.entity], np.zeros(scene.image.shape, dtype=bool)
    midline = ("left",) if row["attributes"]["site"] != "lung" else ("right", "left")
    sides = {"bilateral": ("right", "left"), None: midline}.get(spec.side, (spec.side,))
    for index, side in enumerate(sides):
        rng = rng_for(scene.patient.seed, "sign", spec.entity, spec.seed, index)
        for window, part in DRAW[row["kind"]](scene, spec, row, side, rng):
            mask[window] |= part
    return mask


def _disc(x: np.ndarray, y: np.ndarray, row: dict) -> np.ndarray:
    return 1 - np.hypot(x, y)


def _ring(x: np.ndarray, y: np.ndarray, row: dict) -> np.ndarray:
    return row["wall"] / 2 - np.abs(np.hypot(x, y / row.get("flat", 1)) - 1 + row["wall"] / 2)


def _line(x: np.ndarray, y: np.ndarray, row: dict) -> np.ndarray:
    return np.minimum(1 - np.abs(x), row["thick"] / 2 - np.abs(y - 0.1 * np.square(x)))


def _arc(x: np.ndarray, y: np.ndarray, row: dict) -> np.ndarray:
    return np.minimum(_ring(x, y, row), x + 0.25)


def _wedge(x: np.ndarray, y: np.ndarray, row: dict) -> np.ndarray:
    return 1 - np.abs(x) - np.abs(y)


def _dots(x: np.ndarray, y: np.ndarray, row: dict) -> np.ndarray:
    return 1 - np.hypot(x / row["elongate"], y)


SHAPES: dict[str, Callable] = {
    "disc": _disc, "ring": _ring, "line": _line, "band": _line, "curve": _arc, "wedge": _wedge, "dots": _dots,
}  # fmt: skip


def _pieces(scene: Scene, spec: FindingSpec, row: dict, side: str, rng: np.random.Generator) -> list[tuple]:
    look = row["attributes"]
    count = (row.get("count") or COUNTS[look["number"]])[spec.level]
    return [_draw_piece(scene, spec, row, side, piece) for piece in _place(scene, spec, row, side, count, rng)]


def _draw_piece(scene: Scene, spec: FindingSpec, row: dict, side: str, piece: Piece) -> tuple:
    look, (w, v, size, turn) = row["attributes"], piece
    window = scene.around(side, w, v, 1.25 * size * row.get("elongate", 1))
    x, y = (scene.w(side, window) - w) / size, (scene.frame.v[window] - v) / size
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    clip = scene.lungs[side][window] if look["site"] in ("lung", "pleura") else 1.0
    soft = BORDER[look["border"]]
    alpha = ramp(SHAPES[look["shape"]](x, y, row) * size + 0.25 / scene.frame.size, soft) * clip
    covered = alpha > 0.5
    if "centre" in row:
        hole = ramp((1 - row["wall"] - np.hypot(x, y)) * size, soft) * clip
        scene.blood[window] *= 1 - 0.8 * hole
        scene.image[window] += 0.6 * DENSITY[row["centre"]] * hole
        covered |= hole > 0.5
    _apply(scene, window, alpha * GRADE[spec.level], look["density"])
    return window, covered


def _apply(scene: Scene, window: tuple, alpha: np.ndarray, density: str) -> None:
    """Add a shape's density: metal and air by themselves, the rest the less the brighter the image is already."""
    if density in ("metal", "air"):
        scene.image[window] += DENSITY[density] * alpha
    else:
        scene.add_density(window, DENSITY[density] * alpha)
    if density in HIDING:
        scene.blood[window] *= np.clip(1 - 0.7 * alpha, 0, 1)


def _place(scene: Scene, spec: FindingSpec, row: dict, side: str, count: int, rng: np.random.Generator) -> list[Piece]:
    """Where the pieces of a sign lie, by its site; the first ``count`` of a fixed number of draws."""
    common, draws = rng.random(2).tolist(), rng.random((40, 4))[:count]
    base = row["size"][spec.level] * (0.9 + 0.2 * draws[:, 2])
    low, high = row.get("angle", (0.0, 0.0))
    turns = low + (high - low) * draws[:, 3]
    where = PLACES[row.get("anchor", row["attributes"]["site"])]
    spots = (Spot(scene, spec, side, i, draw, common) for i, draw in enumerate(draws))
    return [Piece(*where(spot), size, turn) for spot, size, turn in zip(spots, base, turns)]


def _in_lung(s: Spot) -> tuple[float, float]:
    w, v = s.scene.place(s.side, s.spec.position, s.common, 1.2 * SIGN_ROWS[s.spec.entity]["size"][2])
    if s.spec.entity == "thickened fissure":
        near, far = s.scene.base.extent(s.side, v)
        return (near + far) / 2 + 0.02, s.scene.base.height(s.side, 0.52)
    spread = (0.0, 0.06)[s.index > 0]  # the pieces beyond the first lie around it
    return w + spread * (2 * s.draw[0] - 1), v + spread * (2 * s.draw[1] - 1)


def _at_pleura(s: Spot) -> tuple[float, float]:
    if s.spec.position == "basal":  # the costophrenic corner
        wall = float(s.scene.outline.outer(s.side, 0.78))
        return wall - 0.03, float(s.scene.outline.dome(s.side, wall - 0.03)) - 0.01
    if s.spec.position == "lower":  # one above the other at the wall
        v = s.scene.outline.height(s.side, 1.06) - 0.023 * s.index
        return float(s.scene.outline.outer(s.side, v)) - 0.02 - 0.006 * s.draw[0], v
    v = s.scene.outline.height(s.side, 0.45 + 0.14 * s.index + 0.08 * s.draw[1])
    return float(s.scene.outline.outer(s.side, v)) - 0.008, v


def _at_hilum(s: Spot) -> tuple[float, float]:
    v = 0.43 + 0.028 * s.index + 0.01 * s.draw[1]
    return max(0.095, float(s.scene.outline.silhouette(s.side, v)) + 0.012) + 0.02 * s.draw[0], v


def _at_aorta(s: Spot) -> tuple[float, float]:
    return float(s.scene.outline.silhouette("left", 0.325)) - 0.026, 0.328


def _in_mediastinum(s: Spot) -> tuple[float, float]:
    size = SIGN_ROWS[s.spec.entity]["size"][s.spec.level]
    return s.scene.outline.shift + 0.025 + 0.03 * s.draw[0], float(s.scene.outline.dome("left", 0.1)) - 0.75 * size


def _in_heart(s: Spot) -> tuple[float, float]:
    return s.scene.outline.shift + 0.03 + 0.03 * s.draw[0], s.scene.outline.height("left", 0.78) + 0.02 * s.draw[1]


def _at_spine(s: Spot) -> tuple[float, float]:
    v = 0.28 + 0.052 * (s.index // 2 + 0.9)
    return float(s.scene.outline.spine(v)) + (-1, 1)[s.index % 2] * 0.036, v + 0.004 * s.draw[1]


def _at_rib(s: Spot) -> tuple[float, float]:
    v = s.scene.base.height(s.side, 0.35 + 0.25 * s.common[0]) + s.index * s.scene.base.a.rib_spacing
    return float(s.scene.base.outer(s.side, v)) - 0.012 - 0.012 * s.draw[0], v


def _in_soft_tissue(s: Spot) -> tuple[float, float]:
    v = 0.20 + 0.42 * s.draw[1]
    return float(s.scene.base.outer(s.side, max(v, 0.25))) + 0.022 + (0.01 + s.scene.base.a.flank) * s.draw[0], v


PLACES: dict[str, Callable] = {
    "lung": _in_lung,
    "pleura": _at_pleura,
    "hilum": _at_hilum,
    "aorta": _at_aorta,
    "mediastinum": _in_mediastinum,
    "heart": _in_heart,
    "spine": _at_spine,
    "rib": _at_rib,
    "soft tissue": _in_soft_tissue,
}


def _field(scene: Scene, spec: FindingSpec, row: dict, side: str, rng: np.random.Generator) -> list[tuple]:
    """A texture over a zone of one lung: net, dots, veil, or its own vessels made thicker."""
    top, bottom = scene.outline.a.lung_top, scene.outline.height(side, 1.0)
    window = scene.frame.half(side, top - 0.01, bottom + 0.12)
    lung, look = scene.lungs[side][window], row["attributes"]
    zone = _zone(scene, spec, side, window) * lung
    amount, offset = row["size"][spec.level] * zone, rng.random(2)
    if look["shape"] == "net":
        scene.add_density(window, amount * (0.25 + 1.2 * texture("net", scene.frame.size, window, offset)))
    elif look["shape"] == "dots":
        scene.add_density(window, amount * _sown(scene, side, window, rng))
    elif look["shape"] == "branching":
        scene.blood[window] *= 1 + amount
        scene.add_density(window, 0.03 * amount)
    else:
        cloud = 1 + 0.25 * texture("cloud", scene.frame.size, window, offset)
        scene.image[window] += np.sign(DENSITY[look["density"]]) * amount * cloud
        scene.blood[window] *= np.clip(1 - 7 * amount, 0.1, 1)
    return [(window, zone > 0.5)]


def _zone(scene: Scene, spec: FindingSpec, side: str, window: tuple) -> np.ndarray:
    """How far each pixel belongs to the sign's position, 0 to 1."""
    if spec.position == "perihilar":
        return bump(scene.w(side, window), 0.13, 0.09) * scene.frame.by_v(bump(scene.frame.along_v, 0.45, 0.13), window)
    top, bottom = scene.outline.a.lung_top, scene.outline.height(side, 1.0)
    return scene.frame.by_v(bump((scene.frame.along_v - top) / (bottom - top), *ZONES[spec.position]), window)


def _sown(scene: Scene, side: str, window: tuple, rng: np.random.Generator) -> np.ndarray:
    """Tiny round spots of equal size all over one lung, peak 1."""
    density = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), dtype=np.float32)
    across, down = rng.random((2, 420))
    v = scene.outline.a.lung_top + down * (scene.outline.height(side, 1.1) - scene.outline.a.lung_top)
    near, far = scene.outline.inner(side, v), scene.outline.outer(side, v)
    rows, columns = scene.frame.pixel(SIDES[side] * (near + (far - near) * across), v)
    size = np.full(420, 0.0048 * scene.frame.size)
    splat(density, rows - window[0].start, columns - window[1].start, size, np.ones(420))
    return density


def _outline(scene: Scene, spec: FindingSpec, row: dict, side: str, rng: np.random.Generator) -> list[tuple]:
    """The mask of a sign that ``findings.deform`` has drawn already: the structure that is out of shape."""
    site, frame, outline = row["attributes"]["site"], scene.frame, scene.outline
    everywhere = (slice(None), slice(None))
    if site == "lung":
        return [(everywhere, scene.lungs[side] > 0.5)]
    if site == "diaphragm":
        top = frame.by_u(outline.curve("dome", side, np.abs(frame.along_u)))
        own = scene.w(side, everywhere) > 0.05
        return [(everywhere, (np.abs(frame.v - top) < 0.015) & own & (frame.w < outline.a.lung_width))]
    if site == "spine":
        middle = frame.by_v(outline.spine(frame.along_v))
        return [(everywhere, (np.abs(frame.u - middle) < 0.036) & (frame.v > 0.15) & (frame.v < 0.85))]
    left, right = (frame.by_v(outline.curve("silhouette", s, frame.along_v)) for s in ("left", "right"))
    inside = (frame.u < left) & (frame.u > -right) & (frame.v > 0.2) & (frame.v < (0.85 if spec.side else 0.5))
    return [(everywhere, inside & (frame.u > 0) if site == "aorta" else inside)]


def _device(scene: Scene, spec: FindingSpec, row: dict, side: str, rng: np.random.Generator) -> list[tuple]:
    """A device, and the pixels that it makes brighter by a twentieth of the range or more."""
    before = scene.image.copy()
    draw_device(spec.entity, side, rng, scene.frame, scene.image)
    return [((slice(None), slice(None)), scene.image - before > 0.05)]


DRAW: dict[str, Callable[..., list]] = {"pieces": _pieces, "field": _field, "outline": _outline, "device": _device}

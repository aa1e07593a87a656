"""From a patient to pixels and masks: the scene that findings are drawn into, and the film made of it.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from medvlp_lite.phantom.anatomy import (
    SIDES,
    Frame,
    Outline,
    add_bowel,
    add_grain,
    bones,
    gas_bubble,
    lung_fields,
    soft_tissue,
)
from medvlp_lite.phantom.devices import draw_marker
from medvlp_lite.phantom.findings import deform, draw_finding
from medvlp_lite.phantom.patients import Patient, rng_for
from medvlp_lite.phantom.textures import ramp
from medvlp_lite.phantom.vessels import vessels

ZONE_SPAN = {"apical": (0.04, 0.12), "upper": (0.14, 0.32), "mid": (0.40, 0.60), "lower": (0.68, 0.90)}


@dataclass
class Scene:
    """What a finding is drawn into: the image so far and the anatomy it must respect.

    ``outline`` and ``lungs`` are as the findings deform them, ``base`` and ``healthy`` as they would be without.

    ``image`` is attenuation, about 0 (air) to 1; ``solid`` is soft tissue as it would be
    without air in the lungs; ``blood`` is what vessels add. All are float32 (S, S).
    """

    patient: Patient
    frame: Frame
    outline: Outline
    base: Outline
    lungs: dict[str, np.ndarray]
    healthy: dict[str, np.ndarray]
    image: np.ndarray
    solid: np.ndarray
    blood: np.ndarray

    def around(self, side: str, w: float, v: float, reach: float) -> tuple[slice, slice]:
        """The pixel window around a point."""
        u = w * SIDES[side]
        return self.frame.window(u - reach, u + reach, v - reach, v + reach)

    def w(self, side: str, window: tuple[slice, slice]) -> np.ndarray:
        """Distance from the midline towards ``side``, at every pixel of the window."""
        return self.frame.u[window] * SIDES[side]

    def add_density(self, window: tuple[slice, slice], density: np.ndarray) -> None:
        """Add ``density`` to the image; the brighter it is already, the less it gains."""
        image = self.image[window]
        image += density * np.clip((0.95 - image) * (1 / 0.68), 0, 1.3)

    def place(self, side: str, position: str, draws: list[float], margin: float) -> tuple[float, float]:
        """A point (w, v) in the zone, ``margin`` away from heart and wall where the lung allows."""
        low, high = ZONE_SPAN[position]
        v = self.base.height(side, low + (high - low) * draws[0])
        inner, outer = self.base.extent(side, v)
        inner, outer = inner + 0.55 * margin, outer - 0.75 * margin
        if inner > outer:
            inner = outer = (inner + outer) / 2
        return inner + (outer - inner) * (0.1 + 0.8 * draws[1]), v


@dataclass(frozen=True)
class Rendered:
    """An image (S, S) uint8, one bool mask (S, S) per finding of the patient, and the lungs and the chest as bool (S, S).

    ``chest`` is what the rib cage and the domes enclose: both lungs, heart and mediastinum.
    """

    image: np.ndarray
    masks: tuple[np.ndarray, ...]
    lungs: np.ndarray
    chest: np.ndarray


def render(patient: Patient, size: int = 128) -> Rendered:
    """Draw ``patient`` as a radiograph of ``size`` x ``size`` pixels, with the exact mask of every finding.

    The same patient shows the same anatomy at every size from 64 to 1024. Raises ValueError outside that range.
    """
    if not 64 <= size <= 1024:
        raise ValueError(f"size must lie in 64..1024, got {size}")
    frame = Frame(patient, size)
    base = outline = Outline(patient.anatomy, patient.exposure, patient.view)
    healthy = lungs = lung_fields(frame, base)
    changed = deform(patient)
    if changed:
        outline = Outline(**changed)
        lungs = lung_fields(frame, outline)
    tissue = soft_tissue(frame, outline, lungs["right"] + lungs["left"])
    image = tissue.image
    image += bones(frame, outline) * tissue.body * (1 - 0.45 * tissue.heart)
    gas_bubble(frame, outline, image)
    add_bowel(frame, outline, patient, image)
    add_grain(frame, patient, image)
    blood = vessels(frame, outline, patient, lungs) * (1 - 0.7 * tissue.heart)
    scene = Scene(patient, frame, outline, base, lungs, healthy, image, tissue.solid, blood)
    masks = tuple(draw_finding(spec, scene) for spec in patient.findings)
    image += blood
    image = _expose(patient, frame, image)
    draw_marker(patient, frame, image)
    inside = lungs["right"] + lungs["left"] > 0.5
    return Rendered(_digitise(patient, image), masks, inside, _chest(frame, outline))


def _chest(frame: Frame, outline: Outline) -> np.ndarray:
    v, u = frame.along_v, frame.along_u
    wide = frame.w <= frame.by_v(outline.curve("outer", "left", v) + 0.01)
    right, left = (outline.curve("dome", side, np.abs(u)) for side in ("right", "left"))
    low = frame.by_u(np.where(u > 0, left, right) + 0.025)
    return wide & (frame.v <= low) & (frame.v >= outline.a.lung_top - 0.01)


def _expose(patient: Patient, frame: Frame, image: np.ndarray) -> np.ndarray:
    """Blur, collimation and the film's curve."""
    e = patient.exposure
    image = gaussian_filter(image, e.blur * frame.size, truncate=2.5, mode="nearest")
    scatter = e.scatter + (0.06 if patient.view == "AP" else 0.0)
    image = image * (1 - scatter) + scatter * 0.55 + e.offset
    image *= e.gain * (1 + 2 * e.tone * (frame.y - 0.5) + 2 * e.heel * (frame.x - 0.5))
    levels = np.arange(4096, dtype=np.float32) / 2048
    film = np.where(levels > 0.72, 0.72 + 0.5 * np.tanh((levels - 0.72) / 0.5), levels)
    film = np.clip(film, 0, 1) ** np.float32(e.gamma)
    image = film.take(np.clip(image * 2048, 0, 4095).astype(np.intp))
    if e.collimation > 0:
        edge = e.collimation
        across, down = (ramp(np.minimum(at, 1 - at) - edge, 0.008) for at in (frame.x, frame.y))
        image *= across * down
    return image


def _digitise(patient: Patient, image: np.ndarray) -> np.ndarray:
    size = image.shape[0]
    rng = rng_for(patient.seed, "noise", patient.visit)
    grain = patient.exposure.noise * min(size / 128, 4.0) ** 0.5 * 6**0.5
    speckle = rng.random(image.shape, dtype=np.float32) + rng.random(image.shape, dtype=np.float32) - 1
    image = image + grain * speckle * (0.5 + 0.5 * image)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)

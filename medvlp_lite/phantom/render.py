"""From a patient to pixels and masks. Built in chapter 01_image_report_pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import Frame, Outline, bones, gas_bubble, lung_fields, pixel_grid, soft_tissue, vessels
from .devices import draw_devices, draw_marker
from .findings import deform, draw_finding
from .patients import Patient, stream
from .scene import Scene
from .textures import ramp


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
        outline = Outline(patient.anatomy, patient.exposure, patient.view, **changed)
        lungs = lung_fields(frame, outline)
    tissue = soft_tissue(frame, outline, lungs["right"] + lungs["left"])
    image = tissue.image
    image += bones(frame, outline) * tissue.body * (1 - 0.45 * tissue.heart)
    gas_bubble(frame, outline, image)
    blood = vessels(frame, outline, patient, lungs) * (1 - 0.7 * tissue.heart)
    scene = Scene(patient, frame, outline, base, lungs, healthy, image, tissue.solid, blood)
    masks = tuple(draw_finding(spec, scene) for spec in patient.findings)
    image += blood
    draw_devices(patient, frame, image)
    image = _expose(patient, frame, image)
    draw_marker(patient, frame, image)
    inside = lungs["right"] + lungs["left"] > 0.5
    return Rendered(_digitise(patient, image), masks, inside, _chest(frame, outline))


def _chest(frame: Frame, outline: Outline) -> np.ndarray:
    v, u = frame.along_v, frame.along_u
    wide = frame.w <= frame.by_v(outline.curve("outer", "left", v) + 0.01)
    right, left = (outline.curve("dome", side, np.abs(u)) for side in ("right", "left"))
    low = frame.by_u(np.where(u > 0, left, right) + 0.02)
    return wide & (frame.v <= low) & (frame.v >= outline.a.lung_top - 0.01)


def _expose(patient: Patient, frame: Frame, image: np.ndarray) -> np.ndarray:
    """Blur, collimation and the film's curve."""
    from scipy.ndimage import gaussian_filter

    e = patient.exposure
    image = gaussian_filter(image, e.blur * frame.size, truncate=2.5, mode="nearest")
    image = image * (1 - e.scatter) + e.scatter * 0.55 + e.offset
    x, y = pixel_grid(frame.size)
    image *= e.gain * (1 + 2 * e.tone * (y - 0.5) + 2 * e.heel * (x - 0.5))
    levels = np.arange(4096, dtype=np.float32) / 2048
    film = np.where(levels > 0.72, 0.72 + 0.5 * np.tanh((levels - 0.72) / 0.5), levels)
    film = np.clip(film, 0, 1) ** np.float32(e.gamma)
    image = film.take(np.clip(image * 2048, 0, 4095).astype(np.intp))
    if e.collimation > 0:
        edge = e.collimation
        side = (np.arange(frame.size, dtype=np.float32) + 0.5) / frame.size
        shutter = ramp(np.minimum(side, 1 - side) - edge, 0.008)
        image *= shutter[None, :] * shutter[:, None]
    return image


def _digitise(patient: Patient, image: np.ndarray) -> np.ndarray:
    size = image.shape[0]
    rng = stream(patient.seed, "noise", patient.visit)
    grain = patient.exposure.noise * min(size / 128, 4.0) ** 0.5 * 6**0.5
    speckle = rng.random(image.shape, dtype=np.float32) + rng.random(image.shape, dtype=np.float32) - 1
    image = image + grain * speckle * (0.5 + 0.5 * image)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)

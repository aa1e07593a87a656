"""From a patient to pixels and masks. Built in chapter 01_image_report_pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import Frame, Outline, bones, gas_bubble, lung_fields, soft_tissue, vessels
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
    Built in chapter 01_image_report_pairs.
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
    image, heart = soft_tissue(frame, outline, patient, lungs["right"] + lungs["left"])
    image += bones(frame, outline, patient)
    gas_bubble(frame, outline, image)
    blood = vessels(frame, outline, patient, lungs) * (1 - 0.7 * heart)
    scene = Scene(patient, frame, outline, base, lungs, healthy, image, blood)
    masks = tuple(draw_finding(spec, scene) for spec in patient.findings)
    image += blood
    draw_devices(patient, frame, image)
    image = _expose(patient, frame, image)
    draw_marker(patient, frame, image)
    inside = lungs["right"] + lungs["left"] > 0.5
    return Rendered(_digitise(patient, image), masks, inside, _chest(frame, outline))


def _chest(frame: Frame, outline: Outline) -> np.ndarray:
    v, u = frame.along_v, frame.along_u
    wide = frame.w <= frame.by_v(outline.outer("left", v) + 0.01)
    low = frame.by_u(np.where(u > 0, outline.dome("left", u), outline.dome("right", -u)) + 0.02)
    return wide & (frame.v <= low) & (frame.v >= outline.a.lung_top - 0.01)


def _expose(patient: Patient, frame: Frame, image: np.ndarray) -> np.ndarray:
    """Blur, collimation and the film's curve."""
    from scipy.ndimage import gaussian_filter

    e = patient.exposure
    image = gaussian_filter(image, e.blur * frame.size, truncate=2.5, mode="nearest")
    image = image * (1 - e.scatter) + e.scatter * 0.55 + e.offset
    image *= e.gain * (1 + e.tone * 2 * (frame.v - 0.5))
    image = np.where(image > 0.72, 0.72 + 0.5 * np.tanh((image - 0.72) / 0.5), image)
    np.clip(image, 0, 1, out=image)
    image **= np.float32(e.gamma)
    if e.collimation > 0:
        edge = e.collimation
        side = (np.arange(frame.size, dtype=np.float32) + 0.5) / frame.size
        shutter = ramp(np.minimum(side, 1 - side) - edge, 0.008)
        image *= shutter[None, :] * shutter[:, None]
    return image


def _digitise(patient: Patient, image: np.ndarray) -> np.ndarray:
    size = image.shape[0]
    rng = stream(patient.seed, "noise", patient.visit)
    grain = patient.exposure.noise * min(size / 128, 4.0) ** 0.5
    image = image + grain * rng.standard_normal(image.shape, dtype=np.float32) * (0.5 + 0.5 * image)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)

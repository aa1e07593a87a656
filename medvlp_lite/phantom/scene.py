"""What a painter works on: the image so far and the anatomy it must respect. Built in chapter 01_image_report_pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import SIDES, Frame, Outline
from .patients import Patient

ZONE_SPAN = {"apical": (0.04, 0.12), "upper": (0.14, 0.32), "mid": (0.40, 0.60), "lower": (0.68, 0.90)}


@dataclass
class Scene:
    """``outline`` and ``lungs`` are as the findings deform them, ``base`` and ``healthy`` as they would be without.

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

    def half(self, side: str, top: float, bottom: float) -> tuple[slice, slice]:
        """The pixel window of one half of the chest between two heights."""
        return self.frame.half(side, top, bottom)

    def around(self, side: str, w: float, v: float, reach: float) -> tuple[slice, slice]:
        """The pixel window around a point."""
        u = w * SIDES[side]
        return self.frame.window(u - reach, u + reach, v - reach, v + reach)

    def w(self, side: str, window: tuple[slice, slice]) -> np.ndarray:
        """Distance from the midline towards ``side``, at every pixel of the window."""
        return self.frame.u[window] * SIDES[side]

    def lay(self, window: tuple[slice, slice], density: np.ndarray) -> None:
        """Add ``density`` to the image; the brighter it is already, the less it gains."""
        image = self.image[window]
        image += density * np.clip((0.95 - image) * (1 / 0.75), 0, 1.2)

    def place(self, side: str, position: str, draws: list[float], margin: float) -> tuple[float, float]:
        """A point (w, v) in the zone, ``margin`` away from heart and wall where the lung allows."""
        low, high = ZONE_SPAN[position]
        v = self.base.height(side, low + (high - low) * draws[0])
        inner, outer = self.base.extent(side, v)
        inner, outer = inner + 0.55 * margin, outer - 0.75 * margin
        if inner > outer:
            inner = outer = (inner + outer) / 2
        return inner + (outer - inner) * (0.1 + 0.8 * draws[1]), v

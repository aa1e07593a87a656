"""Who is examined: build, film and findings of one synthetic patient, and the interventions.

Every component draws from a random stream of its own, so that a change in one leaves the others untouched.
Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medvlp_lite.studies import SEVERITIES

UNSEEN = "covid-19"
TABLE: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "signs.json").read_text(encoding="utf-8"))
SIGN_ROWS: dict[str, dict[str, Any]] = TABLE["signs"]
SIGNS = tuple(SIGN_ROWS)
DEVICES = tuple(name for name, row in SIGN_ROWS.items() if row.get("device"))
UNGRADED = (*DEVICES, *(name for name, row in SIGN_ROWS.items() if row.get("ungraded")))  # reports give them no grade
ATTRIBUTES: dict[str, dict[str, str]] = TABLE["entities"] | {name: row["attributes"] for name, row in SIGN_ROWS.items()}
IMPLIED: dict[str, list[str]] = TABLE["implied"]  # finding -> signs that it makes unknown
ZONES = ("apical", "upper", "mid", "lower", "basal", "lateral", "perihilar", "cardiac", "midline", "diffuse")
POSITIONS: dict[str, tuple[str, ...]] = {
    "consolidation": ("upper", "mid", "lower"),
    "ground-glass opacity": ("upper", "mid", "lower"),
    "nodule": ("upper", "mid", "lower"),
    "mass": ("upper", "mid", "lower", "perihilar"),
    "effusion": ("basal",),
    "pneumothorax": ("apical", "lateral"),
    "cardiomegaly": ("cardiac",),
    "edema": ("perihilar",),
    "atelectasis": ("mid", "lower"),
    "pleural thickening": ("apical", "lateral", "basal"),
    "granuloma": ("upper", "mid", "lower"),
    "pneumoconiosis": ("upper", "mid", "lower"),
    UNSEEN: ("basal",),
    **{name: tuple(row["positions"]) for name, row in SIGN_ROWS.items()},
}
ENTITIES = tuple(entity for entity in POSITIONS if entity != UNSEEN and entity not in SIGN_ROWS)
ONE_SIDED = ("nodule", "mass", "pneumothorax", "atelectasis", "granuloma")
ALWAYS_BILATERAL = ("edema", "pneumoconiosis", UNSEEN)


def rng_for(*key: int | str) -> np.random.Generator:
    """The random generator named by ``key``: the same on every platform, independent of every other one."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.Generator(np.random.PCG64(words))


def opacity_type(patient_seed: int, finding_seed: int) -> tuple[str, float]:
    """The small opacities of a pneumoconiosis: their type, "rounded" or "irregular", and their radius in image heights."""
    rng = rng_for(patient_seed, "dust", finding_seed)
    return ("irregular" if rng.random() < 0.25 else "rounded"), float(rng.uniform(0.0058, 0.0092))


def allowed_sides(entity: str) -> tuple[str | None, ...]:
    """The sides ``entity`` may have, the usual one first; (None,) for the heart."""
    if entity in SIGN_ROWS:
        return tuple(SIGN_ROWS[entity]["sides"])
    if entity == "cardiomegaly":
        return (None,)
    if entity in ALWAYS_BILATERAL:
        return ("bilateral",)
    return ("right", "left") if entity in ONE_SIDED else ("right", "left", "bilateral")


@dataclass(frozen=True)
class FindingSpec:
    """What to draw: an entity, how severe ("mild", "moderate", "severe"), on which side and at which position.

    ``side`` and ``position`` left out take the entity's usual ones. ``seed`` varies shape and exact place.
    Raises ValueError for an unknown entity, severity, side or position.
    """

    entity: str
    severity: str = "moderate"
    side: str | None = None
    position: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.entity not in POSITIONS:
            raise ValueError(f"entity {self.entity!r} is unknown; use one of {', '.join(POSITIONS)}")
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity of {self.entity} must be one of {', '.join(SEVERITIES)}, got {self.severity!r}")
        for name, options in (("side", allowed_sides(self.entity)), ("position", POSITIONS[self.entity])):
            if getattr(self, name) is None:
                object.__setattr__(self, name, options[0])
            elif getattr(self, name) not in options:
                raise ValueError(f"{name} of {self.entity} must be one of {options}, got {getattr(self, name)!r}")

    @property
    def level(self) -> int:
        """0 mild, 1 moderate, 2 severe."""
        return SEVERITIES.index(self.severity)


def _between(low: float, high: float) -> float:
    return field(default=(low + high) / 2, metadata={"range": (low, high)})


@dataclass(frozen=True)
class Anatomy:
    """The patient's build, in units of the image height; the midline is u = 0, patient's left is positive u."""

    lung_width: float = _between(0.285, 0.415)
    lung_top: float = _between(0.085, 0.19)
    dome_right: float = _between(0.62, 0.8)
    dome_step: float = _between(-0.02, 0.055)
    dome_curve: float = _between(0.75, 1.6)
    flank: float = _between(0.03, 0.17)
    shoulder: float = _between(0.04, 0.18)
    neck: float = _between(0.095, 0.14)
    heart: float = _between(0.78, 1.4)
    heart_tilt: float = _between(-0.03, 0.03)
    knob: float = _between(0.25, 1.2)
    trunk: float = _between(0.1, 1.0)
    mediastinum: float = _between(0.038, 0.056)
    rib_spacing: float = _between(0.062, 0.076)
    rib_phase: float = _between(0.0, 1.0)
    rib_slope: float = _between(0.7, 1.4)
    rib_contrast: float = _between(0.5, 1.4)
    clavicle_height: float = _between(0.07, 0.11)
    clavicle_slope: float = _between(0.02, 0.075)
    scapula: float = _between(0.27, 0.36)
    breast: float = _between(-1.0, 1.3)
    breast_drop: float = _between(0.60, 0.72)
    spine: float = _between(0.6, 1.4)
    bend: float = _between(-0.006, 0.006)
    lung_density: float = _between(-0.06, 0.13)
    vessels: float = _between(0.75, 1.3)
    hilum: float = _between(0.6, 1.4)
    crowding: float = _between(-0.02, 0.09)
    gas: float = _between(-0.6, 1.6)
    bowel: float = _between(-0.8, 1.2)
    abduction: float = _between(0.05, 0.6)


@dataclass(frozen=True)
class Exposure:
    """How one film was taken: pose and beam. Redrawn at each visit."""

    rotation: float = _between(-0.1, 0.1)
    shift_x: float = _between(-0.09, 0.09)
    shift_y: float = _between(-0.08, 0.08)
    scale: float = _between(0.82, 1.28)
    turn: float = _between(-0.022, 0.022)
    inspiration: float = _between(-0.07, 0.05)
    gamma: float = _between(0.5, 1.6)
    gain: float = _between(0.78, 1.35)
    offset: float = _between(-0.03, 0.09)
    scatter: float = _between(-0.08, 0.30)
    blur: float = _between(0.001, 0.003)
    noise: float = _between(0.003, 0.01)
    collimation: float = _between(-0.06, 0.04)
    tone: float = _between(-0.25, 0.3)
    heel: float = _between(-0.25, 0.25)


@dataclass(frozen=True)
class Patient:
    """One synthetic patient at one visit. ``render`` draws it, ``write_report`` describes it.

    ``findings`` holds at most a few FindingSpec; ``stage`` (0-3) is the pneumoconiosis stage. ``prior`` holds the findings
    of the visit before, None if there was none. Interventions return a new Patient and keep every other random draw.
    """

    seed: int
    anatomy: Anatomy = field(default_factory=Anatomy, repr=False)
    exposure: Exposure = field(default_factory=Exposure, repr=False)
    view: str = "PA"
    findings: tuple[FindingSpec, ...] = ()
    marker: str | None = "L"
    visit: int = 0
    prior: tuple[FindingSpec, ...] | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the tubes, lines and other devices among the findings."""
        return tuple(spec.entity for spec in self.findings if spec.entity in DEVICES)

    @property
    def unclear(self) -> frozenset[str]:
        """What the findings make unknown: signs that come with one of them, and ground glass beside the unseen disease."""
        here = {spec.entity for spec in self.findings}
        signs = {sign for entity in here for sign in IMPLIED.get(entity, ())}
        return frozenset(signs | ({"ground-glass opacity"} if UNSEEN in here else set())) - here

    @property
    def stage(self) -> int:
        """Pneumoconiosis stage: 0 none, else 1 to 3, the severity of the pneumoconiosis."""
        spec = self.find("pneumoconiosis")
        return 0 if spec is None else spec.level + 1

    def find(self, entity: str) -> FindingSpec | None:
        """The first finding of this name, or None."""
        return next((spec for spec in self.findings if spec.entity == entity), None)

    def add(self, spec: FindingSpec) -> Patient:
        """The same patient with one finding more."""
        return replace(self, findings=(*self.findings, spec))

    def remove(self, entity: str) -> Patient:
        """The same patient without ``entity``. Raises ValueError when it is not there."""
        self._require(entity)
        return replace(self, findings=tuple(spec for spec in self.findings if spec.entity != entity))

    def move(self, entity: str, *, side: str | None = None, position: str | None = None) -> Patient:
        """The same patient with ``entity`` elsewhere; what is None stays. Raises ValueError when it is not there."""
        return self._change(entity, side=side, position=position)

    def regrade(self, entity: str, severity: str) -> Patient:
        """The same patient with ``entity`` at another severity. Raises ValueError when it is not there."""
        return self._change(entity, severity=severity)

    def with_stage(self, stage: int) -> Patient:
        """The same patient with pneumoconiosis of this stage; 0 removes it. Raises ValueError outside 0-3."""
        if stage not in range(4):
            raise ValueError(f"stage must be 0, 1, 2 or 3, got {stage!r}")
        spec = self.find("pneumoconiosis")
        if stage == 0:
            return self if spec is None else self.remove("pneumoconiosis")
        severity = SEVERITIES[stage - 1]
        if spec is None:
            return self.add(FindingSpec("pneumoconiosis", severity))
        return self.regrade("pneumoconiosis", severity)

    def _require(self, entity: str) -> None:
        if self.find(entity) is None:
            there = ", ".join(spec.entity for spec in self.findings) or "no finding"
            raise ValueError(f"patient {self.seed} has no {entity!r} to change; it has {there}")

    def _change(self, entity: str, **changes: str | None) -> Patient:
        self._require(entity)
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, findings=tuple(replace(s, **given) if s.entity == entity else s for s in self.findings))

"""Who is examined: anatomy, exposure and findings of one synthetic patient, drawn from a seed, and the interventions.

Every component draws from a random stream of its own, so that a change in one leaves the others untouched.
Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from ..studies import SEVERITIES

ENTITIES = (
    "consolidation",
    "ground-glass opacity",
    "nodule",
    "mass",
    "effusion",
    "pneumothorax",
    "cardiomegaly",
    "edema",
    "atelectasis",
    "pleural thickening",
    "granuloma",
    "pneumoconiosis",
)
UNSEEN = "covid-19"
ZONES = ("apical", "upper", "mid", "lower", "basal", "lateral", "perihilar", "cardiac")
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
}
ONE_SIDED = ("nodule", "mass", "pneumothorax", "atelectasis", "granuloma")
ALWAYS_BILATERAL = ("edema", "pneumoconiosis", UNSEEN)
BILATERAL_SHARE = {"consolidation": 0.15, "ground-glass opacity": 0.3, "effusion": 0.3, "pleural thickening": 0.25}
DEVICES = (
    "endotracheal tube",
    "nasogastric tube",
    "central venous catheter",
    "pacemaker",
    "ECG leads",
    "sternal wires",
)
DEFAULT_PREVALENCE = 0.12
DEFAULT_STAGES = (0.82, 0.06, 0.06, 0.06)


def stream(*key: int | str) -> np.random.Generator:
    """A random stream named by ``key``: the same on every platform, independent of every other stream."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.Generator(np.random.PCG64(words))


def dust(patient_seed: int, finding_seed: int) -> tuple[str, float]:
    """What the small opacities of a pneumoconiosis look like: "rounded" or "irregular", and their radius."""
    rng = stream(patient_seed, "dust", finding_seed)
    return ("irregular" if rng.random() < 0.25 else "rounded"), float(rng.uniform(0.0058, 0.0092))


def allowed_sides(entity: str) -> tuple[str | None, ...]:
    """The sides ``entity`` may have, the usual one first; (None,) for the heart."""
    if entity == "cardiomegaly":
        return (None,)
    if entity in ALWAYS_BILATERAL:
        return ("bilateral",)
    return ("right", "left") if entity in ONE_SIDED else ("right", "left", "bilateral")


@dataclass(frozen=True)
class FindingSpec:
    """What to draw: an entity, how severe ("mild", "moderate", "severe"), on which side and at which position.

    ``side`` and ``position`` left out take the entity's usual ones. ``seed`` varies shape and exact place.
    Raises ValueError for an unknown entity, severity, side or position. Built in chapter 01_image_report_pairs.
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

    lung_width: float = _between(0.325, 0.395)
    lung_top: float = _between(0.115, 0.165)
    dome_right: float = _between(0.675, 0.765)
    dome_step: float = _between(0.0, 0.04)
    dome_curve: float = _between(0.75, 1.25)
    flank: float = _between(0.045, 0.10)
    shoulder: float = _between(0.10, 0.19)
    neck: float = _between(0.095, 0.14)
    heart: float = _between(0.82, 1.25)
    heart_tilt: float = _between(-0.03, 0.03)
    knob: float = _between(0.25, 1.2)
    trunk: float = _between(0.1, 1.0)
    mediastinum: float = _between(0.038, 0.056)
    rib_spacing: float = _between(0.062, 0.076)
    rib_phase: float = _between(0.0, 1.0)
    rib_slope: float = _between(0.7, 1.4)
    rib_contrast: float = _between(0.55, 1.25)
    clavicle_height: float = _between(0.07, 0.11)
    clavicle_slope: float = _between(0.02, 0.075)
    scapula: float = _between(0.27, 0.36)
    breast: float = _between(-0.9, 0.9)
    breast_drop: float = _between(0.60, 0.72)
    spine: float = _between(0.6, 1.4)
    bend: float = _between(-0.006, 0.006)
    lung_density: float = _between(-0.04, 0.06)
    vessels: float = _between(0.75, 1.3)
    hilum: float = _between(0.6, 1.4)
    crowding: float = _between(-0.02, 0.07)
    gas: float = _between(-0.5, 1.0)


@dataclass(frozen=True)
class Exposure:
    """How one film was taken: pose and beam. Redrawn at each visit."""

    rotation: float = _between(-0.06, 0.06)
    shift_x: float = _between(-0.045, 0.045)
    shift_y: float = _between(-0.04, 0.04)
    scale: float = _between(0.90, 1.09)
    turn: float = _between(-0.022, 0.022)
    inspiration: float = _between(-0.03, 0.03)
    gamma: float = _between(0.75, 1.30)
    gain: float = _between(0.90, 1.10)
    offset: float = _between(-0.02, 0.05)
    scatter: float = _between(-0.04, 0.08)
    blur: float = _between(0.0015, 0.0048)
    noise: float = _between(0.006, 0.022)
    collimation: float = _between(-0.06, 0.04)
    tone: float = _between(-0.10, 0.10)
    heel: float = _between(-0.12, 0.12)


def _draw(kind: type, rng: np.random.Generator) -> dict[str, float]:
    ranges = [f.metadata["range"] for f in fields(kind)]
    draws = rng.random((2, len(ranges))).mean(axis=0)  # bell-shaped, within the range
    return {f.name: float(low + (high - low) * x) for f, (low, high), x in zip(fields(kind), ranges, draws)}


@dataclass(frozen=True)
class Patient:
    """One synthetic patient at one visit. ``render`` draws it, ``write_report`` describes it.

    ``findings`` holds at most a few FindingSpec; ``stage`` (0-3) is the pneumoconiosis stage. ``prior`` holds the findings
    of the visit before, None if there was none. Interventions return a new Patient and keep every other random draw.
    Built in chapter 01_image_report_pairs.
    """

    seed: int
    anatomy: Anatomy = field(default_factory=Anatomy, repr=False)
    exposure: Exposure = field(default_factory=Exposure, repr=False)
    view: str = "PA"
    findings: tuple[FindingSpec, ...] = ()
    devices: tuple[str, ...] = ()
    scoliosis: bool = False
    marker: str | None = "L"
    visit: int = 0
    prior: tuple[FindingSpec, ...] | None = None

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


def sample_patient(
    seed: int,
    *,
    prevalence: float | Mapping[str, float] | None = None,
    stage_prevalence: Sequence[float] | None = None,
    entities: Sequence[str] = ENTITIES,
    devices: bool = True,
    healthy: float = 0.1,
    visit: int = 0,
) -> Patient:
    """Draw a patient from a seed (an integer >= 0).

    ``prevalence`` is the share of patients having each entity: one number for all, or a mapping (what it leaves out keeps
    the default 0.12). ``stage_prevalence`` gives the shares of pneumoconiosis stages 0-3 and overrides the prevalence of
    pneumoconiosis. ``entities`` limits what may occur; the unseen disease occurs only when named there. ``healthy`` is a
    share without any finding, beyond those that chance leaves free; the other shares are kept.
    Raises ValueError for shares outside [0, 1], unknown names or a negative seed. Built in chapter 01_image_report_pairs.
    """
    shares = _shares(prevalence, entities)
    stages = _stage_shares(stage_prevalence, prevalence, entities)
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    names = tuple(POSITIONS)  # fixed order: leaving an entity out moves no other draw
    draws = stream(seed, "findings").random((len(names) + 1, 6))
    healthy = min(healthy, 1 - max([*shares.values(), 1 - stages[0]], default=0))
    findings = []
    if draws[-1, 0] >= healthy:
        for name, draw in zip(names, draws):
            if name == "pneumoconiosis":
                stage = _stage(draw[0], stages, healthy)
                if stage:
                    findings.append(_spec(name, SEVERITIES[stage - 1], draw))
            elif draw[0] < shares.get(name, 0.0) / (1 - healthy):
                findings.append(_spec(name, SEVERITIES[min(int(draw[1] * 3), 2)], draw))
    return _person(seed, visit, tuple(findings), devices)


def follow_up(patient: Patient, *, entities: Sequence[str] = ENTITIES, devices: bool = True) -> Patient:
    """The same patient at the next visit: a new film, findings that stayed, grew, shrank, went or came."""
    visit = patient.visit + 1
    rng = stream(patient.seed, "course", visit)
    findings = []
    for spec in patient.findings:
        step = int(rng.choice([-1, 0, 0, 1]))
        lasting = spec.entity in ("pneumoconiosis", "granuloma", "mass", "nodule", "pleural thickening")
        level = spec.level + (max(step, 0) if lasting else step)
        if level >= 0:
            findings.append(replace(spec, severity=SEVERITIES[min(level, 2)]))
    here = {spec.entity for spec in findings}
    candidates = [name for name in entities if name not in here and name not in (UNSEEN, "pneumoconiosis", "granuloma")]
    if candidates and rng.random() < 0.4:
        findings.append(_spec(str(rng.choice(candidates)), SEVERITIES[rng.integers(3)], rng.random(6)))
    findings.sort(key=lambda spec: tuple(POSITIONS).index(spec.entity))
    later = _person(patient.seed, visit, tuple(findings), devices)
    return replace(later, prior=patient.findings)


def _person(seed: int, visit: int, findings: tuple[FindingSpec, ...], devices: bool) -> Patient:
    body, film, extras = stream(seed, "anatomy"), stream(seed, "film", visit), stream(seed, "extras", visit)
    anatomy = _draw(Anatomy, body)
    scoliosis = bool(body.random() < 0.07)
    if scoliosis:
        anatomy["bend"] = float(body.choice([-1, 1]) * body.uniform(0.018, 0.036))
    worn: list[str] = []
    luck = extras.random(4)
    if devices and luck[0] < 0.3:
        worn = list(extras.choice(DEVICES, size=1 + int(luck[1] < 0.35), replace=False))
    return Patient(
        seed=seed,
        anatomy=Anatomy(**anatomy),
        exposure=Exposure(**_draw(Exposure, film)),
        view="AP" if luck[2] < (0.6 if "endotracheal tube" in worn or "ECG leads" in worn else 0.25) else "PA",
        findings=findings,
        devices=tuple(str(name) for name in DEVICES if name in worn),
        scoliosis=scoliosis,
        marker=("L", "R", None)[min(int(luck[3] * 2.3), 2)],
        visit=visit,
    )


def _spec(entity: str, severity: str, draw: np.ndarray) -> FindingSpec:
    sides, positions = allowed_sides(entity), POSITIONS[entity]
    side = sides[0] if len(sides) == 1 else sides[int(draw[2] < 0.5)]
    if draw[3] < BILATERAL_SHARE.get(entity, 0):
        side = "bilateral"
    return FindingSpec(entity, severity, side, positions[int(draw[4] * len(positions))], int(draw[5] * 2**31))


def _stage(draw: float, stages: Sequence[float], healthy: float) -> int:
    edges = np.cumsum(np.asarray(stages[1:]) / (1 - healthy)) if healthy < 1 else np.zeros(3)
    return 0 if draw >= edges[-1] else int(np.searchsorted(edges, draw, side="right")) + 1


def _shares(prevalence: float | Mapping[str, float] | None, entities: Sequence[str]) -> dict[str, float]:
    given = prevalence if isinstance(prevalence, Mapping) else {}
    unknown = [name for name in (*entities, *given) if name not in POSITIONS]
    if unknown:
        raise ValueError(f"entity {unknown[0]!r} is unknown; use {', '.join(ENTITIES)} or {UNSEEN}")
    usual = DEFAULT_PREVALENCE if prevalence is None or given else float(prevalence)  # type: ignore[arg-type]
    shares = {name: float(given.get(name, usual)) for name in entities}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"prevalence of {name} must lie in [0, 1], got {share}")
    return shares


def _stage_shares(
    stages: Sequence[float] | None, prevalence: float | Mapping[str, float] | None, entities: Sequence[str]
) -> tuple[float, ...]:
    if "pneumoconiosis" not in entities:
        return (1.0, 0.0, 0.0, 0.0)
    if stages is None:
        share = prevalence.get("pneumoconiosis") if isinstance(prevalence, Mapping) else prevalence
        return DEFAULT_STAGES if share is None else (1 - share, share / 3, share / 3, share / 3)
    stages = tuple(float(share) for share in stages)
    if len(stages) != 4 or min(stages) < 0 or abs(sum(stages) - 1) > 1e-6:
        raise ValueError(f"stage_prevalence must be four shares for stages 0-3 that sum to 1, got {stages}")
    return stages

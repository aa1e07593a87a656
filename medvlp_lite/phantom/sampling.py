"""Patients drawn from seeds, and their next visit. Built in chapter 01_image_report_pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np

from medvlp_lite.phantom.patients import (
    DEVICES,
    ENTITIES,
    IMPLIED,
    POSITIONS,
    SIGN_ROWS,
    SIGNS,
    UNSEEN,
    Anatomy,
    Exposure,
    FindingSpec,
    Patient,
    allowed_sides,
    rng_for,
)
from medvlp_lite.studies import SEVERITIES

BILATERAL_SHARE = {"consolidation": 0.15, "ground-glass opacity": 0.3, "effusion": 0.3, "pleural thickening": 0.25}
DEFAULT_PREVALENCE = 0.12
SIGN_PREVALENCE = 0.05
BEDSIDE = tuple(name for name, row in SIGN_ROWS.items() if row.get("bedside"))  # drawn together, anew at each visit
SYNDROMES = (
    ("edema", "consolidation", 11.6),
    ("consolidation", "atelectasis", 2.5),
    ("atelectasis", "effusion", 2.4),
    ("effusion", "cardiomegaly", 3.2),
    ("pneumothorax", "emphysema", 6.3),
)  # how many times more often two findings come together than by chance; each finding follows one that is drawn before it
DEFAULT_STAGES = (0.82, 0.06, 0.06, 0.06)


def sample_patient(
    seed: int,
    *,
    prevalence: float | Mapping[str, float] | None = None,
    stage_prevalence: Sequence[float] | None = None,
    entities: Sequence[str] = ENTITIES,
    devices: bool = True,
    healthy: float = 0.1,
    visit: int = 0,
    signs: bool = True,
    syndromes: bool = False,
) -> Patient:
    """Draw a patient from a seed (an integer >= 0).

    Args:
        prevalence: the share of patients having each entity: one number for all, or a mapping (what it leaves out keeps the
            default 0.12). Signs have 0.05, or the one number if it is lower; those that another finding implies do not occur.
        stage_prevalence: the shares of pneumoconiosis stages 0-3; overrides the prevalence of pneumoconiosis.
        entities: what may occur; the unseen disease occurs only when named here.
        healthy: a share without any finding, beyond those that chance leaves free; the other shares are kept.
        signs: whether the signs may occur beside ``entities``.
        syndromes: whether findings come together as in patients, by the lifts of ``SYNDROMES``; each prevalence is kept. A
            lift is capped at 1 / the larger prevalence, where the rarer finding always comes with the other.

    Raises:
        ValueError: for shares outside [0, 1], unknown names or a negative seed.
    """
    scope = [
        *entities,
        *(name for name in SIGNS if signs and name not in entities and (devices or name not in DEVICES)),
    ]
    shares = _shares(prevalence, scope)
    stages = _stage_shares(stage_prevalence, prevalence, entities)
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    names = (*ENTITIES, UNSEEN)  # fixed order: leaving an entity out moves no other draw
    luck = rng_for(seed, "findings").random((len(names) + 1, 6))
    draws = dict(zip((*names, *SIGNS), (*luck[:-1], *rng_for(seed, "signs").random((len(SIGNS), 6)))))
    healthy = min(healthy, 1 - max([*shares.values(), 1 - stages[0]], default=0))
    findings = []
    if luck[-1, 0] >= healthy:
        stage = _stage(draws["pneumoconiosis"][0], stages, healthy)
        here = _present(draws, shares, healthy, SYNDROMES if syndromes else ())
        here["pneumoconiosis"] = stage > 0
        for name in filter(here.get, draws):
            level = stage - 1 if name == "pneumoconiosis" else min(int(draws[name][1] * 3), 2)
            findings.append(_spec(name, SEVERITIES[level], draws[name]))
    return _person(seed, visit, tuple(findings), devices)


def _present(
    draws: Mapping[str, np.ndarray], shares: Mapping[str, float], healthy: float, lifts: Sequence[tuple]
) -> dict[str, bool]:
    """Which entities a patient who is not healthy has."""
    limits = {name: share / (1 - healthy) for name, share in shares.items() if name not in BEDSIDE and share}
    here = {name: bool(draws[name][0] < limit) for name, limit in limits.items()}
    for first, second, lift in lifts:
        if first in limits and second in limits and limits[first] < 1:
            a, b = limits[first], limits[second]
            joint = min(lift * (1 - healthy) * a * b, a, b)
            here[second] = bool(draws[second][0] < (joint / a if here[first] else (b - joint) / (1 - a)))
    return here


def follow_up(patient: Patient, *, entities: Sequence[str] = ENTITIES, devices: bool = True) -> Patient:
    """The same patient at the next visit: a new film, findings that stayed, grew, shrank, went or came."""
    visit = patient.visit + 1
    rng = rng_for(patient.seed, "course", visit)
    findings = []
    for spec in (spec for spec in patient.findings if spec.entity not in SIGN_ROWS):
        step = int(rng.choice([-1, 0, 0, 1]))
        lasting = spec.entity in ("pneumoconiosis", "granuloma", "mass", "nodule", "pleural thickening")
        level = spec.level + (max(step, 0) if lasting else step)
        if level >= 0:
            findings.append(replace(spec, severity=SEVERITIES[min(level, 2)]))
    here = {spec.entity for spec in findings}
    never = {UNSEEN, "pneumoconiosis", "granuloma", *SIGNS, *here}
    candidates = [name for name in entities if name not in never]
    if candidates and rng.random() < 0.4:
        findings.append(_spec(str(rng.choice(candidates)), SEVERITIES[rng.integers(3)], rng.random(6)))
    findings.sort(key=lambda spec: tuple(POSITIONS).index(spec.entity))
    findings += [spec for spec in patient.findings if spec.entity in SIGN_ROWS and spec.entity not in BEDSIDE]
    later = _person(patient.seed, visit, tuple(findings), devices)
    return replace(later, prior=patient.findings)


def _draw(kind: type, rng: np.random.Generator) -> dict[str, float]:
    ranges = [f.metadata["range"] for f in fields(kind)]
    draws = rng.random((2, len(ranges))).mean(axis=0)  # bell-shaped, within the range
    return {f.name: float(low + (high - low) * x) for f, (low, high), x in zip(fields(kind), ranges, draws)}


def _person(seed: int, visit: int, findings: tuple[FindingSpec, ...], devices: bool) -> Patient:
    body, film, extras = rng_for(seed, "anatomy"), rng_for(seed, "film", visit), rng_for(seed, "extras", visit)
    chosen: list[str] = []
    luck = extras.random(4)
    if devices and luck[0] < 0.3:
        chosen = list(extras.choice(BEDSIDE, size=1 + int(luck[1] < 0.35), replace=False))
    supine = "endotracheal tube" in chosen or "ECG leads" in chosen
    return Patient(
        seed=seed,
        anatomy=Anatomy(**_draw(Anatomy, body)),
        exposure=Exposure(**_draw(Exposure, film)),
        view="AP" if luck[2] < (0.6 if supine else 0.25) else "PA",
        findings=(
            *_compatible(findings),
            *(FindingSpec(name, seed=seed + visit) for name in BEDSIDE if name in chosen),
        ),
        marker=("L", "R", None)[min(int(luck[3] * 2.3), 2)],
        visit=visit,
    )


def _compatible(findings: tuple[FindingSpec, ...]) -> list[FindingSpec]:
    """The findings without the signs that another of them implies."""
    implied = {sign for spec in findings for sign in IMPLIED.get(spec.entity, ())}
    return [spec for spec in findings if spec.entity not in implied]


def _spec(entity: str, severity: str, draw: np.ndarray) -> FindingSpec:
    sides, positions = allowed_sides(entity), POSITIONS[entity]
    side = sides[0] if len(sides) == 1 else sides[int(draw[2] < 0.5)]
    if entity in SIGN_ROWS:
        side = sides[int(draw[2] * len(sides))]
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
    rare = min(SIGN_PREVALENCE, usual)
    shares = {name: float(given.get(name, rare if name in SIGN_ROWS else usual)) for name in entities}
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

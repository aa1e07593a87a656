"""Phantom studies by the thousand, as the record that everything else uses. Built in chapter 01_image_report_pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from medvlp_lite.phantom.patients import ENTITIES, SIGNS, UNGRADED, UNSEEN, FindingSpec, Patient, rng_for
from medvlp_lite.phantom.render import render
from medvlp_lite.phantom.reports import MENTION_RATE, write_report
from medvlp_lite.phantom.sampling import follow_up, sample_patient
from medvlp_lite.studies import Finding, Study

LICENCE = "MIT (synthetic)"
SECOND_VISIT = 0.3  # share of the even-numbered studies whose patient comes again for the next study
SEEDS_APART = 10**7


@dataclass(frozen=True)
class PackedFinding(Finding):
    """A Finding that keeps its mask as bits, an eighth of the memory, and unpacks it when it is read."""


def _unpack(finding: PackedFinding) -> np.ndarray | None:
    packed = finding.__dict__.get("_packed")
    if packed is None:
        return None
    bits, shape = packed
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).view(bool)


def _pack(finding: PackedFinding, mask: np.ndarray | None) -> None:
    finding.__dict__["_packed"] = None if mask is None else (np.packbits(mask), mask.shape)


PackedFinding.mask = property(_unpack, _pack)  # type: ignore[assignment]


def make_studies(
    count: int,
    *,
    seed: int = 0,
    size: int = 128,
    prevalence: float | Mapping[str, float] | None = None,
    entities: Sequence[str] = ENTITIES,
    unseen: float | bool = False,
    stage_prevalence: Sequence[float] | None = None,
    mention_rate: tuple[float, float] = MENTION_RATE,
    style: str = "varied",
    devices: bool = True,
    signs: bool = True,
    syndromes: bool = False,
    repeat: float = 0.0,
    start: int = 0,
    workers: int = 1,
) -> list[Study]:
    """Make ``count`` phantom studies, numbers ``start`` to ``start + count - 1`` of the set named by ``seed``.

    Study n of a seed is the same whatever ``count``, ``start`` and ``workers`` are. Some patients have two studies: split by
    patient. The arguments that are not listed are those of ``sample_patient`` and ``write_report``.

    Args:
        unseen: the share of patients with the disease kept out of training (True: half); where it is present, ground-glass
            opacity is unknown unless drawn as well.
        workers: how many processes make the studies.

    Returns:
        Studies with a ``Finding`` for every entity in scope, present, absent or unknown (what another finding implies); a
        present one has side, position, severity and mask, and ``mentioned`` says whether the report speaks of it. ``meta`` holds "patient" (start interventions
        here), "hedged" (entities the report leaves uncertain) and "visit".

    Raises:
        ValueError: for a negative count, start or seed, no worker, an unknown style, and what the two functions refuse.
    """
    if count < 0 or start < 0 or seed < 0 or workers < 1:
        found = f"{count}, {start}, {seed}, {workers}"
        raise ValueError(f"count, start and seed must be >= 0 and workers >= 1, got {found}")
    share = 0.5 if unseen is True else float(unseen)
    scope = tuple(entities) + ((UNSEEN,) if share > 0 and UNSEEN not in entities else ())
    if share > 0:
        if not isinstance(prevalence, Mapping):
            prevalence = {} if prevalence is None else dict.fromkeys(entities, prevalence)
        prevalence = {**prevalence, UNSEEN: share}
    sampling = dict(prevalence=prevalence, stage_prevalence=stage_prevalence, entities=scope, devices=devices)
    sampling |= dict(signs=signs, syndromes=syndromes)
    writing = dict(mention_rate=mention_rate, style=style, entities=scope, signs=signs, repeat=repeat)
    make = partial(_make_study, seed=seed, size=size, sampling=sampling, writing=writing)
    numbers = range(start, start + count)
    if workers == 1 or count < 2 * workers:
        return [make(number) for number in numbers]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(make, numbers, chunksize=max(1, min(64, count // workers))))


def study_from_patient(
    patient: Patient,
    *,
    size: int = 128,
    study_id: str = "",
    style: str = "varied",
    mention_rate: tuple[float, float] = MENTION_RATE,
    entities: Sequence[str] = ENTITIES,
    patient_id: str = "",
    signs: bool = True,
    repeat: float = 0.0,
) -> Study:
    """The Study of one patient, for instance after an intervention."""
    drawn = render(patient, size)
    scope = tuple(dict.fromkeys((*entities, *SIGNS))) if signs else tuple(entities)
    report = write_report(patient, style=style, mention_rate=mention_rate, entities=scope, repeat=repeat)
    findings = [_drawn(s, mask, s.entity in report.mentioned) for s, mask in zip(patient.findings, drawn.masks)]
    here = {spec.entity for spec in patient.findings}
    unclear = patient.unclear
    for entity in scope:
        if entity not in here:
            findings.append(_not_drawn(entity, None if entity in unclear else False, entity in report.mentioned))
    study_id = study_id or f"phantom-{patient.seed}-{patient.visit}"
    return Study(
        study_id=study_id,
        patient_id=patient_id or study_id,
        source="phantom",
        pixels=drawn.image,
        report=report.text,
        findings=tuple(findings),
        view=patient.view,
        stage=patient.stage,
        licence=LICENCE,
        meta={"patient": patient, "hedged": tuple(sorted(report.hedged)), "visit": patient.visit},
    )


def _drawn(spec: FindingSpec, mask: np.ndarray, mentioned: bool) -> Finding:
    grade = None if spec.entity in UNGRADED else spec.severity
    return PackedFinding(spec.entity, True, spec.side, spec.position, grade, mask, mentioned=mentioned)


@lru_cache(maxsize=512)
def _not_drawn(entity: str, present: bool | None, mentioned: bool) -> Finding:
    return Finding(entity, present, mentioned=mentioned)


def _make_study(number: int, *, seed: int, size: int, sampling: dict, writing: dict) -> Study:
    first = number - number % 2
    again = number % 2 == 1 and rng_for(seed, "visits", first).random() < SECOND_VISIT
    owner = first if again else number
    patient = sample_patient(seed * SEEDS_APART + owner, **sampling)
    if again:
        patient = follow_up(patient, entities=sampling["entities"], devices=sampling["devices"])
    return study_from_patient(
        patient,
        size=size,
        study_id=f"phantom-{seed}-{number:06d}",
        patient_id=f"phantom-{seed}-{owner:06d}",
        **writing,
    )

"""The papers' claims, by id, and what the records say of each: paired effect, controls, verdict.

The claims stand in ``data/<system>.yaml``, what they measure in ``data/measures.yaml``. Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medvlp_lite.evaluation.intervals import Interval, mean_ci
from medvlp_lite.records.measures import DATA, MEASURES
from medvlp_lite.records.record import RunRecord, load_record, results_folder
from medvlp_lite.records.statistics import (
    INCONCLUSIVE,
    SUPPORTED,
    VERDICTS,
    holm,
    p_value,
    smallest_detectable,
    verdict_after_holm,
    verdict_of,
)

TITLES = {"medklip": "MedKLIP", "maco": "MaCo", "medfilip": "MedFILIP", "mskpt": "MSK-PT"}  # systems, in their order
NOT_RUN, NO_CONTROL, CONTROL_FAILED, COLLAPSED = "not run yet", "no control yet", "control failed", "collapsed"
SIGNS = {
    **dict(zip(VERDICTS, "▶◀■●")), COLLAPSED: "◇", CONTROL_FAILED: "✕", NO_CONTROL: "○", NOT_RUN: "–",
}  # fmt: skip
"""What can be printed of a claim, each with a shape of its own."""


@dataclass(frozen=True)
class Comparison:
    """Is a measure larger in the row ``treatment`` than in the row ``baseline``? Both may be one row, measured in two ways."""

    baseline: str
    treatment: str
    measure: str
    baseline_measure: str

    def effect(self, records: Mapping[str, RunRecord]) -> Effect:
        """The difference by seed, from records by row. Raises LookupError saying which record is missing or does not fit."""
        rows = [self.baseline, self.treatment]
        if missing := [row for row in dict.fromkeys(rows) if row not in records]:
            raise LookupError(f"a record of {' and '.join(missing)}")
        before, after = (records[row] for row in rows)
        if before.data != after.data:
            raise LookupError(f"{self.baseline} and {self.treatment} on the same data")
        pairs = [
            (one, two) for two in after.metrics["runs"] for one in before.metrics["runs"] if one["seed"] == two["seed"]
        ]
        try:
            old = [MEASURES[self.baseline_measure].read(one, two) for one, two in pairs]
            new = [MEASURES[self.measure].read(two, one) for one, two in pairs]
        except KeyError as error:
            raise LookupError(f"{error.args[0]!r} in the records of {' and '.join(dict.fromkeys(rows))}") from error
        return Effect(tuple(two["seed"] for _, two in pairs), tuple(old), tuple(new))


@dataclass(frozen=True)
class Effect:
    """A measure of baseline and treatment for every seed that both have."""

    seeds: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def differences(self) -> np.ndarray:
        """Treatment minus baseline, by seed."""
        return np.subtract(self.after, self.before)

    @property
    def interval(self) -> Interval:
        """The mean difference with its 95 % interval; NaN bounds for one seed."""
        return mean_ci(self.differences)

    @property
    def detectable(self) -> float:
        """The smallest true difference that this many seeds of this spread find in 80 % of cases."""
        n = len(self.seeds)
        return smallest_detectable(float(self.differences.std(ddof=1)), n) if n > 1 else math.nan


@dataclass(frozen=True)
class Claim:
    """One claim of a paper. ``comparison`` is oriented in the paper's direction; None where no row can answer it yet.

    ``paper`` holds the paper's value of baseline and treatment where it printed them in the same measure, ``paper_text`` what
    it says else; ``source`` says where. ``setting`` is "paper's" or "ours". In ``positive`` the effect must appear, in
    ``negative`` it must not. ``needs`` says what has to be run, ``limits`` what the comparison cannot tell.
    """

    id: str
    chapter: str
    statement: str
    comparison: Comparison | None
    setting: str
    paper: tuple[float, float] | None = None
    paper_text: str = ""
    source: str = ""
    positive: Comparison | None = None
    negative: Comparison | None = None
    needs: str = ""
    limits: str = ""

    @property
    def system(self) -> str:
        """The first part of the id: the family within which Holm's correction counts."""
        return self.id.split(".")[0]

    @property
    def delta(self) -> float:
        """The smallest difference that matters, by the kind of the measure; NaN where none is named."""
        return MEASURES[self.comparison.measure].delta if self.comparison else math.nan


def read_claims(path: Path) -> list[Claim]:
    """The claims of one system's file. Raises ValueError naming the claim for a field that is unknown, missing or of no use."""
    shared = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = shared.pop("claims")
    return [_claim(f"{path.stem}.{name}", {**shared, **fields}) for name, fields in rows.items()]


def _claim(name: str, fields: dict[str, Any]) -> Claim:
    parts = {key: fields.pop(key, None) for key in ("baseline", "treatment", "measure", "baseline_measure")}
    controls = {key: fields.pop(key, None) for key in ("positive", "negative")}
    try:
        own = _comparison(parts) if parts["treatment"] else None
        controls = {
            key: _comparison({**parts, "baseline_measure": None, **value}) for key, value in controls.items() if value
        }
        paper = fields.pop("paper", None)
        made = Claim(name, comparison=own, **controls, paper=paper and tuple(map(float, paper)), **fields)
        if made.setting not in ("paper's", "ours") or not (made.comparison or made.needs):
            raise ValueError('its setting must be "paper\'s" or "ours", and it names two rows or says what it needs')
        return made
    except (TypeError, ValueError) as error:
        raise ValueError(f"claim {name}: {error}") from error


def _comparison(parts: dict[str, str | None]) -> Comparison:
    found = Comparison(**{**parts, "baseline_measure": parts["baseline_measure"] or parts["measure"]})
    for measure in (found.measure, found.baseline_measure):
        if measure not in MEASURES:
            raise ValueError(f"no measure {measure!r}; use one of {', '.join(MEASURES)}")
    if not found.baseline:
        raise ValueError("it names a treatment but no baseline")
    return found


@dataclass(frozen=True)
class Result:
    """What the records say of a claim. Without an effect, ``missing`` says what has to be run."""

    claim: Claim
    effect: Effect | None = None
    missing: str = ""
    positive: str = ""  # verdict on the positive control; "" where there is none
    negative: str = ""
    collapsed: tuple[str, ...] = ()  # rows with a class that is hardly ever answered
    converged: bool | None = None  # None: a record has no validation curve
    confirmation: bool = False
    holm_p: float = math.nan

    @property
    def interval(self) -> Interval:
        """The effect with its 95 % interval, in the paper's direction; NaN where nothing was run."""
        return self.effect.interval if self.effect else Interval(math.nan, math.nan, math.nan)

    @property
    def raw(self) -> str:
        """The verdict of the interval alone, whatever the controls say; "" where nothing was run."""
        return verdict_of(self.interval, self.claim.delta) if self.effect else ""

    @property
    def after_holm(self) -> str:
        """The same when differences count only after Holm's correction within the system's claims."""
        return verdict_after_holm(self.interval, self.claim.delta, self.holm_p) if self.effect else ""

    @property
    def verdict(self) -> str:
        """What is printed: the raw verdict where controls hold and no row has collapsed, else why there is none.

        One draw decides nothing, not even about a control.
        """
        if not self.effect:
            return NOT_RUN
        if len(self.effect.seeds) < 2:
            return INCONCLUSIVE
        if not self.positive:
            return NO_CONTROL
        if self.positive != SUPPORTED or self.negative == SUPPORTED:
            return CONTROL_FAILED
        return COLLAPSED if self.collapsed else self.raw

    @property
    def badge(self) -> str:
        """The verdict as HTML that links to the claim's row of the ledger."""
        return (
            f'<a class="verdict" data-verdict="{self.verdict}" href="reproduction.html#{self.claim.id}">'
            f"{SIGNS[self.verdict]} {self.verdict}</a>"
        )

    @property
    def sentence(self) -> str:
        """One sentence for a chapter: statement, verdict, values."""
        if not self.effect:
            return f"{self.claim.statement}: {NOT_RUN} (needs {self.missing})."
        before, after = np.mean(self.effect.before), np.mean(self.effect.after)
        return (
            f"{self.claim.statement}: {self.verdict}. {self.claim.comparison.measure} {before:.3f} to {after:.3f}, "
            f"difference {self.interval} over {len(self.effect.seeds)} seeds."
        )


def assess(claim: Claim, records: Mapping[str, RunRecord]) -> Result:
    """A claim before the records by row, Holm's correction still to come."""
    if claim.comparison is None:
        return Result(claim, missing=claim.needs)
    try:
        effect = claim.comparison.effect(records)
    except LookupError as error:
        return Result(claim, missing=claim.needs or str(error.args[0]))
    rows = [records[row] for row in dict.fromkeys((claim.comparison.baseline, claim.comparison.treatment))]
    fitted = [record.converged for record in rows]
    return Result(
        claim, effect,
        positive=_control(claim.positive, records), negative=_control(claim.negative, records),
        collapsed=tuple(record.name for record in rows if record.collapsed),
        converged=False if False in fitted else None if None in fitted else True,
        confirmation=all(record.confirmation for record in rows),
    )  # fmt: skip


def _control(comparison: Comparison | None, records: Mapping[str, RunRecord]) -> str:
    """The verdict on a control; "" where there is none or its rows are missing."""
    if comparison is None:
        return ""
    try:
        return verdict_of(comparison.effect(records).interval, MEASURES[comparison.measure].delta)
    except LookupError:
        return ""


def assess_all(claims: Sequence[Claim], records: Mapping[str, RunRecord]) -> list[Result]:
    """All claims before the records, with Holm's correction within each system over all comparisons that were made."""
    found = [assess(claim, records) for claim in claims]
    for system in dict.fromkeys(result.claim.system for result in found):
        family = [i for i, result in enumerate(found) if result.claim.system == system]
        tested = [p_value(found[i].effect.differences) if found[i].effect else math.nan for i in family]
        for i, p in zip(family, holm(tested)):
            found[i] = replace(found[i], holm_p=p)
    return found


@lru_cache(maxsize=4)
def results(profile: str = "long", folder: Path | None = None) -> dict[str, Result]:
    """Every claim by id, before the records of a profile in a folder (by default the committed ones).

    A record of an earlier revision, made on other phantoms or measured in another way, decides no claim.
    """
    files = sorted((folder or results_folder()).glob(f"*-{profile}.json"))
    known = [record for record in map(RunRecord.load, files) if record.of_today]
    records = {record.name: record for record in known}
    claims = [claim for system in TITLES for claim in read_claims(DATA / f"{system}.yaml")]
    return {result.claim.id: result for result in assess_all(claims, records)}


def result(id: str) -> Result:
    """What the committed records say of a claim. Raises ValueError naming similar ids for one that does not exist."""
    from difflib import get_close_matches

    if id not in results():
        near = get_close_matches(id, results(), n=3, cutoff=0.3)
        raise ValueError(f"no claim {id!r}; did you mean {', '.join(near) or 'another'}?")
    return results()[id]


def over_seeds(row: str, measure: str) -> Interval:
    """A measure's mean over the seeds of a committed record with its 95 % interval. Raises ValueError for an unknown row or measure."""
    record = load_record(row)
    if record is None or measure not in MEASURES:
        raise ValueError(f"no committed record of {row!r}" if record is None else f"no measure {measure!r}")
    return mean_ci([MEASURES[measure].read(run) for run in record.metrics["runs"]])

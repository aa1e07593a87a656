"""How well the report filter reads: against the human MeSH coding of Open-i, and on phantom reports, whose truth is known.

Demner-Fushman et al. (JAMIA 2016) had two people code each report with MeSH and RadLex terms, ``Head/qualifier/...``.
``data/scoring.json`` says, by the meaning of the terms, which of the fifteen heads each one stands for.
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from medvlp_lite.reports.filter import mentions
from medvlp_lite.reports.sentence import Mention
from medvlp_lite.reports.vocabulary import read_data
from medvlp_lite.studies import Finding, Study

WORDS = read_data("scoring")
MESH_HEADS: dict[str, list[str]] = WORDS["mesh"]
CONCEPT_HEADS: dict[str, list[str]] = WORDS["concepts"]
HEADS = tuple(dict.fromkeys(heads[0] for heads in MESH_HEADS.values()))
BASELINE = {head: re.compile(pattern, re.IGNORECASE) for head, pattern in WORDS["baseline"].items()}
DENIED = re.compile(WORDS["denied"], re.IGNORECASE)
SIDES = {"left": ("left",), "right": ("right",), "bilateral": ("left", "right")}
GRADES = {
    **{grade: grade for grade in ("mild", "moderate", "severe", "borderline")},
    "small": "mild",
    "large": "severe",
}


class Code(NamedTuple):
    """What is said of one head in one report: the patient's sides, and the grades."""

    sides: frozenset[str] = frozenset()
    grades: frozenset[str] = frozenset()


Codes = dict[str, Code]


def _add(codes: Codes, head: str, words: Iterable[str]) -> None:
    """Note the sides and grades among ``words`` for one head; a size counts as a grade."""
    known, words = codes.get(head, Code()), list(words)
    sides = {side for word in words for side in SIDES.get(word, ())}
    codes[head] = Code(known.sides | sides, known.grades | {GRADES[word] for word in words if word in GRADES})


def mesh_codes(terms: Iterable[str]) -> Codes:
    """The heads that human MeSH terms such as ``Opacity/lung/base/left/mild`` stand for, with sides and grades.

    Sizes count as grades: small is mild, large is severe.
    """
    codes: Codes = {}
    for term in terms:
        name, *qualifiers = (part.strip().lower() for part in term.split("/"))
        if name == "osteophyte" and {"shoulder", "humerus"} & set(qualifiers):
            continue
        for key in (name, *(f"{name}/{word}" for word in qualifiers)):
            for head in MESH_HEADS.get(key, ()):
                _add(codes, head, qualifiers)
    return codes


def counts(mention: Mention) -> bool:
    """Whether a mention counts as coded.

    The coders code what is stated or called likely, and both of two alternatives ("scarring versus atelectasis"), but as a rule
    not a mere possibility ("may represent"); seen on the tuning half, and used for filter and baseline alike.
    """
    return (mention.present is True or mention.strength == "alternative") and mention.site != "limb"


def filter_codes(report: str) -> Codes:
    """The heads that the report filter finds in a report, with sides and grades."""
    codes: Codes = {}
    for mention in filter(counts, mentions(report)):
        for head in CONCEPT_HEADS.get(mention.concept, ()):
            _add(codes, head, (mention.side or "", mention.severity or ""))
    return codes


def baseline_codes(report: str) -> Codes:
    """The same from one regular expression per head: a word counts unless a negation or hedge stands before it.

    Sides and grades are those anywhere in the sentence.
    """
    codes: Codes = {}
    for sentence in re.split(r"(?<!\d)[.;]|\n", report):
        words = {word.removesuffix("ly") for word in re.findall(r"[a-z]+", sentence.lower())}
        for head, pattern in BASELINE.items():
            match = pattern.search(sentence)
            if match and not DENIED.search(sentence[: match.start()]):
                _add(codes, head, words)
    return codes


def in_tuning_half(report_id: str, seed: int = 0) -> bool:
    """Whether a report belongs to the half that rules may be tuned on; depends on its id and the seed only."""
    return hashlib.sha256(f"{seed}/{report_id}".encode()).digest()[0] % 2 == 0


@dataclass(frozen=True)
class Score:
    """Precision, recall, F1 and its bootstrap interval; ``support`` counts what the humans coded."""

    precision: float
    recall: float
    f1: float
    low: float
    high: float
    support: int


@dataclass(frozen=True)
class Evaluation:
    """Scores by head, over all heads (micro), and of side and severity where the humans coded one."""

    heads: dict[str, Score]
    micro: Score
    side: Score
    severity: Score
    reports: int


def _tally(gold: Iterable, found: Iterable) -> np.ndarray:
    """True positives, false positives and misses."""
    gold, found = set(gold), set(found)
    return np.array([len(gold & found), len(found - gold), len(gold - found)], dtype=float)


def _score(counts: np.ndarray, weights: np.ndarray) -> Score:
    """counts (R, 3) true positives, false positives, misses per report; weights (B, R) bootstrap multiplicities."""
    hit, extra, missed = (int(value) for value in counts.sum(axis=0))
    samples = weights @ counts
    f1 = 2 * samples[:, 0] / np.maximum(2 * samples[:, 0] + samples[:, 1] + samples[:, 2], 1)
    low, high = np.percentile(f1, (2.5, 97.5)) if len(f1) else (np.nan, np.nan)
    shares = ((hit, hit + extra), (hit, hit + missed), (2 * hit, 2 * hit + extra + missed))
    return Score(*(part / whole if whole else np.nan for part, whole in shares), float(low), float(high), hit + missed)


def evaluate(
    reports: Sequence[str],
    terms: Sequence[Iterable[str]],
    reader: Callable[[str], Codes] = filter_codes,
    *,
    bootstraps: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Compare ``reader`` with human MeSH terms, one list of terms per report; intervals resample reports.

    A head counts once per report. Side and severity are compared for the heads to which the humans gave one, missed heads
    included. Raises ValueError if the lists differ in length or are empty.
    """
    if len(reports) != len(terms) or not reports:
        found = f"{len(reports)} reports and {len(terms)} lists"
        raise ValueError(f"evaluate needs one list of terms per report, got {found}")
    heads = np.zeros((len(reports), len(HEADS), 3))
    sides, grades = np.zeros((len(reports), 3)), np.zeros((len(reports), 3))
    for row, (report, coded) in enumerate(zip(reports, terms)):
        gold, found = mesh_codes(coded), reader(report)
        heads[row] = [_tally({head} & gold.keys(), {head} & found.keys()) for head in HEADS]
        for head, code in gold.items():
            said = found.get(head, Code())
            sides[row] += _tally(code.sides, said.sides) if code.sides else 0
            grades[row] += _tally(code.grades, said.grades) if code.grades else 0
    resample = np.random.default_rng(seed).multinomial
    weights = resample(len(reports), np.full(len(reports), 1 / len(reports)), size=bootstraps).astype(float)
    by_head = {head: _score(heads[:, column], weights) for column, head in enumerate(HEADS)}
    micro = _score(heads.sum(axis=1), weights)
    return Evaluation(by_head, micro, _score(sides, weights), _score(grades, weights), len(reports))


class Share(NamedTuple):
    """How many of ``total`` were ``right``."""

    right: int
    total: int

    @property
    def rate(self) -> float:
        """right / total, NaN if there were none."""
        return self.right / self.total if self.total else float("nan")


def truth_shares(studies: Iterable[Study]) -> dict[str, dict[str, Share]]:
    """What the filter gets right in reports whose truth is known, by aspect and entity.

    "exist": mentioned findings read as present, absent or (where the report hedges) uncertain; "side" and "severity" of the
    present ones; "silent": unmentioned findings of which nothing is read. ``Study.meta["hedged"]`` names what is hedged.
    """
    tally: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for study in studies:
        said: dict[str, list[Mention]] = defaultdict(list)
        for mention in mentions(study.report):
            said[WORDS["phantom"].get(mention.concept, mention.concept)].append(mention)
        for finding in study.findings:
            hedged = finding.entity in study.meta.get("hedged", ())
            for aspect, right in _compare(finding, said[finding.entity], hedged).items():
                tally[aspect][finding.entity].append(right)
    return {
        aspect: {entity: Share(sum(marks), len(marks)) for entity, marks in sorted(rows.items())}
        for aspect, rows in tally.items()
    }


def _compare(finding: Finding, said: list[Mention], hedged: bool) -> dict[str, bool]:
    if not finding.mentioned:
        return {"silent": all(mention.implied for mention in said)}
    states = {mention.present for mention in said}
    read = next((state for state in (True, None, False) if state in states), "nothing")
    marks = {"exist": read == (None if hedged else finding.present)}
    stated = [mention for mention in said if mention.present is not False]
    if finding.present and stated:
        if finding.side:
            marks["side"] = {mention.side for mention in stated} - {None} == {finding.side}
        if finding.severity:
            marks["severity"] = {mention.severity for mention in stated} - {None} == {finding.severity}
    return marks

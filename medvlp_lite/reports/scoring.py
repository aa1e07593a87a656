"""How well the report filter reads: precision, recall and F1 against the human MeSH coding of Open-i.

Demner-Fushman et al. (JAMIA 2016) had two people code each report with MeSH and RadLex terms, ``Head/qualifier/...``.
MESH_HEADS says, by the meaning of the terms, which of the fifteen heads each one stands for.
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from medvlp_lite.reports.filter import Mention, mentions
from medvlp_lite.studies import Study

MESH_HEADS: dict[str, str] = {  # MeSH term, or term/qualifier, lower case -> head
    "cardiomegaly": "cardiomegaly",
    "cardiac shadow/enlarged": "cardiomegaly",
    "cardiac shadow/borderline": "cardiomegaly",
    "heart/enlarged": "cardiomegaly",
    "pleural effusion": "effusion",
    "costophrenic angle/blunted": "effusion",
    "sulcus/blunted": "effusion",
    "pleura/blunted": "effusion",
    "hydropneumothorax": "effusion",
    "pulmonary atelectasis": "atelectasis",
    "pneumothorax": "pneumothorax",
    "nodule": "nodule",
    "granuloma": "granuloma",
    "calcified granuloma": "granuloma",
    "granulomatous disease": "granuloma",
    "calcinosis": "granuloma",
    "pulmonary edema": "edema",
    "pulmonary congestion": "edema",
    "heart failure": "edema",
    "consolidation": "consolidation",
    "airspace disease": "consolidation",
    "infiltrate": "consolidation",
    "pneumonia": "consolidation",
    "opacity": "opacity",
    "density": "opacity",
    "emphysema": "emphysema",
    "pulmonary emphysema": "emphysema",
    "bullous emphysema": "emphysema",
    "blister": "emphysema",
    "pulmonary disease, chronic obstructive": "emphysema",
    "lung/hyperdistention": "hyperinflation",
    "cicatrix": "scar",
    "pulmonary fibrosis": "scar",
    "fractures, bone": "fracture",
    "spine/degenerative": "degenerative spine",
    "thoracic vertebrae/degenerative": "degenerative spine",
    "lumbar vertebrae/degenerative": "degenerative spine",
    "cervical vertebrae/degenerative": "degenerative spine",
    "spondylosis": "degenerative spine",
    "osteophyte": "degenerative spine",
    "arthritis/spine": "degenerative spine",
    "hernia, hiatal": "hiatal hernia",
}
ALSO = {"hydropneumothorax": "pneumothorax"}
CONCEPT_HEADS: dict[str, tuple[str, ...]] = {  # the filter's concept -> head
    "cardiomegaly": ("cardiomegaly",),
    "effusion": ("effusion",),
    "blunting": ("effusion",),
    "hydropneumothorax": ("effusion", "pneumothorax"),
    "atelectasis": ("atelectasis",),
    "collapse": ("atelectasis",),
    "pneumothorax": ("pneumothorax",),
    "nodule": ("nodule",),
    "granuloma": ("granuloma",),
    "calcification": ("granuloma",),
    "edema": ("edema",),
    "congestion": ("edema",),
    "engorgement": ("edema",),
    "chf": ("edema",),
    "consolidation": ("consolidation",),
    "airspace disease": ("consolidation",),
    "infiltrate": ("consolidation",),
    "pneumonia": ("consolidation",),
    "opacity": ("opacity",),
    "nodular opacity": ("opacity",),
    "ground-glass opacity": ("opacity",),
    "density": ("opacity",),
    "emphysema": ("emphysema",),
    "copd": ("emphysema",),
    "hyperinflation": ("hyperinflation",),
    "scar": ("scar",),
    "fibrosis": ("scar",),
    "fracture": ("fracture",),
    "degenerative spine": ("degenerative spine",),
    "hiatal hernia": ("hiatal hernia",),
}
HEADS = tuple(dict.fromkeys(MESH_HEADS.values()))
SIDES = {"left": ("left",), "right": ("right",), "bilateral": ("left", "right")}
GRADES = {"mild": "mild", "moderate": "moderate", "severe": "severe", "borderline": "borderline"}
SIZES = {"small": "mild", "large": "severe"}


class Code(NamedTuple):
    """What is said of one head in one report: the patient's sides, and the grades."""

    sides: frozenset[str] = frozenset()
    grades: frozenset[str] = frozenset()


Codes = dict[str, Code]


def _merge(codes: Codes, head: str, sides: Iterable[str], grades: Iterable[str]) -> None:
    known = codes.get(head, Code())
    codes[head] = Code(known.sides | set(sides), known.grades | set(grades))


def mesh_codes(terms: Iterable[str]) -> Codes:
    """The heads that human MeSH terms such as ``Opacity/lung/base/left/mild`` stand for, with sides and grades.

    Sizes count as grades: small is mild, large is severe.
    """
    codes: Codes = {}
    for term in terms:
        name, *qualifiers = (part.strip().lower() for part in term.split("/"))
        sides = [side for word in qualifiers for side in SIDES.get(word, ())]
        grades = [grade for word in qualifiers if (grade := GRADES.get(word) or SIZES.get(word))]
        if name == "osteophyte" and {"shoulder", "humerus"} & set(qualifiers):
            continue
        heads = [MESH_HEADS.get(name), ALSO.get(name), *(MESH_HEADS.get(f"{name}/{word}") for word in qualifiers)]
        for head in dict.fromkeys(head for head in heads if head):
            _merge(codes, head, sides, grades)
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
    for mention in mentions(report):
        if counts(mention):
            for head in CONCEPT_HEADS.get(mention.concept, ()):
                _merge(codes, head, SIDES.get(mention.side or "", ()), [mention.severity] if mention.severity else [])
    return codes


BASELINE = {
    "cardiomegaly": r"cardiomegaly|enlarged (heart|cardiac)|(heart|cardiac silhouette)[^.]*enlarge|enlarge[^.]*(heart|cardiac)",
    "effusion": r"effusion|blunt(ed|ing)|pleural fluid",
    "atelectasis": r"atelecta|collapse",
    "pneumothorax": r"pneumothora",
    "nodule": r"nodul",
    "granuloma": r"granuloma|calcifi",
    "edema": r"o?edema|congesti|heart failure|\bchf\b",
    "consolidation": r"consolidat|air ?space disease|infiltrat|pneumonia",
    "opacity": r"opaci|densit",
    "emphysema": r"emphysem|\bcopd\b|obstructive|bulla|bleb",
    "hyperinflation": r"hyper ?-?(inflat|expan|aerat)|overinflat",
    "scar": r"scar|fibro(sis|tic)",
    "fracture": r"fracture",
    "degenerative spine": r"degenerat|spondyl|osteophyt|spurring",
    "hiatal hernia": r"hiat(al|us) hernia",
}
_BASELINE = {head: re.compile(pattern, re.IGNORECASE) for head, pattern in BASELINE.items()}
_DENIED = re.compile(
    r"\b(no|not|without|free of|clear of|negative for|may|might|could|possible|possibly|suggest\w*|question\w*|exclude)\b"
    r"(?!.*\b(but|however|there (is|are))\b)",
    re.IGNORECASE,
)


def baseline_codes(report: str) -> Codes:
    """The same from one regular expression per head: a word counts unless a negation or hedge stands before it.

    Sides and grades are those anywhere in the sentence.
    """
    codes: Codes = {}
    for sentence in re.split(r"(?<!\d)[.;]|\n", report):
        words = set(re.findall(r"[a-z]+", sentence.lower()))
        sides = [side for word in words & SIDES.keys() for side in SIDES[word]]
        grades = [grade for word in words if (grade := (GRADES | SIZES).get(word.removesuffix("ly")))]
        for head, pattern in _BASELINE.items():
            match = pattern.search(sentence)
            if match and not _DENIED.search(sentence[: match.start()]):
                _merge(codes, head, sides, grades)
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


def _tally(gold: set, found: set) -> tuple[int, int, int]:
    both = len(gold & found)
    return both, len(found) - both, len(gold) - both


def _score(counts: np.ndarray, weights: np.ndarray) -> Score:
    """counts (R, 3) true positives, false positives, misses per report; weights (B, R) bootstrap multiplicities."""
    hit, extra, missed = (int(value) for value in counts.sum(axis=0))
    samples = weights @ counts
    f1 = 2 * samples[:, 0] / np.maximum(2 * samples[:, 0] + samples[:, 1] + samples[:, 2], 1)
    low, high = np.percentile(f1, (2.5, 97.5)) if len(f1) else (float("nan"), float("nan"))
    precision = hit / (hit + extra) if hit + extra else float("nan")
    recall = hit / (hit + missed) if hit + missed else float("nan")
    total = 2 * hit + extra + missed
    return Score(precision, recall, 2 * hit / total if total else float("nan"), float(low), float(high), hit + missed)


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
        raise ValueError(
            f"evaluate needs one list of terms per report, got {len(reports)} reports and {len(terms)} lists"
        )
    head_counts = np.zeros((len(reports), len(HEADS), 3))
    side_counts, grade_counts = np.zeros((len(reports), 3)), np.zeros((len(reports), 3))
    for row, (report, coded) in enumerate(zip(reports, terms)):
        gold, found = mesh_codes(coded), reader(report)
        for column, head in enumerate(HEADS):
            head_counts[row, column] = _tally({head} & gold.keys(), {head} & found.keys())
        for head, code in gold.items():
            said = found.get(head, Code())
            if code.sides:
                side_counts[row] += _tally(set(code.sides), set(said.sides))
            if code.grades:
                grade_counts[row] += _tally(set(code.grades), set(said.grades))
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(reports), np.full(len(reports), 1 / len(reports)), size=bootstraps).astype(
        float
    )
    return Evaluation(
        heads={head: _score(head_counts[:, column], weights) for column, head in enumerate(HEADS)},
        micro=_score(head_counts.sum(axis=1), weights),
        side=_score(side_counts, weights),
        severity=_score(grade_counts, weights),
        reports=len(reports),
    )


def evaluate_studies(
    studies: Sequence[Study], reader: Callable[[str], Codes] = filter_codes, *, bootstraps: int = 1000, seed: int = 0
) -> Evaluation:
    """``evaluate`` on Open-i studies as their source loads them, with the human terms in ``meta["mesh"]``.

    Raises ValueError naming the first study without human coding.
    """
    for study in studies:
        if "mesh" not in study.meta:
            raise ValueError(f"study {study.study_id} from {study.source} has no human MeSH coding; use Open-i studies")
    terms = [[row["raw"] for row in study.meta["mesh"]] for study in studies]
    return evaluate([study.report for study in studies], terms, reader, bootstraps=bootstraps, seed=seed)

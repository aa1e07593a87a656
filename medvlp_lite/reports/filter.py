"""The report filter: free text to triplets, in one pass over sections and sentences (equations K-3 and F-1).

Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from medvlp_lite.reports.lexicon import load
from medvlp_lite.reports.sections import report_text, sections, sentences
from medvlp_lite.reports.sentence import Mention, anaphoric, read_sentence
from medvlp_lite.reports.vocabulary import landmarks, vocabulary
from medvlp_lite.studies import Triplet

UNCERTAIN = {"unknown": None, "present": True, "absent": False}
ANAPHOR = re.compile(r"\s*(?:this|these|it|they|(?:the )?(?:appearance|finding|findings))\b", re.IGNORECASE)


def mentions(report: str | None) -> list[Mention]:
    """Every finding that a report names, in order, with side, zone, severity, change, cues and character offsets.

    A missing report (None or NaN) names none. Raises TypeError on anything else that is no string.
    """
    report = report_text(report)
    out: list[Mention] = []
    previous: Mention | None = None
    for start, end in sections(report):
        for first, last in sentences(report, start, end):
            found = read_sentence(report[first:last])
            antecedent = previous if found and ANAPHOR.match(report, first, last) else None
            for mention in found:
                if antecedent and mention.present is not False:
                    mention = anaphoric(mention, antecedent)
                out.append(mention.within(first, last))
                if mention.present is not False and mention.category:
                    previous = mention
    return out


def uncertain_state(uncertain: str) -> bool | None:
    """What a hedged finding becomes: None for "unknown" (as MedKLIP leaves it), True for "present", False for "absent".

    Raises ValueError on another word.
    """
    if uncertain not in UNCERTAIN:
        raise ValueError(f"uncertain must be one of {sorted(UNCERTAIN)}, got {uncertain!r}")
    return UNCERTAIN[uncertain]


def triplets_of(mention: Mention, present: bool | None, span: tuple[int, int] | None) -> Iterator[Triplet]:
    """One triplet per landmark of a mention: a bilateral effusion gives left_pleural and right_pleural."""
    said = (mention.severity, mention.side, mention.location, mention.category or None)
    for position in landmarks(mention.site, mention.zone, mention.side):
        yield Triplet(mention.concept, position, present, *said, span)


class ReportFilter:
    """Free text to triplets (equations K-3 and F-1); ``uncertain``: see ``uncertain_state``.

    Its methods raise TypeError on what is no report, as ``mentions`` does.
    """

    def __init__(self, uncertain: str = "unknown"):
        self.unsure = uncertain_state(uncertain)

    def extract(self, report: str | None) -> list[Triplet]:
        """The triplets of every mention, also of what a normal structure excludes ("heart size is normal")."""
        states = ((m, self.unsure if m.present is None else m.present) for m in mentions(report))
        return [triplet for m, present in states for triplet in triplets_of(m, present, m.span)]

    __call__ = extract


def extract(report: str | None, uncertain: str = "unknown") -> list[Triplet]:
    """Triplets of a report; see ReportFilter."""
    return ReportFilter(uncertain).extract(report)


def entity_of(name: str) -> str:
    """The one of MedKLIP's 75 entities that stands for a finding; "tail_abnorm_obs" when there is none of its own."""
    if name in vocabulary()["entities"]:
        return name
    concept = load().concepts.get(name)
    return concept.entity if concept else "tail_abnorm_obs"


def adjacency(triplets: Iterable[Triplet], entities: Sequence[str] | None = None) -> np.ndarray:
    """Equation K-3's label matrix, (51, 75) float: 1 stated present, 0 stated absent, NaN not mentioned or uncertain.

    Rows are positions, columns ``entities`` (default: the 75), in MedKLIP's order; one present statement outweighs absent
    ones. A finding without a column of its own name counts for its one of the 75, if that has a column.
    """
    words = vocabulary()
    rows = {name: i for i, name in enumerate(words["positions"])}
    columns = {name: i for i, name in enumerate(words["entities"] if entities is None else entities)}
    matrix = np.full((len(rows), len(columns)), np.nan)
    for triplet in triplets:
        column = columns.get(triplet.entity, columns.get(entity_of(triplet.entity)))
        if triplet.present is not None and column is not None:
            cell = rows.get(triplet.position, rows["other"]), column
            matrix[cell] = np.fmax(matrix[cell], float(triplet.present))
    return matrix


def entity_labels(matrix: np.ndarray) -> np.ndarray:
    """(51, 75) -> (75,): 1 if any position is 1, else 0 if any is 0, else NaN (equation K-3)."""
    return np.fmax.reduce(matrix, axis=0)

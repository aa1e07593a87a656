"""How well the report filter reads phantom reports, whose truth is known exactly.

Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from medvlp_lite.reports.filter import mentions
from medvlp_lite.reports.sentence import Mention
from medvlp_lite.studies import Finding, Study

SAME_FINDING = {  # how reports word a finding -> the phantom's entity
    "airspace disease": "consolidation",
    "infiltrate": "consolidation",
    "nodular opacity": "nodule",
    "blunting": "effusion",
}


class Share(NamedTuple):
    """How many of ``total`` were ``right``."""

    right: int
    total: int

    @property
    def rate(self) -> float:
        """right / total, NaN if there were none."""
        return self.right / self.total if self.total else float("nan")


def truth_shares(studies: Iterable[Study]) -> dict[str, dict[str, Share]]:
    """What the filter gets right, by aspect and entity.

    "exist": mentioned findings read as present, absent or (where the report hedges) uncertain; "side" and "severity" of the
    present ones; "silent": unmentioned findings of which nothing is read. ``Study.meta["hedged"]`` names what is hedged.
    """
    tally: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for study in studies:
        said: dict[str, list[Mention]] = defaultdict(list)
        for mention in mentions(study.report):
            said[SAME_FINDING.get(mention.concept, mention.concept)].append(mention)
        for finding in study.findings:
            _compare(finding, said[finding.entity], finding.entity in study.meta.get("hedged", ()), tally)
    return {
        aspect: {entity: Share(sum(marks), len(marks)) for entity, marks in sorted(rows.items())}
        for aspect, rows in tally.items()
    }


def _compare(finding: Finding, said: list[Mention], hedged: bool, tally: dict[str, dict[str, list[bool]]]) -> None:
    if not finding.mentioned:
        tally["silent"][finding.entity].append(all(mention.implied for mention in said))
        return
    states = {mention.present for mention in said}
    read = True if True in states else None if None in states else False if states else "nothing"
    tally["exist"][finding.entity].append(read == (None if hedged else finding.present))
    stated = [mention for mention in said if mention.present is not False]
    if finding.present and stated:
        if finding.side:
            sides = {mention.side for mention in stated} - {None}
            tally["side"][finding.entity].append(sides == {finding.side})
        if finding.severity:
            grades = {mention.severity for mention in stated} - {None}
            tally["severity"][finding.entity].append(grades == {finding.severity})

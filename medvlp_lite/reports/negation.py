"""Scope rules: is a finding asserted, denied, or only considered?

The rules follow NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009): a cue governs what follows (or precedes) it
up to the end of its clause; a pseudo-cue ("no change in") governs nothing; a termination word ("but") ends the clause.

Why own rules and not medspaCy, negspaCy or spaCy, which implement the same two algorithms? Speed alone does not decide
it: with some twenty one-word terms, on one core, negspaCy 1.0 on a blank spaCy 3.7 pipeline read several thousand
reports per second and medspaCy 1.3's ConText about 1,500; benchmarks/report_filter_speed.py measures ours, with more than
600 finding phrases, lemmas, sides and grades. What decides it is scope: negspaCy takes "no pneumothorax, stable effusion"
and "no effusion and the heart is enlarged with edema" as all denied, "clear of infiltrate" as present, and knows no
hedges. Commas that open a statement, alternatives ("scarring or atelectasis"), hedges of two strengths, gaps and words
run together would be custom rules on top of a compiled dependency. The rules below are small enough to read in a chapter.
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

from typing import NamedTuple

from medvlp_lite.reports.lexicon import Item, Token, load

OPENINGS = frozenset((",", "and", "with", ":"))
CONTRASTS = frozenset(("but", "however", "although", "though"))
PROCEDURES = frozenset(("status post", "s p"))
FRONTED = frozenset(("side", "zone", "site", "prepositions", "joint"))
SUBJECTS = frozenset(("finding", "observation", "site", "normal"))


class Status(NamedTuple):
    """``present`` True, False or None; the cue behind a negation or hedge; ``hypothetical``: history or advice, to ignore."""

    present: bool | None = True
    negation: str | None = None
    hedge: str | None = None
    strength: str | None = None
    hypothetical: bool = False


def clauses(items: list[Item], count: int) -> list[int]:
    """Token positions at which a new clause begins, the first always 0 and the last ``count``.

    A clause begins at a termination word, at a comma or "and" that opens a statement with its own verb ("no effusion, and
    the heart is enlarged"), and where a denied finding is followed by one with a grade or place ("no effusion, mild edema").
    The place in front of "there is" belongs to its clause.
    """
    starts = {0, count}
    seen_statement = negated = denied = False
    begun = 0
    for index, item in enumerate(items):
        kind = item.kind
        if kind == "stops":
            if item.value in CONTRASTS and not any(later.kind in SUBJECTS for later in items[index:]):
                continue
            if item.value.startswith("there ") and _only_place(items[begun:index]):
                continue
        elif kind == "joint" and seen_statement and item.value in OPENINGS:
            if not (denied and _opens_finding(items, index + 1)) and not _opens_statement(items, index):
                continue
        else:
            seen_statement = seen_statement or kind in ("verbs", "negation_before", "history")
            negated = negated or kind == "negation_before"
            denied = denied or (negated and kind == "finding")
            continue
        starts.add(item.first)
        begun = index
        seen_statement = negated = denied = False
    return sorted(starts)


def _only_place(items: list[Item]) -> bool:
    """Whether "there is" is preceded by its place alone: "in the right lung, there is consolidation"."""
    return all(item.kind in FRONTED and item.value != "with" for item in items)


def _opens_finding(items: list[Item], first: int) -> bool:
    """Whether a finding with a grade or place of its own begins at ``first``, not one more of a list of denied ones.

    A list that goes on to an "or" shares its negation; a large finding may be denied as such ("no mass, large effusion").
    """
    following = items[first : first + 5]
    if not following or following[0].kind not in ("grade", "side", "zone") or following[0].value == "severe":
        return False
    return any(item.kind == "finding" for item in following) and not _ends_with_or(items[first:])


def _ends_with_or(items: list[Item]) -> bool:
    for item in items:
        if item.kind in ("stops", "negation_before", "verbs"):
            return False
        if item.kind == "joint" and item.value == "or":
            return True
    return False


def _opens_statement(items: list[Item], index: int) -> bool:
    """Whether what follows the joint at ``index`` is a statement of its own: a subject and a verb before the next joint."""
    subject = False
    first = index + 1
    for position in range(first, len(items)):
        kind = items[position].kind
        if kind == "joint" or kind == "stops":
            return False
        if kind == "negation_before" and not subject:
            return True
        if kind == "normal" and subject and items[position - 1].kind == "site":
            return True
        if kind in ("finding", "observation", "site", "zone", "normal"):
            if kind == "normal" and position == first:
                return items[position].value not in ("clear", "free")
            subject = True
        elif kind == "change" and position == first:
            return True
        elif kind == "verbs" and subject:
            following = items[position + 1] if position + 1 < len(items) else None
            return following is None or following.kind != "passive"
    return False


def status(target: Item, clause: list[Item], sentence: list[Item]) -> Status:
    """The status of one finding from the cues of its clause; advice reaches over the whole sentence up to a contrast."""
    first, last = target.first, target.last
    for item in sentence:
        if item.first >= first:
            break
        if item.kind == "advice" and not _contrasted(item, target, sentence):
            return Status(present=None, hypothetical=True)
        if item.kind == "history" and item.first >= clause[0].first and not _after_history(item, target, clause):
            return Status(present=None, hypothetical=True)
    negation = hedge = strength = None
    joint = False
    for item in clause:
        kind = item.kind
        if item.last <= first:
            if kind == "negation_before":
                negation, hedge, strength, joint = item.value, None, None, False
            elif kind == "hedges":
                if negation is None or joint:
                    negation = None
                    if strength != "possible":
                        hedge, strength = item.value, _strength(item)
                joint = False
            elif kind == "normal" and item.last == first and item.value in ("clear", "free"):
                negation = item.value
            elif kind == "joint":
                joint = item.value in (",", "and", "with") or (joint and item.value == "or")
        elif item.first >= last:
            if kind == "negation_after" and negation is None:
                return Status(False, item.value)
            if kind == "normal" and item.value == "normal" and negation is None and _predicate(last, item, clause):
                return Status(False, item.value)
            if kind == "hedges_after" and _reaches(target, item, clause):
                hedge, strength = item.value, _strength(item)
            if kind == "finding" and _separate(last, item.first, clause):
                break
    if negation is not None:
        return Status(False, negation, hedge, strength)
    if hedge is not None:
        return Status(None if strength == "possible" else True, None, hedge, strength)
    return Status()


def _contrasted(advice: Item, target: Item, sentence: list[Item]) -> bool:
    """Whether the finding stands in a contrast to advice: "correlate for infection, but the effusion is new"."""
    between = [item for item in sentence if advice.last <= item.first < target.first and item.kind == "stops"]
    return any(item.value in CONTRASTS or item.value == "where" for item in between)


def _after_history(history: Item, target: Item, clause: list[Item]) -> bool:
    """Whether the finding is present although history came before: "status post surgery, small effusion"."""
    ends = ("with", ",", "and") if history.value in PROCEDURES else ("with",)
    between = [item for item in clause if history.last <= item.first < target.first]
    return any(item.kind == "joint" and item.value in ends for item in between)


def _strength(cue: Item) -> str:
    return "possible" if cue.value in load().possible else "probable"


def _reaches(target: Item, cue: Item, clause: list[Item]) -> bool:
    """A hedge after the finding reaches back over lists with "and" or "or", not over another verb phrase."""
    between = [item for item in clause if target.last <= item.first < cue.first]
    if any(item.kind == "hedges" for item in between):
        return False
    joints = [item.value for item in between if item.kind == "joint"]
    return not joints or joints[-1] in ("and", "or", "/", ")") or not any(item.kind == "finding" for item in between)


def _separate(start: int, end: int, clause: list[Item]) -> bool:
    """Whether a verb stands between two findings, so that what follows the second is not about the first."""
    return any(item.kind == "verbs" and start <= item.first < end for item in clause)


def _predicate(start: int, normal: Item, clause: list[Item]) -> bool:
    """Whether a finding is said to be normal: "vascular engorgement is within normal limits"."""
    between = [item.kind for item in clause if start <= item.first < normal.first]
    return "verbs" in between and set(between) <= {"verbs", "change", "grade"}


def alternatives(start: int, end: int, tokens: list[Token]) -> bool:
    """Whether the words between two findings offer them as alternatives: "scarring or atelectasis", "effusion vs thickening"."""
    return end - start <= 6 and any(tokens[i].lemma in ("or", "/", "versus", "vs") for i in range(start, end))


def versus(target: Item, tokens: list[Token], others: list[Item]) -> bool:
    """Whether a finding stands beside "versus", with none of the ``others`` between, whatever is on the other side."""
    window = range(max(0, target.first - 4), min(len(tokens), target.last + 4))
    marks = [i for i in window if tokens[i].lemma in ("versus", "vs")]
    return any(not any(min(i, target.first) < other.first < max(i, target.first) for other in others) for i in marks)

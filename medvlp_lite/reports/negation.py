"""Scope rules: is a finding asserted, denied, or only considered?

The rules follow NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009): a cue governs what follows (or precedes) it
up to the end of its clause; a pseudo-cue ("no change in") governs nothing; a termination word ("but") ends the clause.

Why not medspaCy or negspaCy, which implement the same two algorithms? Because of scope: negspaCy 1.0 takes "no pneumothorax,
stable effusion" and "no effusion and the heart is enlarged with edema" as all denied, "clear of infiltrate" as present, and
knows no hedges. Commas that open a statement, alternatives ("scarring or atelectasis"), hedges of two strengths, gaps and
words run together would be rules of our own on top of a compiled dependency. Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

from typing import NamedTuple

from medvlp_lite.reports.lexicon import Item, Token, between, load

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
    What stands before "there is" belongs to its clause if it is a place ("in the right lung, there is consolidation").
    """
    starts = {0, count}
    seen_statement = negated = denied = False
    begun = 0
    for index, item in enumerate(items):
        kind = item.kind
        if kind == "stops":
            if item.value in CONTRASTS and not any(later.kind in SUBJECTS for later in items[index:]):
                continue
            place = all(other.kind in FRONTED and other.value != "with" for other in items[begun:index])
            if place and item.value.startswith("there "):
                continue
        elif kind == "joint" and seen_statement and item.value in OPENINGS:
            following = items[index + 1 :]
            if not (denied and _opens_finding(following)) and not _opens_statement(following):
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


def _opens_finding(items: list[Item]) -> bool:
    """Whether a finding with a grade or place of its own begins here, not one more of a list of denied ones.

    A list that goes on to an "or" shares its negation; a large finding may be denied as such ("no mass, large effusion").
    """
    if not items or items[0].kind not in ("grade", "side", "zone") or items[0].value == "severe":
        return False
    ends = ("stops", "negation_before", "verbs")
    end = next((item for item in items if item.kind in ends or item[2:] == ("joint", "or")), None)
    shared = end is not None and end.value == "or"
    return not shared and any(item.kind == "finding" for item in items[:5])


def _opens_statement(items: list[Item]) -> bool:
    """Whether a statement of its own begins here: a subject and a verb before the next joint."""
    subject = False
    for position, (_, _, kind, value) in enumerate(items):
        if kind in ("joint", "stops"):
            return False
        if kind == "negation_before" and not subject:
            return True
        if kind == "normal" and subject and items[position - 1].kind == "site":
            return True
        if position == 0 and kind in ("normal", "change"):
            return value not in ("clear", "free")
        if kind == "verbs" and subject:
            return all(following.kind != "passive" for following in items[position + 1 : position + 2])
        subject = subject or kind in SUBJECTS or kind == "zone"
    return False


def status(target: Item, clause: list[Item], sentence: list[Item]) -> Status:
    """The status of one finding from the cues of its clause; advice reaches over the whole sentence up to a contrast."""
    first, last = target.first, target.last
    for item in between(sentence, 0, first):
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
            if kind == "normal" and item.value == "normal" and negation is None and _predicate(target, item, clause):
                return Status(False, item.value)
            if kind == "hedges_after" and _reaches(target, item, clause):
                hedge, strength = item.value, _strength(item)
            if kind == "finding" and any(other.kind == "verbs" for other in between(clause, last, item.first)):
                break  # what follows a second finding with its verb is not about the first
    if negation is not None:
        return Status(False, negation, hedge, strength)
    return Status(None if strength == "possible" else True, None, hedge, strength)


def _contrasted(advice: Item, target: Item, sentence: list[Item]) -> bool:
    """Whether the finding stands in a contrast to advice: "correlate for infection, but the effusion is new"."""
    stops = [item.value for item in between(sentence, advice.last, target.first) if item.kind == "stops"]
    return any(value in CONTRASTS or value == "where" for value in stops)


def _after_history(history: Item, target: Item, clause: list[Item]) -> bool:
    """Whether the finding is present although history came before: "status post surgery, small effusion"."""
    ends = ("with", ",", "and") if history.value in PROCEDURES else ("with",)
    return any(item.kind == "joint" and item.value in ends for item in between(clause, history.last, target.first))


def _strength(cue: Item) -> str:
    return "possible" if cue.value in load().possible else "probable"


def _reaches(target: Item, cue: Item, clause: list[Item]) -> bool:
    """A hedge after the finding reaches back over lists with "and" or "or", not over another verb phrase."""
    passed = between(clause, target.last, cue.first)
    kinds = {item.kind for item in passed}
    joints = [item.value for item in passed if item.kind == "joint"]
    return "hedges" not in kinds and ("finding" not in kinds or not joints or joints[-1] in ("and", "or", "/", ")"))


def _predicate(target: Item, normal: Item, clause: list[Item]) -> bool:
    """Whether a finding is said to be normal: "vascular engorgement is within normal limits"."""
    kinds = {item.kind for item in between(clause, target.last, normal.first)}
    return "verbs" in kinds and kinds <= {"verbs", "change", "grade"}


def alternatives(start: int, end: int, tokens: list[Token]) -> bool:
    """Whether the words between two findings offer them as alternatives: "scarring or atelectasis", "effusion vs thickening"."""
    return end - start <= 6 and any(token.lemma in ("or", "/", "versus", "vs") for token in tokens[start:end])


def versus(target: Item, tokens: list[Token], others: list[Item]) -> bool:
    """Whether a finding stands beside "versus", with none of the ``others`` between, whatever is on the other side."""
    window = range(max(0, target.first - 4), min(len(tokens), target.last + 4))
    marks = [sorted((i, target.first)) for i in window if tokens[i].lemma in ("versus", "vs")]
    return any(not any(low < other.first < high for other in others) for low, high in marks)

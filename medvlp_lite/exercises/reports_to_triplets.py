"""Checkers of the exercises of chapter 02_reports_to_triplets."""

from collections.abc import Callable
from functools import lru_cache

from medvlp_lite.notebook import exercise, require
from medvlp_lite.phantom import make_studies
from medvlp_lite.reports import mentions
from medvlp_lite.studies import Study

PUZZLE = "No pneumothorax or edema, but there may be a right effusion and left atelectasis."
ENTITIES = ("effusion", "pneumothorax", "consolidation", "edema", "atelectasis", "cardiomegaly")


def _library(text: str) -> list[tuple[str, bool | None]]:
    return [(mention.concept, mention.present) for mention in mentions(text) if not mention.implied]


@exercise((list, tuple), "a list of (entity, side, present)")
def check_triplets(answer: list) -> None:
    """What ``PUZZLE`` says, statement by statement."""
    right = {(m.concept, m.side, m.present) for m in mentions(PUZZLE)}
    given = {tuple(statement) for statement in answer}
    require(
        {g[0] for g in given} == {r[0] for r in right},
        "Every finding that is named makes a statement, and nothing else.",
    )
    states = {(g[0], g[2]) for g in given} == {(r[0], r[2]) for r in right}
    require(states, "Look at how far each cue reaches, and where it must stop.")
    require(given == right, "The states are right; look at the sides again.")


@exercise((list, tuple), "three things: (broken, victim, survivor)")
def check_but(answer: tuple) -> None:
    """A reader that does not stop at a contrast, a sentence that it gets wrong, and one that it still gets right."""
    require(len(answer) == 3 and callable(answer[0]), "Give the broken reader first, then the two sentences.")
    broken, victim, survivor = answer
    read = {
        text: [(e, present) for e, _, present in broken(text)] for text in ("No effusion; edema.", victim, survivor)
    }
    plain = read["No effusion; edema."] == [("effusion", False), ("edema", True)]
    require(plain, "Cut where a sentence ends, and nowhere else.")
    lost = any(a[1] is True and b[1] is False for a, b in zip(_library(victim), read[victim]))
    require(lost, "In the victim, the broken reader must deny a finding that the library reads as present.")
    require("but" in survivor.lower().split(), "The survivor must hold a contrast.")
    same = bool(read[survivor]) and read[survivor] == _library(survivor)
    require(same, "What if the denial comes last, or a cue stands on either side?")


@lru_cache(maxsize=1)
def _others() -> list[Study]:
    return make_studies(200, seed=21, size=64)


def _unread(reader: Callable) -> tuple[int, int]:
    """Of how many mentioned findings a reader reads nothing, and how many it reads wrongly."""
    nothing = wrong = 0
    for study in _others():
        states: dict[str, set] = {}
        for entity, _, present in reader(study.report):
            states.setdefault(entity, set()).add(present)
        for finding in study.findings:
            if finding.mentioned and finding.entity in ENTITIES:
                said = states.get(finding.entity, set())
                answer = True if True in said else None if None in said else False
                nothing += not said
                right = None if finding.entity in study.meta["hedged"] else finding.present
                wrong += bool(said) and answer is not right
    return nothing, wrong


@exercise(Callable, "a reader: text to (entity, side, present)")
def check_reader(answer: Callable) -> None:
    """A reader with more words than the chapter's, on phantoms that the chapter does not show."""
    nothing, wrong = _unread(answer)
    require(nothing <= 56, f"Of {nothing} findings nothing was read. Print reports in which that happens.")
    require(wrong <= 12, f"{wrong} findings are read wrongly: does a phrase say more than its entity?")

"""Which side, zone, structure and grade belong to which finding of a clause.

What stands before a finding modifies it, back to the finding, hedge or list before; what follows with a preposition does too
("opacity and effusion in the left base"), unless it stands directly before the next finding.
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

from typing import NamedTuple

from medvlp_lite.reports.lexicon import Item, Sentence, Token, between
from medvlp_lite.reports.vocabulary import read_data

PLACES = frozenset(("side", "zone", "site"))
BARRIERS = frozenset(("stops", "negation_before"))
LINKS = frozenset(("joint", "verbs", "prepositions", "hedges", "hedges_after", "passive", "stops"))
ADDITIONS = frozenset(("with", "as well as", "together with", "along with", "and also", "and also of", "plus"))
PLURALS = frozenset(read_data("context")["plurals"])
SIDELESS = frozenset(("heart", "spine", "aorta", "stomach"))
ZONED = frozenset(("lung", "pleural", "interstitium", "", "bone", "hilum", "pulmonary"))
DEGREES = frozenset(read_data("context")["degrees"])
TOO_WIDE = frozenset(("lung", "cardiopulmonary", "lung volume", "vasculature", "heart", "limb"))


class Place(NamedTuple):
    """Where a finding is said to be, and how severe: values as in ``Mention``; ``tokens`` are the words that say so."""

    site: str
    zone: str | None = None
    side: str | None = None
    severity: str | None = None
    tokens: tuple[int, ...] = ()

    @property
    def found(self) -> bool:
        """Whether a side or zone is known."""
        return self.side is not None or self.zone is not None

    @property
    def open(self) -> bool:
        """Whether a side or zone is still to be found."""
        return not self.found and self.site not in SIDELESS


def place(
    target: Item, usual: str, site: Item | None, clause: list[Item], targets: list[Item], sentence: Sentence
) -> Place:
    """The place of ``target``; ``usual`` is its concept's usual site, ``site`` the structure that made it a finding."""
    before = _before(target, clause, targets)
    alone = any(item.kind in PLACES for item in before)
    if targets[0].first < target.first:  # "opacity consistent with ..."
        alone = alone or any(item.kind == "hedges" and item.last <= target.first for item in clause)
    after = _after(target, clause, targets, alone=alone)
    places = [item for item in before if item.kind in PLACES]
    sides = [item for item in places if item.kind == "side"]
    if not sides:
        sides = [item for item in after if item.kind == "side"]
        places += after
    elif not any(item.kind == "zone" for item in places) and not any(item.kind == "side" for item in after):
        places += [item for item in after if item.kind == "zone"]
    named = site.value.partition("+")[0] if site else _site(usual, places)
    places += [site] if site else []
    zone = next((item.value for item in places if item.kind == "zone"), None) if named in ZONED else None
    side = None if named in SIDELESS else _side(sides, places, sentence, plural_lungs=named != "lung volume")
    if zone == "lingula":
        side = "left"
    elif zone == "middle lobe" and side is None:
        side = "right"
    words = sorted({i for item in places for i in range(item.first, item.last)})
    return Place(named, zone, side, _severity(target, before, clause, targets, sentence.tokens), tuple(words))


def _before(target: Item, clause: list[Item], targets: list[Item]) -> list[Item]:
    """Items before the target that modify it, nearest first; also a place in front of "there is"."""
    found: list[Item] = []
    placed = False
    ahead = [item for item in clause if item.last <= target.first]
    for position, item in reversed(list(enumerate(ahead))):
        if item in targets:
            return _without_owned(found, item)
        if item.kind in BARRIERS and not item.value.startswith("there "):
            break
        if item.kind == "joint" and item.value in ADDITIONS and any(other.first < item.first for other in targets):
            break
        joint = placed and item.kind == "joint"
        if joint and (item.value in ("with", ":", "(", ")") or not position or ahead[position - 1].kind not in PLACES):
            break
        placed = placed or item.kind in PLACES
        found.append(item)
    return found


def _without_owned(found: list[Item], other: Item) -> list[Item]:
    """Leave out "in the left base" when it follows another finding directly: it is that finding's place."""
    for position in range(len(found) - 1, -1, -1):
        item = found[position]
        if item.kind == "prepositions" and item.first - other.last <= 2:
            joints = [i for i in range(position) if found[i].kind == "joint"]
            first_place = next(i for i in range(position + 1) if found[i].kind in PLACES or i == position)
            return found[: joints[-1] if joints else first_place]
        if item.kind in ("joint", "verbs", "hedges"):
            break
    return found


def _after(target: Item, clause: list[Item], targets: list[Item], *, alone: bool) -> list[Item]:
    """Places after the target that modify it; passes the rest of a list unless the target has a place before it (``alone``)."""
    found: list[Item] = []
    opened = False
    following = [item for item in clause if item.first >= target.last]
    for position, item in enumerate(following):
        if item in targets:
            if alone or opened:
                break
            continue
        if item.kind in BARRIERS or item.kind == "hedges":
            break
        joint = opened and item.kind == "joint" and item.value in (",", "with", ":")
        if joint and not {after.kind for after in following[position + 1 : position + 2]} & {"side", "zone"}:
            break
        if item.kind in PLACES and not _leads_to_target(position, following, targets):
            found.append(item)
        opened = opened or item.kind in ("prepositions", "side", "zone")
    return found if opened else []


def _leads_to_target(position: int, following: list[Item], targets: list[Item]) -> bool:
    """Whether a place stands directly before another finding ("effusion and left base opacity")."""
    if position and following[position - 1].kind == "prepositions":
        return False
    for item in following[position + 1 :]:
        if item in targets:
            return True
        if item.kind in LINKS and not (item.kind == "joint" and item.value == "and"):
            return False
    return False


def _side(sides: list[Item], places: list[Item], sentence: Sentence, *, plural_lungs: bool) -> str | None:
    values = {item.value for item in sides}
    if values:
        return values.pop() if len(values) == 1 else "bilateral"
    for item in places:
        _, start, end = sentence.tokens[item.last - 1]
        surface = sentence.text[start:end].lower()
        if surface in PLURALS and (surface != "lungs" or plural_lungs):
            return "bilateral"
    return None


def _site(usual: str, places: list[Item]) -> str:
    sites = [item.value.partition("+")[0] for item in places if item.kind == "site"]
    return next((s for s in sites if s not in TOO_WIDE or not usual or (s == "limb" and usual == "bone")), usual)


def _severity(
    target: Item, before: list[Item], clause: list[Item], targets: list[Item], tokens: list[Token]
) -> str | None:
    """The grade now, else the nearest before the target ("small effusion"), else one said of it ("the effusion is small").

    A grade of a change ("slight decrease in the effusion") is none.
    """
    changes = [item for item in clause if item.kind == "change" and item.value in ("increased", "decreased")]
    grades = [item for item in clause if item.kind == "grade"]
    if changes:
        now = next((g for g in grades if g.first > target.last and tokens[g.first - 1].lemma == "now"), None)
        if now and not between(targets, target.last, now.first):  # "moderate edema has improved, now mild"
            return now.value
        grades = [grade for grade in grades if not _grades_change(grade, target, changes, tokens)]
    said = [item for item in before if item in grades] + [grade for grade in grades if grade.first == target.first]
    if said:
        return said[0].value
    predicate = False
    for item in clause:
        if item.first < target.last:
            continue
        if item in targets or item.kind in ("stops", "negation_before", "hedges"):
            break
        if item.kind == "joint" and not (item.value == "," and item.first == target.last):
            break
        predicate = predicate or item.kind in ("verbs", "joint")
        if predicate and item in grades:
            return None if between(targets, item.last, item.last + 2) else item.value
    return None


def _grades_change(grade: Item, target: Item, changes: list[Item], tokens: list[Token]) -> bool:
    """Whether a grade says how much has changed: "slight decrease in", not "slightly increased markings"."""
    if tokens[grade.first].lemma not in DEGREES:
        return False
    change = next((c for c in between(changes, grade.last, grade.last + 2) if c.first != target.first), None)
    if change is None:
        return False
    said_of = [token.lemma for token in tokens[change.last : change.last + 1]] in (["in"], ["of"])
    return said_of or change.first >= target.last or tokens[change.first].lemma != "increase"

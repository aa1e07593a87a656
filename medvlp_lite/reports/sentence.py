"""One sentence read: its findings with status, place and grade, as Mentions.

Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

from medvlp_lite.reports.lexicon import Item, Lexicon, Sentence, load, near
from medvlp_lite.reports.negation import Status, alternatives, clauses, status, versus
from medvlp_lite.reports.placing import LINKS, SIDELESS, Place, place
from medvlp_lite.reports.vocabulary import read_data

TARGETS = frozenset(("finding", "observation", "normal"))
WEAK = frozenset(read_data("context")["weak"])
FILLING = frozenset(("expansion", "aeration", "hyperinflation"))  # said of a lung that may be clear all the same


class Mention(NamedTuple):
    """All that one sentence says of one finding.

    ``concept`` is the finding's name, ``entity`` its place among MedKLIP's 75, ``category`` among MedFILIP's 61 or "".
    ``present`` is True, False or None. ``negation`` and ``hedge`` are the cues; ``strength`` of a hedge is "probable"
    (counts as present), "possible" or "alternative" (both None). ``implied``: not named, but excluded by a normal structure.
    ``span`` and ``sentence`` are character offsets.
    """

    concept: str
    entity: str
    category: str
    present: bool | None
    span: tuple[int, int]
    sentence: tuple[int, int]
    site: str = ""
    zone: str | None = None
    side: str | None = None
    severity: str | None = None
    location: str | None = None
    negation: str | None = None
    hedge: str | None = None
    strength: str | None = None
    implied: bool = False

    def within(self, first: int, last: int) -> Mention:
        """The same in a report, whose characters ``first`` to ``last`` are the sentence."""
        start, end = self.span
        return Mention(*self[:4], (first + start, first + end), (first, last), *self[6:])


@dataclass
class _Found:
    """A finding on its way to a Mention."""

    item: Item
    concept: str
    status: Status
    place: Place


def _gap(a: Item, b: Item) -> int:
    return b.first - a.last if b.first >= a.last else a.first - b.last


@lru_cache(maxsize=50_000)
def read_sentence(text: str) -> tuple[Mention, ...]:
    """Mentions of one sentence, offsets counted from its first character; remembered, since reports repeat themselves."""
    lexicon = load()
    sentence = lexicon.read(text)
    items = sentence.items
    if not any(item.kind in TARGETS for item in items):
        return ()
    found: list[_Found] = []
    normals: list[Mention] = []
    for first, last in pairwise(clauses(items, len(sentence.tokens))):
        clause = [item for item in items if first <= item.first < last]
        targets = _targets(clause, lexicon, sentence)
        heads = [item for item, _, _ in targets]
        for item, concept, site in targets:
            state = status(item, clause, items)
            if not state.hypothetical:
                where = place(item, lexicon.concepts[concept].site, site, clause, heads, sentence)
                if item.value == "borderline":
                    where = where._replace(severity="borderline")
                if clause[0].value == "which" and where.open:
                    where = _antecedent(where, items, clause[0])
                found.append(_Found(item, concept, state, where))
        normals.extend(_normals(clause, targets, sentence, lexicon))
    _join(found, sentence)
    if "bilaterally" in text:
        for one in found:
            if one.place.open and one.status.present is not False:
                one.place = one.place._replace(side="bilateral")
    _name_atherosclerosis(found)
    return (*(_mention(one, sentence, lexicon) for one in found), *normals)


def _targets(clause: list[Item], lexicon: Lexicon, sentence: Sentence) -> list[tuple[Item, str, Item | None]]:
    """Findings of a clause, and observations that a site turns into findings, as (item, concept, site item)."""
    findings = [item for item in clause if item.kind == "finding"]
    out: list[tuple[Item, str, Item | None]] = [(item, item.value, None) for item in findings]
    for item in clause:
        if item.kind == "observation":
            concept, site = _resolve(item, clause, findings, lexicon)
            if concept:
                out.append((item, concept, site))
    out.sort(key=lambda target: target[0].first)
    needs = [lexicon.concepts[concept].needs for _, concept, _ in out]
    return [t for t, need in zip(out, needs) if not need or not need.isdisjoint(near(t[0], sentence.tokens, 5))]


def _resolve(item: Item, clause: list[Item], findings: list[Item], lexicon: Lexicon) -> tuple[str | None, Item | None]:
    """What an observation means at the nearest site that has a rule for it: "enlarge" at the heart is cardiomegaly."""
    rules = lexicon.observations[item.value]
    sites = [other for other in clause if other.kind == "site"]
    weak = item.value in WEAK
    modifies = any(0 <= finding.first - item.last <= 1 for finding in findings)
    options = [(rules[name], site) for site in sites for name in site.value.split("+") if name in rules]
    if options:
        concept, site = min(options, key=lambda option: _gap(item, option[1]))
        gap = _gap(item, site)
        low, high = sorted((item.first, site.first))
        between = any(low < finding.first <= high + 1 for finding in findings)
        nearer = any(_gap(item, other) < gap for other in sites)
        if not weak or (gap <= 3 and not between and not modifies and not nearer):
            return concept, site
    if modifies and item.value != "calcify":
        return None, None
    if "joint" in rules and any(other.kind == "side" and other.value == "bilateral" for other in clause):
        return rules["joint"], None  # the spine has no two sides
    if weak and not any(_gap(item, site) <= 2 for site in sites):
        return None, None
    return rules.get("*"), None


def _antecedent(where: Place, items: list[Item], stop: Item) -> Place:
    """The place before "which", for a finding that has none of its own."""
    earlier = [item for item in items if item.first < stop.first]
    sides = {item.value for item in earlier if item.kind == "side"}
    zones = [item.value for item in earlier if item.kind == "zone"]
    side = sides.pop() if len(sides) == 1 else None
    return where._replace(side=side, zone=zones[-1] if zones and where.site in ("lung", "") else None)


def _join(found: list[_Found], sentence: Sentence) -> None:
    """Alternatives become uncertain; a finding without a place or grade takes that of the finding it is joined to."""
    heads = [one.item for one in found]
    for index, here in enumerate(found):
        if here.status.present is not False and here.status.hedge is None and versus(here.item, sentence.tokens, heads):
            here.status = here.status._replace(present=None, hedge="versus", strength="alternative")
        if index == 0:
            continue
        before = found[index - 1]
        if before.status.present is False or here.status.present is False:
            continue
        either = alternatives(before.item.last, here.item.first, sentence.tokens)
        if either:
            for one in (before, here):
                if one.status.hedge is None:
                    one.status = one.status._replace(present=None, hedge="or", strength="alternative")
        chained = not any(i.kind in LINKS and before.item.last <= i.first < here.item.first for i in sentence.items)
        _share(before, here, either or chained)
        if chained:
            _share(here, before, True)


def _share(giver: _Found, taker: _Found, grade: bool) -> None:
    if taker.place.open and giver.place.site not in SIDELESS and giver.place.found:
        words = taker.place.tokens or giver.place.tokens
        taker.place = taker.place._replace(side=giver.place.side, zone=giver.place.zone, tokens=words)
        grade = grade or taker.status.hedge is not None
    if grade and taker.place.severity is None:
        taker.place = taker.place._replace(severity=giver.place.severity)


def _name_atherosclerosis(found: list[_Found]) -> None:
    """Calcification of a vessel in a sentence on atherosclerosis is atherosclerotic calcification."""
    if any(one.concept == "atherosclerosis" for one in found):
        for one in found:
            if one.concept == "calcification" and one.place.site in ("aorta", "vasculature", ""):
                one.concept = "atherosclerotic calcification"


def _mention(one: _Found, sentence: Sentence, lexicon: Lexicon) -> Mention:
    concept, state, where, tokens = lexicon.concepts[one.concept], one.status, one.place, sentence.tokens
    inside = [i for i in range(one.item.first, one.item.last - 1) if tokens[i].lemma in lexicon.site_words]
    location = _location(sorted({*where.tokens, *inside}), sentence, lexicon)  # the "pleural" of an effusion is a place
    span, whole = (tokens[one.item.first].start, tokens[one.item.last - 1].end), (0, len(sentence.text))
    seen = (where.site, where.zone, where.side, where.severity, location, state.negation, state.hedge, state.strength)
    return Mention(concept.name, concept.entity, concept.category, state.present, span, whole, *seen)


def _location(where: list[int], sentence: Sentence, lexicon: Lexicon) -> str | None:
    """The words of a place as the report has them, abbreviations spelt out, none twice in a row; None if there are none."""
    if not where:
        return None
    spans = dict.fromkeys(sentence.tokens[i][1:] for i in where)
    written = (sentence.text[start:end].lower() for start, end in spans)
    words = [part for word in written for part in lexicon.expansions.get(word, (word,))]
    return " ".join(word for word, _ in groupby(words))


def _normals(
    clause: list[Item], targets: list[tuple[Item, str, Item | None]], sentence: Sentence, lexicon: Lexicon
) -> list[Mention]:
    """ "Lungs are clear": a normal observation, and the findings that it excludes."""
    out: list[Mention] = []
    telling = [(head, site) for head, concept, site in targets if concept not in FILLING]
    taken = [site for _, site in telling if site]
    heads = [head for head, _ in telling]
    for item in clause:
        if item.kind != "normal" or any(i.kind == "negation_before" and 0 <= item.first - i.last <= 1 for i in clause):
            continue
        verb = any(other.kind == "verbs" and other.last <= item.first for other in clause)
        sites = [other for other in clause if other.kind == "site" and other not in taken]
        left, right = [s for s in sites if s.last <= item.first], [s for s in sites if s.first >= item.last]
        for site in left if left and (verb or not right) else right:
            low, high = sorted((site.first, item.first))
            if any(low < head.first < high or 0 <= head.first - site.last <= 1 for head in heads):
                continue
            sides = [i.value for i in sentence.items if i.kind == "side" and abs(i.last - site.first) <= 1]
            out.extend(_normal(item, site, sides[0] if sides else None, sentence, lexicon))
    return out


def _normal(item: Item, site: Item, side: str | None, sentence: Sentence, lexicon: Lexicon) -> Iterator[Mention]:
    tokens, excludes = sentence.tokens, read_data("lexicon")["absent_when_normal"]
    spans = (tokens[item.first].start, tokens[item.last - 1].end), (0, len(sentence.text))
    for where in site.value.split("+"):
        yield Mention(item.value, item.value, "", True, *spans, where, side=None if where in SIDELESS else side)
        if item.value not in ("stable", "free") and side in (None, "bilateral"):
            for name in excludes.get(where, ()):
                c = lexicon.concepts[name]
                yield Mention(name, c.entity, c.category, False, *spans, c.site, negation=item.value, implied=True)


def anaphoric(mention: Mention, previous: Mention) -> Mention:
    """ "This represents atelectasis": the place and side of the finding before, for a mention that has none."""
    if mention.side or mention.zone or mention.site in SIDELESS or previous.site in SIDELESS:
        return mention
    return mention._replace(side=previous.side, zone=previous.zone, location=mention.location or previous.location)

"""The report filter: free text to triplets, in one pass over sections and sentences (equations K-3 and F-1).

Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..studies import Triplet
from .anatomy import landmarks, vocabulary
from .lexicon import Item, Token, load
from .negation import Status, alternatives, clauses, status
from .sections import sections, sentences

UNCERTAIN = {"unknown": None, "present": True, "absent": False}
SIDELESS = frozenset(("heart", "spine", "lung volume", "mediastinum", "aorta", "stomach"))
PLURALS = frozenset(("bases", "apices", "lobes", "angles", "sulci", "hemidiaphragms", "hila"))
WEAK = frozenset("large big prominent prominence increase decrease diminish reduce low high borderline expand distend".split())
ABSENT_WHEN_NORMAL = {  # a normal structure -> the findings it excludes
    "heart": ("cardiomegaly",),
    "mediastinum": ("widening",),
    "lung": ("opacity", "consolidation"),
    "vasculature": ("congestion",),
    "costophrenic": ("blunting",),
    "pleural": ("effusion", "pneumothorax"),
    "bone": ("fracture",),
    "lung volume": ("hyperinflation", "low volume"),
}


@dataclass(frozen=True)
class Mention:
    """All that one sentence says of one finding.

    ``concept`` is the finding's name, ``entity`` its place among MedKLIP's 75, ``category`` among MedFILIP's 61 or "".
    ``present`` is True, False or None; ``hedge`` and ``negation`` are the cues, ``strength`` "probable" or "possible".
    ``implied``: not named, but excluded by a normal structure. ``span`` and ``sentence`` are character offsets.
    Built in chapter 02_reports_to_triplets.
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
    change: str | None = None
    location: str | None = None
    negation: str | None = None
    hedge: str | None = None
    strength: str | None = None
    implied: bool = False


def _gap(a: Item, b: Item) -> int:
    return b.first - a.last if b.first >= a.last else a.first - b.last


class _Sentence:
    """One sentence on its way from items to mentions; offsets count from the sentence's first character."""

    def __init__(self, text: str):
        self.text = text
        self.lexicon = load()
        self.tokens: list[Token] = self.lexicon.tokens(text)
        self.all = self.lexicon.items(self.tokens)

    def mentions(self) -> list[Mention]:
        if not any(item.kind in ("finding", "observation", "normal") for item in self.all):
            return []
        starts = clauses(self.all, len(self.tokens))
        found: list[Mention] = []
        placed: list[tuple[Item, Mention]] = []
        for first, last in zip(starts, starts[1:]):
            clause = [item for item in self.all if first <= item.first < last]
            targets = self._targets(clause)
            for target, concept, site in targets:
                state = status(target, clause, self.all)
                if not state.hypothetical:
                    placed.append((target, self._mention(target, concept, site, state, clause, targets)))
            found.extend(self._normals(clause, targets))
        return self._joined(placed) + found

    def _targets(self, clause: list[Item]) -> list[tuple[Item, str, Item | None]]:
        """Findings of a clause, and observations that a site turns into findings, as (item, concept, site item)."""
        findings = [item for item in clause if item.kind == "finding"]
        sites = [item for item in clause if item.kind == "site"]
        out: list[tuple[Item, str, Item | None]] = [(item, item.value, None) for item in findings]
        for item in clause:
            if item.kind == "observation":
                concept, site = self._resolve(item, sites, findings)
                if concept:
                    out.append((item, concept, site))
        out.sort(key=lambda target: target[0].first)
        return [target for target in out if self._qualifies(target[1], target[0], clause)]

    def _qualifies(self, concept: str, item: Item, clause: list[Item]) -> bool:
        needs = self.lexicon.concepts[concept].needs
        if not needs:
            return True
        nearby = range(max(0, item.first - 5), min(len(self.tokens), item.last + 5))
        return any(self.tokens[i].lemma in needs for i in nearby)

    def _resolve(self, item: Item, sites: list[Item], findings: list[Item]) -> tuple[str | None, Item | None]:
        rules = self.lexicon.observations[item.value]
        weak = item.value in WEAK
        best: tuple[int, str, Item] | None = None
        for site in sites:
            for name in site.value.split("+"):
                if name in rules:
                    gap = _gap(item, site)
                    if best is None or gap < best[0]:
                        best = (gap, rules[name], site)
        if best is not None:
            low, high = sorted((item.first, best[2].first))
            between = any(low < finding.first <= high + 1 for finding in findings)
            follows = any(0 <= finding.first - item.last <= 1 for finding in findings)
            if not weak or (best[0] <= 3 and not between and not follows):
                nearer = [s for s in sites if _gap(item, s) < best[0]]
                if not (weak and nearer):
                    return best[1], best[2]
        if any(0 <= finding.first - item.last <= 1 for finding in findings):
            return None, None
        return rules.get("*"), None

    def _mention(self, target: Item, name: str, site: Item | None, state: Status, clause: list[Item], targets) -> Mention:
        concept = self.lexicon.concepts[name]
        before, after = self._around(target, clause, targets)
        sides, zones, sites = [], [], []
        for group in (before, after):
            group_sides = [item for item in group if item.kind == "side"]
            if group_sides and not sides:
                sides = group_sides
            zones.extend(item for item in group if item.kind == "zone")
            sites.extend(item for item in group if item.kind == "site")
            if sides and group is before and (zones or sites):
                break
        side = self._side(sides, zones + sites)
        named = site.value.split("+")[0] if site else self._best_site(concept.site, sites)
        if named in SIDELESS:
            side = None
        zone = self._zone(zones) if named in ("lung", "pleural", "interstitium", "", "bone", "hilum", "pulmonary") else None
        if zone in ("middle lobe",) and side is None:
            side = "right"
        if zone == "lingula":
            side = "left"
        words = sorted({i for item in sides + zones + sites + ([site] if site else []) for i in range(item.first, item.last)})
        return Mention(
            concept=name,
            entity=concept.entity,
            category=concept.category,
            present=state.present,
            span=(self.tokens[target.first].start, self.tokens[target.last - 1].end),
            sentence=(0, len(self.text)),
            site=named,
            zone=zone,
            side=side,
            severity=self._nearest("grade", target, before, after),
            change=self._nearest("change", target, clause, ()),
            location=" ".join(self.text[self.tokens[i].start : self.tokens[i].end].lower() for i in words) or None,
            negation=state.negation,
            hedge=state.hedge,
            strength=state.strength,
        )

    def _around(self, target: Item, clause: list[Item], targets) -> tuple[list[Item], list[Item]]:
        """Items that modify the target: what stands before it back to the last finding or verb, and its "in the ..." after it."""
        others = {item for item, _, _ in targets if item is not target}
        before: list[Item] = []
        inside = target.first
        crossed_verb = False
        for item in reversed(clause):
            if item.last > inside:
                continue
            if item in others or item.kind in ("stops", "negation_before", "hedges"):
                break
            if item.kind == "verbs":
                crossed_verb = True
            before.append(item)
        after: list[Item] = []
        listed, opened = True, False
        for item in clause:
            if item.first < target.last:
                continue
            if item in others:
                if not listed or opened:
                    break
                continue
            if item.kind in ("stops", "negation_before", "hedges"):
                break
            if item.kind == "joint" and opened and item.value in (",", "with"):
                following = [i for i in clause if i.first >= item.last]
                if following and following[0].kind not in ("side", "zone"):
                    break
            if item.kind in ("prepositions", "side", "zone"):
                opened = True
            after.append(item)
        if opened and others:
            after = self._own(after, target, others)
        return before, after

    def _own(self, after: list[Item], target: Item, others: set[Item]) -> list[Item]:
        """Drop what stands directly before another finding: it modifies that one ("effusion and left base opacity")."""
        following = [other for other in others if other.first >= target.last]
        if not following:
            return after
        nearest = min(following, key=lambda other: other.first)
        own: list[Item] = []
        for item in after:
            if item.first > nearest.first:
                own.append(item)
                continue
            reach = range(item.last, nearest.first)
            tied = all(
                other.kind not in ("joint", "verbs") for other in after if other.first in reach
            ) and not any(i.kind == "prepositions" and i.last == item.first for i in after)
            if not tied:
                own.append(item)
        return own

    def _side(self, sides: list[Item], places: list[Item]) -> str | None:
        values = {item.value for item in sides}
        if "bilateral" in values or {"left", "right"} <= values:
            return "bilateral"
        if values:
            return values.pop()
        for item in places:
            token = self.tokens[item.last - 1]
            surface = self.text[token.start : token.end].lower()
            first = self.text[self.tokens[item.first].start :][:2].lower()
            if surface in PLURALS or (first == "bi" and surface[:2] == "bi"):
                return "bilateral"
        return None

    def _zone(self, zones: list[Item]) -> str | None:
        return zones[-1].value if zones else None

    def _best_site(self, usual: str, sites: list[Item]) -> str:
        for item in reversed(sites):
            for value in item.value.split("+"):
                if value not in ("lung", "cardiopulmonary") or not usual:
                    return value
        return usual

    def _nearest(self, kind: str, target: Item, before: Iterable[Item], after: Iterable[Item]) -> str | None:
        candidates = [item for item in before if item.kind == kind and item.last <= target.first]
        if candidates:
            return max(candidates, key=lambda item: item.first).value
        candidates = [item for item in (*before, *after) if item.kind == kind and item.first >= target.last]
        return min(candidates, key=lambda item: item.first).value if candidates else None

    def _joined(self, placed: list[tuple[Item, Mention]]) -> list[Mention]:
        """Alternatives make both uncertain; a finding without a place takes that of the finding it is joined to."""
        out = [mention for _, mention in placed]
        for index in range(1, len(placed)):
            (left, _), (right, _) = placed[index - 1], placed[index]
            a, b = out[index - 1], out[index]
            if alternatives(left, right, [], self.tokens) and a.present is not False and b.present is not False:
                for position, mention in ((index - 1, a), (index, b)):
                    if mention.hedge is None:
                        out[position] = replace(mention, hedge="or", strength="alternative")
                a, b = out[index - 1], out[index]
            if b.side is None and b.zone is None and a.present is not False and b.present is not False and a.site not in SIDELESS:
                if b.site not in SIDELESS and (a.side or a.zone):
                    out[index] = replace(b, side=a.side, zone=a.zone, location=b.location or a.location)
        return out

    def _normals(self, clause: list[Item], targets) -> list[Mention]:
        """"Lungs are clear": a normal observation, and the findings that it excludes."""
        out: list[Mention] = []
        taken = {site for _, _, site in targets if site}
        blocked = [item for item, _, _ in targets]
        for item in clause:
            if item.kind != "normal":
                continue
            verb = any(other.kind == "verbs" and other.last <= item.first for other in clause)
            left = [s for s in clause if s.kind == "site" and s.last <= item.first and s not in taken]
            right = [s for s in clause if s.kind == "site" and s.first >= item.last and s not in taken]
            sites = left if left and (verb or not right) else right
            for site in sites:
                low, high = sorted((site.first, item.first))
                if any(low < other.first < high for other in blocked):
                    continue
                if any(0 <= other.first - site.last <= 1 for other in blocked):
                    continue
                out.extend(self._normal(item, site))
        return out

    def _normal(self, item: Item, site: Item) -> list[Mention]:
        span = (self.tokens[item.first].start, self.tokens[item.last - 1].end)
        whole = (0, len(self.text))
        near = [i for i in self.all if i.kind == "side" and abs(i.last - site.first) <= 1]
        side = near[0].value if near else None
        out = []
        for place in site.value.split("+"):
            out.append(
                Mention(item.value, item.value, "", True, span, whole, site=place, side=side if place not in SIDELESS else None)
            )
            if item.value in ("stable", "free") or side is not None:
                continue
            for name in ABSENT_WHEN_NORMAL.get(place, ()):
                concept = self.lexicon.concepts[name]
                out.append(
                    Mention(name, concept.entity, concept.category, False, span, whole, concept.site, negation=item.value, implied=True)
                )
        return out


@lru_cache(maxsize=50_000)
def read_sentence(text: str) -> tuple[Mention, ...]:
    """Mentions of one sentence, offsets counted from its first character; remembered, since reports repeat themselves."""
    return tuple(_Sentence(text).mentions())


def mentions(report: str) -> list[Mention]:
    """Every finding that a report names, in order, with side, zone, severity, change, cues and character offsets.

    Built in chapter 02_reports_to_triplets.
    """
    out: list[Mention] = []
    for start, end in sections(report):
        for first, last in sentences(report, start, end):
            for mention in read_sentence(report[first:last]):
                a, b = mention.span
                out.append(replace(mention, span=(first + a, first + b), sentence=(first, last)))
    return out


class ReportFilter:
    """Free text to triplets (equations K-3 and F-1).

    ``uncertain`` says what a hedged finding becomes: "unknown" (None, as MedKLIP leaves it), "present" or "absent".
    ``implied`` keeps what a normal structure excludes ("heart size is normal": no cardiomegaly).
    Raises ValueError on another value. Built in chapter 02_reports_to_triplets.
    """

    def __init__(self, uncertain: str = "unknown", implied: bool = True):
        if uncertain not in UNCERTAIN:
            raise ValueError(f"uncertain must be one of {sorted(UNCERTAIN)}, got {uncertain!r}")
        self.uncertain = uncertain
        self.implied = implied

    def __call__(self, report: str) -> list[Triplet]:
        return self.extract(report)

    def extract(self, report: str) -> list[Triplet]:
        """One triplet per finding and landmark: a bilateral effusion gives left_pleural and right_pleural."""
        out: list[Triplet] = []
        for mention in mentions(report):
            if mention.implied and not self.implied:
                continue
            present = UNCERTAIN[self.uncertain] if mention.present is None else mention.present
            for position in landmarks(mention.site, mention.zone, mention.side):
                out.append(
                    Triplet(
                        entity=mention.concept,
                        position=position,
                        present=present,
                        severity=mention.severity,
                        side=mention.side,
                        location=mention.location,
                        category=mention.category or None,
                        span=mention.span,
                    )
                )
        return out


def extract(report: str, uncertain: str = "unknown") -> list[Triplet]:
    """Triplets of a report; see ReportFilter. Built in chapter 02_reports_to_triplets."""
    return ReportFilter(uncertain).extract(report)


def entity_of(name: str) -> str:
    """The one of MedKLIP's 75 entities that stands for a finding; "tail_abnorm_obs" when there is none of its own."""
    if name in vocabulary()["entities"]:
        return name
    concept = load().concepts.get(name)
    return concept.entity if concept else "tail_abnorm_obs"


def adjacency(triplets: Iterable[Triplet]) -> np.ndarray:
    """Equation K-3's label matrix, (51, 75) float: 1 stated present, 0 stated absent, NaN not mentioned or uncertain.

    Rows are positions, columns entities, in MedKLIP's order; one present statement outweighs absent ones.
    Built in chapter 02_reports_to_triplets.
    """
    words = vocabulary()
    rows = {name: i for i, name in enumerate(words["positions"])}
    columns = {name: i for i, name in enumerate(words["entities"])}
    matrix = np.full((len(rows), len(columns)), np.nan)
    for triplet in triplets:
        if triplet.present is None:
            continue
        cell = rows.get(triplet.position, rows["other"]), columns[entity_of(triplet.entity)]
        matrix[cell] = np.fmax(matrix[cell], float(triplet.present))
    return matrix


def entity_labels(matrix: np.ndarray) -> np.ndarray:
    """(51, 75) -> (75,): 1 if any position is 1, else 0 if any is 0, else NaN (equation K-3)."""
    return np.fmax.reduce(matrix, axis=0)

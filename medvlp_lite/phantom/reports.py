"""The report that goes with a phantom: what is said, hedged, denied or left out. Its words are in ``data/phrases.json``.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from medvlp_lite.phantom.patients import ENTITIES, SIGN_ROWS, SIGNS, UNSEEN, FindingSpec, Patient, opacity_type

WORDS = SimpleNamespace(**json.loads((Path(__file__).parent / "data" / "phrases.json").read_text(encoding="utf-8")))
SYNONYMS: dict[str, list[str]] = WORDS.synonyms
STYLES = ("varied", "terse", "template")
MENTION_RATE = (0.9, 0.35)
HEDGE_RATE = (0.25, 0.10, 0.03)  # by severity
SIGN_RATE = (0.95, 0.09)  # signs are mentioned less often: the mention rates are multiplied by this
LUNG_ENTITIES = (*ENTITIES[:4], "edema", "atelectasis", "granuloma", "pneumoconiosis", "pneumothorax", UNSEEN)
LUNG_ENTITIES += tuple(name for name, row in SIGN_ROWS.items() if row["attributes"]["site"] in ("lung", "pleura"))
MILLIMETRES = {"nodule": (15, 20, 26), "mass": (37, 50, 67)}


@dataclass(frozen=True)
class Report:
    """A report's text, the entities it speaks of (present or absent), and those of them it leaves uncertain."""

    text: str
    mentioned: frozenset[str]
    hedged: frozenset[str]


def write_report(
    patient: Patient,
    *,
    seed: int = 0,
    style: str = "varied",
    mention_rate: tuple[float, float] = MENTION_RATE,
    entities: Sequence[str] = (*ENTITIES, *SIGNS),
    repeat: float = 0.0,
) -> Report:
    """Write the report of a patient's film.

    Args:
        style: "varied" (sections, many phrasings, hedges, comparisons, distractors), "terse" (short notes) or "template"
            (one fixed sentence per finding, nothing hedged).
        mention_rate: the share of present and the average share of absent entities that the report speaks of. A sentence
            such as "The lungs are clear" counts as no mention. Signs: 0.95 and 0.09 times these rates.
        entities: what may be denied; what is present is always spoken of at its rate.
        repeat: the share of reports that are one of four stock texts, word for word, given by the pneumoconiosis stage alone.

    Raises:
        ValueError: for an unknown style or rates outside [0, 1].
    """
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    if len(mention_rate) != 2 or not all(0 <= rate <= 1 for rate in mention_rate):
        raise ValueError(f"mention_rate must be two shares in [0, 1] for present and absent, got {mention_rate}")
    if not 0 <= repeat <= 1:
        raise ValueError(f"repeat must be a share in [0, 1], got {repeat}")
    key = f"{patient.seed}/{patient.visit}/{seed}/{style}"
    if repeat and random.Random(f"{key}/repeat").random() < repeat:
        return Report(WORDS.stock[patient.stage], frozenset(["pneumoconiosis"]), frozenset())
    rng = random.Random(key)
    said = [spec for spec in patient.findings if spec.entity not in SIGN_ROWS and rng.random() < mention_rate[0]]
    here = {spec.entity for spec in patient.findings}
    headline = [e for e in entities if e not in SIGN_ROWS]
    denied = [e for e in headline if e not in here and _denies(e, here, mention_rate[1], rng)]
    signs, named = _signs(patient, entities, mention_rate, style, random.Random(f"{key}/signs"))
    report = {"varied": _varied, "terse": _terse, "template": _template}[style](patient, said, denied, signs, rng)
    return Report(report.text, report.mentioned | named, report.hedged)


def _signs(
    patient: Patient, entities: Sequence[str], mention_rate: tuple[float, float], style: str, rng: random.Random
) -> tuple[list[str], set[str]]:
    """Sentences on signs, and the signs that they speak of."""
    yes, no = (rate * share for rate, share in zip(mention_rate, SIGN_RATE))
    here = [spec for spec in patient.findings if spec.entity in SIGN_ROWS]
    out = patient.unclear.union(spec.entity for spec in here)
    said = [spec for spec in here if rng.random() < yes]
    denied = [name for name in entities if name in SIGN_ROWS and rng.random() < no and name not in out]
    sentences = [_sign_sentence(patient, spec, style, rng) for spec in said]
    for name in denied:
        frame = "There is no {names}." if style == "template" else rng.choice(WORDS.negations)
        sentences.append(frame.format(names=rng.choice(SIGN_ROWS[name]["names"])))
    return sentences, {spec.entity for spec in said} | set(denied)


def _sign_sentence(patient: Patient, spec: FindingSpec, style: str, rng: random.Random) -> str:
    np, plural = _phrase(patient, spec, rng, short=style == "template")
    if style == "terse":
        return _fill("{Np}.", np=np)
    return _fill(rng.choice(WORDS.frames if style == "varied" else WORDS.frames[:1])[plural], np=np)


def _denies(entity: str, here: set[str], rate: float, rng: random.Random) -> bool:
    draw = rng.random()
    if entity == "ground-glass opacity" and UNSEEN in here:
        return False  # the unseen disease shows ground glass
    return draw < 1 - (1 - rate) ** WORDS.denial_weights.get(entity, 0.55)


def _varied(
    patient: Patient, said: list[FindingSpec], denied: list[str], signs: list[str], rng: random.Random
) -> Report:
    hedged, sentences, pending = set(), [], []
    has_prior = patient.prior is not None or rng.random() < 0.25
    for spec in said:
        if rng.random() < HEDGE_RATE[spec.level]:
            hedged.add(spec.entity)
            np, _ = _phrase(patient, spec, rng)
            sentences.append(_fill(rng.choice(WORDS.hedges), np=np))
        else:
            pending.append(spec)
    while pending:
        spec = pending.pop(0)
        np, plural = _phrase(patient, spec, rng)
        if pending and rng.random() < 0.3:
            sentences.append(_fill(rng.choice(WORDS.pairs), a=np, b=_phrase(patient, pending.pop(0), rng)[0]))
            continue
        sentence = _fill(rng.choice(WORDS.frames)[plural], np=np)
        if has_prior and rng.random() < 0.5:
            sentence = f"{sentence[:-1]}, {rng.choice(WORDS.change[_course(patient, spec, rng)])}."
        sentences.append(sentence)
    normal = len(patient.findings) == len(patient.devices)
    sentences += _resolved(patient, denied, rng)
    sentences += _negations(denied, hedged, rng)
    if not {spec.entity for spec in patient.findings} & set(LUNG_ENTITIES) and rng.random() < 0.5:
        sentences.append(rng.choice(WORDS.clear))
    sentences += signs + _surroundings(patient, rng)
    if rng.random() < 0.5:
        rng.shuffle(sentences)
    sections = _heading(patient, has_prior, rng)
    sections.append("FINDINGS: " + " ".join(sentences or ["As stated below."]))
    sections.append("IMPRESSION: " + _impression(patient, said, hedged, normal, rng))
    mentioned = {spec.entity for spec in said} | set(denied)
    return Report("\n".join(sections), frozenset(mentioned), frozenset(hedged))


def _terse(
    patient: Patient, said: list[FindingSpec], denied: list[str], signs: list[str], rng: random.Random
) -> Report:
    notes = [_fill("{Np}.", np=_phrase(patient, spec, rng, short=True)[0]) for spec in said]
    notes += _negations(denied, set(), rng, hedges=False) + signs
    notes += _distractors(patient, rng.choice((0, 0, 1, 1, 2)), rng)
    rng.shuffle(notes)
    opening = "" if rng.random() < 0.3 else f"{rng.choice(WORDS.views[patient.view])} "
    text = f"FINDINGS: {opening}{' '.join(notes or _distractors(patient, 1, rng))}"
    return Report(text, frozenset([s.entity for s in said] + denied), frozenset())


def _template(
    patient: Patient, said: list[FindingSpec], denied: list[str], signs: list[str], rng: random.Random
) -> Report:
    sentences = []
    for spec in said:
        where = {None: "", "bilateral": " in both lungs"}.get(spec.side, f" in the {spec.side} lung")
        sentences.append(f"There is {spec.severity} {spec.entity}{where}, {spec.position}.")
    sentences += [f"There is no {entity}." for entity in denied] + signs
    names = ", ".join(spec.entity for spec in said) or "no finding"
    text = f"FINDINGS: {' '.join(sentences) or 'Nothing is described.'}\nIMPRESSION: {names.capitalize()}."
    return Report(text, frozenset([s.entity for s in said] + denied), frozenset())


def _phrase(patient: Patient, spec: FindingSpec, rng: random.Random, short: bool = False) -> tuple[str, bool]:
    """A noun phrase with grade and place, and whether it is a plural."""
    templates = SIGN_ROWS[spec.entity]["present"] if spec.entity in SIGN_ROWS else WORDS.present[spec.entity]
    if spec.side == "bilateral":
        templates = WORDS.present_bilateral.get(spec.entity, templates)
    template = templates[0] if short else rng.choice(templates)
    sizes = MILLIMETRES.get(spec.entity, (0, 0, 0))
    if spec.side == "bilateral" and spec.entity in SIGN_ROWS:
        template = template.replace("the {side}-sided", "bilateral").replace("{side}-sided", "{side}")
    text = template.lstrip("*").format(
        sev=rng.choice(WORDS.grades.get(spec.entity, WORDS.grades["default"])[spec.level]),
        mod=rng.choice(WORDS.grade_adverbs[spec.severity]),
        side=spec.side,
        loc=_place(spec, rng),
        zone=spec.position,
        mm=sizes[spec.level] + rng.randint(-2, 2),
        kind=opacity_type(patient.seed, spec.seed)[0],
        ilo=rng.choice((("1/0", "1/1", "1/2"), ("2/1", "2/2", "2/3"), ("3/2", "3/3", "3/+"))[spec.level]),
        roman=("I", "II", "III")[spec.level],
        number=spec.level + 1,
    )
    if spec.entity == "pneumoconiosis" and spec.level == 2 and rng.random() < 0.8:
        text += rng.choice(WORDS.large_opacities)
    return _article(text), template.startswith("*")


def _place(spec: FindingSpec, rng: random.Random) -> str:
    both = spec.side == "bilateral"
    if spec.position in WORDS.places:
        return rng.choice(WORDS.places[spec.position][both]).format(side=spec.side)
    if spec.position not in WORDS.zones:
        return ""
    zone, one = rng.choice(WORDS.zones[spec.position]), rng.random() < 0.5
    if both:
        return f"in both {zone}s" if one else f"bilaterally in the {zone}s"
    if one and "lung" not in zone:
        return f"in the {zone} of the {spec.side} lung"
    return f"in the {spec.side} {zone}"


def _article(text: str) -> str:
    words = text.split()
    for i, word in enumerate(words[:-1]):
        if word in ("a", "an"):
            words[i] = "an" if words[i + 1][0] in "aeiou" else "a"
    return " ".join(words)


def _fill(frame: str, **parts: str) -> str:
    capitals = {name.capitalize(): text[0].upper() + text[1:] for name, text in parts.items()}
    return frame.format(**parts, **capitals)


def _course(patient: Patient, spec: FindingSpec, rng: random.Random) -> str:
    """How a finding changed since the visit before; without one, a claim that nothing can check."""
    if patient.prior is None:
        return rng.choice(("stable", "stable", "worse", "new"))
    before = next((old for old in patient.prior if old.entity == spec.entity), None)
    if before is None:
        return "new"
    return ("better", "stable", "worse")[(spec.level > before.level) - (spec.level < before.level) + 1]


def _resolved(patient: Patient, denied: list[str], rng: random.Random) -> list[str]:
    before = [old.entity for old in patient.prior or () if old.entity not in SIGN_ROWS]
    gone = [entity for entity in before if patient.find(entity) is None]
    sentences = []
    for entity in gone:
        if rng.random() < 0.7 and not (entity == "ground-glass opacity" and patient.find(UNSEEN)):
            sentences.append(rng.choice(WORDS.resolved).format(name=WORDS.names[entity][0]))
            if entity not in denied:
                denied.append(entity)
    return sentences


def _negations(denied: list[str], hedged: set[str], rng: random.Random, hedges: bool = True) -> list[str]:
    names, sentences = list(denied), []
    rng.shuffle(names)
    while names:
        entity = names.pop()
        name = rng.choice(WORDS.names[entity])
        if hedges and rng.random() < 0.04:
            hedged.add(entity)
            np = _article(f"a {name}") if entity in ("nodule", "mass", "effusion", "granuloma") else name
            sentences.append(_fill(rng.choice(WORDS.hedges), np=np))
        elif entity in WORDS.absent_sentences and rng.random() < 0.45:
            sentences.append(rng.choice(WORDS.absent_sentences[entity]))
        else:
            more = min(rng.choice((0, 1, 1, 2, 3)), len(names))
            listed = [name] + [rng.choice(WORDS.names[names.pop()]) for _ in range(more)]
            joined = name if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"
            sentences.append(rng.choice(WORDS.negations).format(names=joined))
    return sentences


def _surroundings(patient: Patient, rng: random.Random) -> list[str]:
    sentences = []
    if abs(patient.exposure.turn) > 0.012 and rng.random() < 0.6:
        sentences.append(rng.choice(WORDS.rotated))
    return sentences + _distractors(patient, rng.choice((0, 1, 1, 2, 3)), rng)


def _distractors(patient: Patient, count: int, rng: random.Random) -> list[str]:
    """Sentences on what is normal, but for those that a finding of the patient makes untrue."""
    chosen = rng.sample(list(WORDS.distractors), count)
    return [text for text in chosen if not any(patient.find(entity) for entity in WORDS.distractors[text])]


def _heading(patient: Patient, has_prior: bool, rng: random.Random) -> list[str]:
    sections = []
    if rng.random() < 0.7:
        age = rng.randint(19, 93)
        person = "woman" if patient.anatomy.breast > 0 else "man"
        complaint = rng.choice(WORDS.reasons)
        if rng.random() < 0.7:
            complaint = f"{rng.choice(WORDS.complaints)}{rng.choice(WORDS.durations)}"
        ways = (f"{age}-year-old {person}, {complaint}.", f"{person.capitalize()} aged {age}: {complaint}.")
        sections.append(f"INDICATION: {rng.choice(ways)}")
    if has_prior:
        sections.append(f"COMPARISON: {rng.choice(WORDS.some_prior).format(month=rng.choice(WORDS.months))}")
    elif rng.random() < 0.35:
        sections.append(f"COMPARISON: {rng.choice(WORDS.no_prior)}")
    if rng.random() < 0.6:
        sections.append(f"TECHNIQUE: {rng.choice(WORDS.views[patient.view])}")
    return sections


def _impression(patient: Patient, said: list[FindingSpec], hedged: set[str], normal: bool, rng: random.Random) -> str:
    if not said:
        return rng.choice(WORDS.normal_impressions if normal else WORDS.other_impressions)
    chosen = sorted(said, key=lambda spec: -spec.level)[: rng.choice((1, 2, 3, 3))]
    lines = []
    for spec in chosen:
        np, _ = _phrase(patient, spec, rng, short=rng.random() < 0.4)
        frame = rng.choice(("Possible {np}.", "Suspected {np}.")) if spec.entity in hedged else "{Np}."
        lines.append(_fill(frame, np=np))
    if rng.random() < 0.25:
        lines.append(rng.choice(WORDS.advice))
    if len(lines) > 1 and rng.random() < 0.5:
        return " ".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
    return " ".join(lines)

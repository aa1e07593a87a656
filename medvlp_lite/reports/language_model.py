"""The report filter's second back end: a language model asked for triplets, and a strict reader of its answers.

Language models shift slots, invent placeholders and forget commas. The reader repairs what the lexicon can make sense of and
refuses the rest with one sentence each; no answer makes it fail. Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from medvlp_lite.reports.filter import UNCERTAIN
from medvlp_lite.reports.sections import report_text
from medvlp_lite.reports.sentence import Mention, read_sentence
from medvlp_lite.reports.vocabulary import landmarks
from medvlp_lite.studies import Triplet

PROMPT = """You turn a chest X-ray report into a list of findings.
Go through the report one sentence after the other. For each finding write one line with four groups in braces:
{present} {severity} {location} {finding}
- present: yes, no, or unsure
- severity: the report's word for how much or how bad, such as mild, moderate, severe, small, large
- location: side, zone and structure, such as left lower lobe, right pleural, heart
- finding: one finding only, such as effusion, consolidation, cardiomegaly; two findings make two lines
Write NA where the report does not say. Leave out what stands only in the indication or is merely compared with.
Write nothing but these lines.

Report:
{report}

Findings:
"""
PLACEHOLDERS = frozenset(("", "na", "n/a", "none", "null", "nil", "mask", "[mask]", "<mask>", "unspecified", "unknown", "not stated", "not specified", "-", "--", "?"))  # fmt: skip
PRESENT = dict.fromkeys(("yes", "y", "true", "present", "positive", "1"), True)
ABSENT = dict.fromkeys(("no", "n", "false", "absent", "negative", "0", "not present", "without"), False)
UNSURE = dict.fromkeys(("unsure", "uncertain", "maybe", "possible", "possibly", "probable", "likely", "questionable"))
EXIST: dict[str, bool | None] = {**PRESENT, **ABSENT, **UNSURE}
KEYS = {
    "exist": ("present", "exist", "exists", "existence", "status", "presence"),
    "severity": ("severity", "degree", "descriptor", "grade"),
    "location": ("location", "position", "site", "side", "organ", "anatomy"),
    "finding": ("finding", "category", "entity", "disease", "observation", "name", "label"),
}
GROUP = re.compile(r"\{([^{}]{0,200})\}")
LIMIT = 50_000


@dataclass(frozen=True)
class Answer:
    """What an answer was read as: its triplets, and one sentence for each part that was refused."""

    triplets: tuple[Triplet, ...] = ()
    refused: tuple[str, ...] = ()


def parse(answer: str, report: str = "", uncertain: str = "unknown") -> Answer:
    """Read a language model's answer: brace groups, one finding per line, or JSON; never raises on any string.

    Repaired: code fences, trailing commas, case, placeholders (NA, mask, none), slots in the wrong order, synonyms and plurals, two
    findings in one slot. ``report`` gives spans where the finding's words occur in it. Raises ValueError only for a wrong
    ``uncertain``.
    """
    if uncertain not in UNCERTAIN:
        raise ValueError(f"uncertain must be one of {sorted(UNCERTAIN)}, got {uncertain!r}")
    text = re.sub(r"```[a-zA-Z]*", "", answer[:LIMIT]).strip()
    triplets: list[Triplet] = []
    refused: list[str] = []
    for slots in _items(text):
        found, problem = _read_item(slots, report, uncertain)
        triplets.extend(found)
        if problem:
            refused.append(problem)
    if not triplets and not refused and text and text.lower().strip(" .") not in PLACEHOLDERS:
        refused.append(f"the answer {_short(text)} holds no list of findings; ask the model again")
    return Answer(tuple(dict.fromkeys(triplets)), tuple(refused))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _items(text: str) -> Iterator[list[str]]:
    rows = _json_rows(text)
    if rows is not None:
        yield from rows
        return
    for line in text.splitlines():
        groups = [(match.start(), match.end(), match[1]) for match in GROUP.finditer(line)]
        if groups:
            yield from _brace_rows(line, groups)
        elif line.count("+") >= 2 or line.count("|") >= 2:
            yield [part.strip(" -*\t") for part in re.split(r"[+|]", line.strip(" |"))]


def _brace_rows(line: str, groups: list[tuple[int, int, str]]) -> Iterator[list[str]]:
    """Groups on one line belong together until a comma or semicolon stands between them."""
    row: list[str] = []
    for position, (start, _, content) in enumerate(groups):
        between = line[groups[position - 1][1] : start] if position else ""
        if row and re.search(r"[,;.]", between):
            yield row
            row = []
        row.append(content)
    if len(row) == 1 and re.search(r"[,;|]", row[0]):
        yield [part.strip() for part in re.split(r"[,;|]", row[0])]
    else:
        yield row


def _json_rows(text: str) -> list[list[str]] | None:
    first = min((text.find(mark) for mark in "[{" if mark in text), default=-1)
    last = max(text.rfind("]"), text.rfind("}"))
    if first < 0 or last <= first:
        return None
    body = re.sub(r",\s*([\]}])", r"\1", text[first : last + 1])
    body = re.sub(r"\bNone\b", "null", re.sub(r"\bTrue\b", "true", re.sub(r"\bFalse\b", "false", body)))
    for candidate in (body, f"[{body}]", re.sub(r"\}\s*\{", "},{", f"[{body}]"), body.replace("'", '"')):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        return list(_rows_of(value))
    return None


def _rows_of(value: Any) -> Iterator[list[str]]:
    if isinstance(value, dict):
        named = {str(key).lower().strip(): item for key, item in value.items()}
        known = {key for keys in KEYS.values() for key in keys}
        if known & named.keys():
            yield [_slot(named, keys) for keys in KEYS.values()]
            return
        value = list(value.values())
    if isinstance(value, list):
        if value and all(not isinstance(item, (list, dict)) for item in value):
            yield [_word(item) for item in value]
            return
        for item in value[:1000]:
            if isinstance(item, (list, dict)):
                yield from _rows_of(item)


def _slot(named: dict[str, Any], keys: tuple[str, ...]) -> str:
    return " ".join(word for key in keys if key in named and (word := _word(named[key])))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(_word(item) for item in value if not isinstance(item, (list, dict)))
    return "" if value is None or isinstance(value, dict) else str(value)


def _read_item(slots: list[str], report: str, uncertain: str) -> tuple[list[Triplet], str | None]:
    """One item in any order of slots: what names a finding is the finding, the rest says how and where."""
    words = [" ".join(re.sub(r"[^\w\s/'-]", " ", slot).lower().split()) for slot in slots[:8]]
    words = [word for word in words if word not in PLACEHOLDERS]
    present: bool | None = True
    for word in list(words):
        if word in EXIST:
            present = EXIST[word]
            words.remove(word)
            break
    findings = [word for word in words if _named(word)]
    if not findings:
        return [], f"the item {_short(' | '.join(slots))} names no finding that the lexicon knows; it was left out"
    category = findings[-1]
    rest = [word for word in words if word is not category]
    phrase = " ".join((*rest, category))[-400:]
    start = len(phrase) - len(category)
    chosen = [m for m in read_sentence(phrase) if m.span[1] > start and not m.implied] or list(_named(category))
    return [triplet for mention in chosen for triplet in _triplets(mention, present, report, category, uncertain)], None


def _named(word: str) -> tuple[Mention, ...]:
    return tuple(mention for mention in read_sentence(word[:200]) if not mention.implied)


def _triplets(mention: Mention, present: bool | None, report: str, category: str, uncertain: str) -> Iterator[Triplet]:
    if present is True:
        present = mention.present
    start = report.lower().find(category) if category else -1
    for position in landmarks(mention.site, mention.zone, mention.side):
        yield Triplet(
            entity=mention.concept,
            position=position,
            present=UNCERTAIN[uncertain] if present is None else present,
            severity=mention.severity,
            side=mention.side,
            location=mention.location,
            category=mention.category or None,
            span=(start, start + len(category)) if start >= 0 else None,
        )


class LanguageModelFilter:
    """The report filter with a language model behind it (equation F-1).

    ``generate`` is any function from prompt to answer, or a transformers text-generation pipeline. ``refused`` holds one
    sentence for each part of the last answer that could not be used. Raises ValueError for a wrong ``uncertain``.
    """

    def __init__(self, generate: Callable[[str], Any], uncertain: str = "unknown", prompt: str = PROMPT):
        if uncertain not in UNCERTAIN:
            raise ValueError(f"uncertain must be one of {sorted(UNCERTAIN)}, got {uncertain!r}")
        self.generate = generate
        self.uncertain = uncertain
        self.prompt = prompt
        self.refused: tuple[str, ...] = ()

    def extract(self, report: str | None) -> list[Triplet]:
        """Triplets of a report as the model reads it; a missing report is an empty one, as for ``mentions``."""
        report = report_text(report)
        prompt = self.prompt.replace("{report}", report)
        answer = parse(_text(self.generate(prompt), prompt), report, self.uncertain)
        self.refused = answer.refused
        return list(answer.triplets)

    __call__ = extract


def _text(output: Any, prompt: str) -> str:
    """The answer in what a callable or a text-generation pipeline returns; the prompt in front of it is cut off."""
    while isinstance(output, (list, tuple)) and output:
        output = output[-1]
        if isinstance(output, dict):
            output = output.get("generated_text", output.get("content", ""))
    if isinstance(output, dict):
        output = output.get("generated_text", output.get("content", ""))
        return _text(output, prompt)
    text = output if isinstance(output, str) else ""
    return text[len(prompt) :] if text.startswith(prompt) else text

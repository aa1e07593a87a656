"""The report filter's second back end: a language model asked for triplets, and a strict reader of its answers.

Language models shift slots, invent placeholders and forget commas. JSON is repaired by json-repair; what the lexicon can make
sense of is read, the rest is refused with one sentence each; no answer makes the reader fail.
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import json_repair

from medvlp_lite.reports.filter import triplets_of, uncertain_state
from medvlp_lite.reports.sections import report_text
from medvlp_lite.reports.sentence import Mention, read_sentence
from medvlp_lite.reports.vocabulary import read_data
from medvlp_lite.studies import Triplet

PROMPT = (Path(__file__).parent / "data" / "prompt.txt").read_text(encoding="utf-8")
WORDS = read_data("answers")
STATES = {
    word: state for kind, state in (("present", True), ("absent", False), ("unsure", None)) for word in WORDS[kind]
}
GROUP = re.compile(r"\{([^{}]{0,200})\}")
JSON = re.compile(r"""[\[{][\[{\s]{0,20}(["'])[^"'\n]*\1\s*[:,\]]""")  # brackets, then a quoted key or item
LIMIT = 10_000  # characters of an answer that are read; json-repair's time grows with their square


@dataclass(frozen=True)
class Answer:
    """What an answer was read as: its triplets, and one sentence for each part that was refused."""

    triplets: tuple[Triplet, ...] = ()
    refused: tuple[str, ...] = ()


def parse(answer: str, report: str = "", uncertain: str = "unknown") -> Answer:
    """Read a language model's answer: brace groups, one finding per line, or JSON; never raises on any string.

    Repaired: code fences, broken JSON, case, placeholders (NA, mask, none), slots in the wrong order, synonyms and plurals,
    two findings in one slot. ``report`` gives spans where the finding's words occur in it. Raises ValueError only for a wrong
    ``uncertain``.
    """
    unsure = uncertain_state(uncertain)
    text = re.sub(r"```[a-zA-Z]*", "", answer[:LIMIT]).strip()
    triplets: list[Triplet] = []
    refused: list[str] = []
    for slots in _json_rows(text) or _lines(text):
        found = list(_read_item(slots, report.lower(), unsure))
        triplets.extend(found)
        if not found:
            item = _short(" | ".join(slots))
            refused.append(f"the item {item} names no finding that the lexicon knows; it was left out")
    if not triplets and not refused and text and text.lower().strip(" .") not in WORDS["placeholders"]:
        refused.append(f"the answer {_short(text)} holds no list of findings; ask the model again")
    return Answer(tuple(dict.fromkeys(triplets)), tuple(refused))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _json_rows(text: str) -> list[list[str]]:
    """The slots of each object or list in an answer that holds JSON, else none."""
    start = JSON.search(text)
    if start is None:
        return []
    try:
        objects = re.sub(r"\}\s*\{", "},{", text[start.start() :])  # json-repair keeps the last of several objects
        return list(_rows_of(json_repair.loads(f"[{objects}]")))
    except (ValueError, RecursionError):
        return []


def _rows_of(value: Any) -> Iterator[list[str]]:
    if isinstance(value, dict):
        named = {str(key).lower().strip(): item for key, item in value.items()}
        if any(key in named for keys in WORDS["keys"].values() for key in keys):
            yield [" ".join(_word(named[key]) for key in keys if key in named) for keys in WORDS["keys"].values()]
            return
        value = list(value.values())
    if isinstance(value, list):
        nested = [item for item in value if isinstance(item, (list, dict))]
        for item in nested:
            yield from _rows_of(item)
        if value and not nested:
            yield [_word(item) for item in value]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(_word(item) for item in value)
    return "" if value is None or isinstance(value, dict) else str(value)


def _lines(text: str) -> Iterator[list[str]]:
    """The slots of each run of brace groups, or of a line with plus signs or bars between them."""
    for line in text.splitlines():
        if GROUP.search(line):
            yield from _brace_rows(line)
        elif line.count("+") >= 2 or line.count("|") >= 2:
            yield [part.strip(" -*\t") for part in re.split(r"[+|]", line.strip(" |"))]


def _brace_rows(line: str) -> Iterator[list[str]]:
    """Groups on one line belong together until a comma, semicolon or full stop stands between them."""
    row, end = [], 0
    for match in GROUP.finditer(line):
        if row and re.search(r"[,;.]", line[end : match.start()]):
            yield row
            row = []
        row.append(match[1])
        end = match.end()
    yield re.split(r"\s*[,;|]\s*", row[0]) if len(row) == 1 else row


def _read_item(slots: list[str], report: str, unsure: bool | None) -> Iterator[Triplet]:
    """One item in any order of slots: what names a finding is the finding, the rest says how and where."""
    words = [" ".join(re.sub(r"[^\w\s/'-]", " ", slot).lower().split()) for slot in slots[:8]]
    words = [word for word in words if word not in WORDS["placeholders"]]
    stated = next((word for word in words if word in STATES), None)
    if stated is not None:
        words.remove(stated)
    category = next((word for word in reversed(words) if _named(word)), None)
    if category is None:
        return
    phrase = " ".join((*(word for word in words if word is not category), category))[-400:]
    start = len(phrase) - len(category)
    chosen = [mention for mention in _named(phrase) if mention.span[1] > start] or _named(category)
    at = report.find(category)
    span = (at, at + len(category)) if at >= 0 else None
    for mention in chosen:
        present = mention.present if stated is None or STATES[stated] else STATES[stated]
        yield from triplets_of(mention, unsure if present is None else present, span)


def _named(phrase: str) -> list[Mention]:
    return [mention for mention in read_sentence(phrase[-400:]) if not mention.implied]


class LanguageModelFilter:
    """The report filter with a language model behind it (equation F-1).

    ``generate`` is any function from prompt to answer, or a transformers text-generation pipeline. ``refused`` holds one
    sentence for each part of the last answer that could not be used. Raises ValueError for a wrong ``uncertain``.
    """

    def __init__(self, generate: Callable[[str], Any], uncertain: str = "unknown"):
        uncertain_state(uncertain)
        self.generate, self.uncertain = generate, uncertain
        self.refused: tuple[str, ...] = ()

    def extract(self, report: str | None) -> list[Triplet]:
        """Triplets of a report as the model reads it; a missing report is an empty one, as for ``mentions``."""
        report = report_text(report)
        prompt = PROMPT.replace("{report}", report)
        answer = parse(_text(self.generate(prompt), prompt), report, self.uncertain)
        self.refused = answer.refused
        return list(answer.triplets)

    __call__ = extract


def _text(output: Any, prompt: str) -> str:
    """The answer in what a callable or a text-generation pipeline returns; the prompt in front of it is cut off."""
    while isinstance(output, (list, tuple, dict)) and output:
        named = isinstance(output, dict)
        output = output.get("generated_text", output.get("content", "")) if named else output[-1]
    return output.removeprefix(prompt) if isinstance(output, str) else ""

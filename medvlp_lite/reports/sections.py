"""Sections and sentences of a report: which parts describe the image, and where each sentence begins.

Indication, history, comparison and technique are not findings: what stands only there was not seen.
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from medvlp_lite.reports.vocabulary import read_data

CONTEXT, BODY, OPENERS = ("|".join(read_data("sections")[kind]) for kind in ("context", "body", "openers"))
CAPITALS = r"(?-i:(?:FINDINGS|IMPRESSION)[ \t]+(?=\d|[A-Z][a-z ]))"  # a heading without a mark
NAMED = rf"(?:(?P<context>{CONTEXT})|{BODY})[ \t]*(?::|\r?\n|-(?=\s))"
HEADING = re.compile(rf"(?<![^\n.:;?>])[ \t]*(?:{NAMED}|{CAPITALS})", re.IGNORECASE)
PARAGRAPH = re.compile(r"\S[ \t\r]*\n[ \t\r]*\n(?=\s*\S)")
LONGEST = 800
SHORT_LINE = 40
ABBREVIATIONS = r"(?<!\bvs)(?<!\bVs)(?<!\bDr)(?<!\bapprox)(?<!\be\.g)(?<!\bi\.e)"
STOPS = rf"{ABBREVIATIONS}\.+(?!\d)|(?<=[a-z])\.(?=\d)|[!;•]+|(?<=\s)-+(?=\s+[A-Z])"
TAGS = r"(?i:</?(?:br|p|div|li|ul|ol|tr|td|h\d)\b[^<>\n]{0,40}>)"
BREAKS = r"\n[ \t\r]*\n|\n(?=[ \t]*(?:[-*•]|\d+[.)]|[A-Z][a-z]))"
LINE = rf"(?P<line>\n(?=[ \t]*(?i:{OPENERS})\b))"
QUESTION = r"(?<=\w\?)\?*(?!\w)"  # after the mark, which is a hedge
BOUNDARY = re.compile(rf"(?=[.!;•<\n-])(?:{STOPS}|{TAGS}|{BREAKS}|{LINE})|{QUESTION}")  # looking ahead: for speed


def report_text(report: str | float | None) -> str:
    """The report; a missing one (None, or NaN as tables have it) is empty. Raises TypeError on anything else."""
    if isinstance(report, str):
        return report
    if report is None or (isinstance(report, float) and math.isnan(report)):
        return ""
    raise TypeError(f"a report must be a string, None or NaN, got {type(report).__name__}")


def sections(report: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the parts that describe the image; text before any heading counts as such."""
    headings = [*HEADING.finditer(report), None]
    start, describes = 0, True
    for heading in headings:
        end = heading.start() if heading else len(report)
        if not describes:  # what follows the first paragraph of such a section describes the image again
            paragraph = PARAGRAPH.search(report, start, end)
            start = paragraph.end() if paragraph else end
        if start < end:
            yield start, end
        if heading:
            start, describes = heading.end(), heading["context"] is None


def sentences(report: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each sentence in report[start:end]; also splits "pneumothorax.There", not "1.2 cm".

    Marks of a list and of a page (bullets, "<br>") end a sentence, and so does a short line before a word that opens one.
    What runs on for more than LONGEST characters is cut at a blank, so that reading stays linear in the report's length.
    """
    first = start
    for boundary in BOUNDARY.finditer(report, start, end):
        last = boundary.start()
        if boundary["line"] and last - start > SHORT_LINE and "\n" not in report[last - SHORT_LINE : last]:
            continue  # the line was wrapped, not ended on purpose
        yield from _pieces(report, first, last)
        first = boundary.end()
    yield from _pieces(report, first, end)


def _pieces(report: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > LONGEST:
        cut = report.rfind(" ", start + 1, start + LONGEST)
        cut = cut if cut > start else start + LONGEST
        yield start, cut
        start = cut
    if start < end:
        yield start, end


def findings_text(report: str | None) -> str:
    """The report without indication, comparison and technique: what a text encoder should read of it.

    Raises TypeError as ``report_text`` does.
    """
    report = report_text(report)
    return " ".join(" ".join(report[start:end].split()) for start, end in sections(report))

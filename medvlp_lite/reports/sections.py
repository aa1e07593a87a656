"""Sections and sentences of a report: which parts describe the image, and where each sentence begins.

Indication, history, comparison and technique are not findings: what stands only there was not seen.
Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

CONTEXT = (
    "indications?|clinical indications?|reason for (?:the )?(?:exam(?:ination)?|study|visit)|history|clinical history|"
    "clinical information|clinical details|clinical data|clinical statement|patient history|comparisons?|"
    "comparison (?:study|studies)|technique|procedure|examination|exam|study|views?|signs and symptoms|symptoms|"
    "recommendations?|additional history|dictated by|signed by|date|priors?"
)
BODY = (
    "findings?|impressions?|conclusions?|opinion|summary|interpretation|report|final report|findings and impression|"
    "findings/impression|addendum|result|results|observations?|wet read|preliminary report|diagnosis"
)
HEADING = re.compile(
    rf"(?:^|(?<=\n)|(?<=[.:;])[ \t]*)[ \t]*(?:(?P<context>{CONTEXT})|(?P<body>{BODY}))[ \t]*(?::|\n|-(?=\s))",
    re.IGNORECASE,
)
LONGEST = 800
ABBREVIATIONS = r"(?<!\bvs)(?<!\bVs)(?<!\bDr)(?<!\bapprox)(?<!\be\.g)(?<!\bi\.e)"
BOUNDARY = re.compile(
    rf"{ABBREVIATIONS}\.+(?!\d)|(?<=[a-z])\.(?=\d)|[?!;]+|\n[ \t]*\n|\n(?=[ \t]*(?:[-*•]|\d+[.)]|[A-Z][a-z]))"
)


def sections(report: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the parts that describe the image; text before any heading counts as such."""
    start, describes = 0, True
    for heading in HEADING.finditer(report):
        if describes and heading.start() > start:
            yield start, heading.start()
        start, describes = heading.end(), heading["body"] is not None
    if describes and start < len(report):
        yield start, len(report)


def sentences(report: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each sentence in report[start:end]; also splits "pneumothorax.There", not "1.2 cm".

    What runs on for more than LONGEST characters is cut at a blank, so that reading stays linear in the report's length.
    """
    first = start
    for boundary in BOUNDARY.finditer(report, start, end):
        if boundary.start() > first:
            yield from _pieces(report, first, boundary.start())
        first = boundary.end()
    if first < end:
        yield from _pieces(report, first, end)


def _pieces(report: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > LONGEST:
        cut = report.rfind(" ", start + 1, start + LONGEST)
        cut = cut if cut > start else start + LONGEST
        yield start, cut
        start = cut
    yield start, end


def describing_text(report: str) -> str:
    """The report without indication, comparison and technique: what a text encoder should read of it.

    Built in chapter 03_contrastive_baseline.
    """
    return " ".join(" ".join(report[start:end].split()) for start, end in sections(report))

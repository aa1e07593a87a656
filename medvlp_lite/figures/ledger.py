"""The ledger of claims: what a paper says, what we measured, and what follows. Shown on the page book/reproduction.md.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path

VERDICTS = ("reproduced", "trend only", "not reproduced")


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, tested. ``paper`` and ``ours`` are values as text, with spread and unit.

    ``verdict`` is one of ``VERDICTS``; ``reason`` says why the values differ; ``chapter`` is the chapter's name, such as
    "03_contrastive_baseline".
    """

    claim: str
    paper: str
    ours: str
    verdict: str
    reason: str
    chapter: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(
                f"claim {self.claim!r}: verdict must be one of {', '.join(VERDICTS)}; got {self.verdict!r}"
            )


def read_claims(folder: str | Path) -> list[Claim]:
    """All claims under the key "claims" of the JSON records in ``folder``, in the order of file names.

    Records without that key are left alone. Raises ValueError naming the file when a claim lacks a field, has an unknown
    one, or when the file is not JSON.
    """
    claims = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            rows = record.get("claims", []) if isinstance(record, dict) else []
            claims += [Claim(**row) for row in rows]
        except (TypeError, ValueError) as error:
            expected = ", ".join(field.name for field in fields(Claim))
            raise ValueError(f"{path}: not a record of claims ({error}); a claim has exactly {expected}") from error
    return claims


def ledger_table(claims: list[Claim], *, book_url: str = "") -> str:
    """The claims as an HTML table, one row each; one plain sentence when there are none.

    ``book_url`` is put before the links to the chapters.
    """
    if not claims:
        return "<p>No claim has been recorded yet.</p>"
    heads = ("claim", "paper", "ours", "verdict", "reason", "chapter")
    rows = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for claim in claims:
        texts = [escape(getattr(claim, head)) for head in heads[:-1]]
        link = f'<a href="{book_url}{escape(claim.chapter)}.html">{escape(claim.chapter[:2])}</a>'
        rows.append(f"<tr>{''.join(f'<td>{text}</td>' for text in [*texts, link])}</tr>")
    return f'<table class="ledger"><thead>{rows[0]}</thead><tbody>{"".join(rows[1:])}</tbody></table>'

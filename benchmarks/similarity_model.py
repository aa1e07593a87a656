"""The small similarity model of MedFILIP made anew: ``python benchmarks/similarity_model.py FOLDER``; the one in ``encoders/data`` was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medvlp_lite.encoders.sentence import SentenceEncoder, pretrain
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.phantom.corpus import SEEDS_APART
from medvlp_lite.phantom.reports import write_report
from medvlp_lite.phantom.sampling import sample_patient
from medvlp_lite.reports.knowledge import base
from medvlp_lite.reports.sections import findings_text


def similarity_corpus(patients: int = 6000, seed: int = 9, more: Iterable[str] = ()) -> list[str]:
    """Sentences to pre-train the similarity model on: phantom reports, each sentence once, and the knowledge base's texts thrice.

    ``more`` are further reports, such as Open-i's; the stored model saw none.
    """
    drawn = (write_report(sample_patient(seed * SEEDS_APART + i)).text for i in range(patients))
    reports = map(findings_text, chain(drawn, more))
    said = {f"{part.strip()}." for report in reports for part in report.split(".") if len(part.split()) > 2}
    known = [row["text"] for kind in ("entities", "categories") for row in base()[kind].values()]
    return [*sorted(said), *known, *known, *known]


def pretrain_similarity(
    patients: int = 6000, steps: int = 1600, more: Iterable[str] = (), log: Callable[[str], None] | None = print
) -> tuple[SentenceEncoder, list[float]]:
    """The small similarity model made anew, and its losses; with the defaults, the one stored in ``encoders/data``."""
    corpus = similarity_corpus(patients, more=more)
    return pretrain(corpus, ReportTokenizer.train(corpus), steps=steps, log=log)


if __name__ == "__main__":
    pretrain_similarity()[0].store(Path(sys.argv[1]), "phantom reports and the knowledge base; no real report")

"""Reports per second of the report filter on one core, beside the regular-expression baseline in the same run.

    python benchmarks/report_filter_speed.py [--data FOLDER] [--repeats 3]

Reports are Open-i's when FOLDER (default: MEDVLP_DATA) holds them, else phantom reports. "cold": the memory of sentences starts
empty; "no memory": every sentence is read anew; "warm": all sentences are known.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from medvlp_lite.reports import filter as report_filter
from medvlp_lite.reports.scoring import baseline_codes
from medvlp_lite.reports.sentence import read_sentence


def reports(folder: str | None) -> tuple[str, list[str]]:
    """The name of the collection and its reports."""
    if folder and (Path(folder) / "openi").is_dir():
        from medvlp_lite.sources import openi

        return "openi", [study.report for study in openi.load(Path(folder) / "openi").studies]
    from medvlp_lite.phantom import sample_patient, write_report

    return "phantom", [write_report(sample_patient(seed)).text for seed in range(1500)]


def rate(read: Callable[[str], object], texts: Sequence[str], before: Callable[[], object], repeats: int) -> float:
    """The best of several passes, in reports per second of processor time, so that a busy machine does not count."""
    best = 0.0
    for _ in range(repeats):
        before()
        start = time.process_time()
        for text in texts:
            read(text)
        best = max(best, len(texts) / (time.process_time() - start))
    return round(best, 1)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MEDVLP_DATA"), help="folder of data sets")
    parser.add_argument("--repeats", type=int, default=3, help="passes over all reports; the best counts")
    options = parser.parse_args()
    name, texts = reports(options.data)
    report_filter.mentions(texts[0])
    result = {"reports": name, "count": len(texts)}
    result["cold"] = rate(report_filter.mentions, texts, read_sentence.cache_clear, options.repeats)
    result["warm"] = rate(report_filter.mentions, texts, lambda: None, options.repeats)
    report_filter.read_sentence = read_sentence.__wrapped__
    result["no memory"] = rate(report_filter.mentions, texts, lambda: None, options.repeats)
    report_filter.read_sentence = read_sentence
    result["baseline"] = rate(baseline_codes, texts, lambda: None, options.repeats)
    result["cold / baseline"] = round(result["cold"] / result["baseline"], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""The one table of ``medvlp-lite results``: every claim with its verdict, by system, then every record."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from medvlp_lite.records.claims import SIGNS, TITLES, Result, results
from medvlp_lite.records.record import RunRecord, results_folder


def print_results(folder: Path | None = None, profile: str = "long") -> None:
    """Print all claims by system with their verdicts, then the records that they rest on."""
    found = list(results(profile, folder).values())
    for system, title in TITLES.items():
        own = [result for result in found if result.claim.system == system]
        counts = Counter(result.verdict for result in own)
        print(f"{title}: {', '.join(f'{counts[verdict]} {verdict}' for verdict in SIGNS if counts[verdict])}")
        print(*map(_claim_line, own), "", sep="\n")
    files = sorted((folder or results_folder()).glob("*.json"))
    print(*[_record_line(RunRecord.load(path)) for path in files] or ["no records"], sep="\n")


def _claim_line(result: Result) -> str:
    start = f"  {SIGNS[result.verdict]} {result.verdict:15s}{result.claim.id:40s}"
    if not result.effect:
        return f"{start}needs {result.missing}"
    detectable = "" if math.isnan(result.effect.detectable) else f"  could see {result.effect.detectable:.3f}"
    return f"{start}{result.interval}{detectable}  {result.claim.statement}"


def _record_line(record: RunRecord) -> str:
    spread = record.metrics.get("macro_auc_over_seeds", {})
    notes = [f"macro AUC {spread['value']:.3f}"] if spread else []
    notes += [f"collapsed in {record.collapsed} seeds"] if record.collapsed else []
    notes += ["not converged"] if record.converged is False else []
    known = [f"{len(record.seeds)} seeds", *notes, f"{record.seconds:.0f} s on {record.device}", record.started]
    return f"{record.name} ({record.profile}): {', '.join(known)}"

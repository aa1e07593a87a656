"""Records of runs, and the papers' claims before them: ``result("medklip.position_loss.pointing")`` says what came of one."""

from medvlp_lite.records.claims import (
    SIGNS,
    TITLES,
    Claim,
    Comparison,
    Effect,
    Result,
    over_seeds,
    result,
    results,
)
from medvlp_lite.records.measures import LARGE_FINDINGS, MEASURES
from medvlp_lite.records.record import RunRecord, load_record, results_folder
from medvlp_lite.records.statistics import VERDICTS
from medvlp_lite.records.table import print_results

__all__ = [
    "LARGE_FINDINGS",
    "MEASURES",
    "SIGNS",
    "TITLES",
    "VERDICTS",
    "Claim",
    "Comparison",
    "Effect",
    "Result",
    "RunRecord",
    "load_record",
    "over_seeds",
    "print_results",
    "result",
    "results",
    "results_folder",
]

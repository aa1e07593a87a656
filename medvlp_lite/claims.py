"""The papers' claims that the book has tested, and what the committed records say of each.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from medvlp_lite.evaluation.classification import Interval, mean_and_spread
from medvlp_lite.provenance import RunRecord

LARGE_FINDINGS = ("cardiomegaly", "edema", "pneumoconiosis")  # fill half of the chest: any map hits them
Measure = Callable[[Mapping[str, Any]], float]


def macro_auc(run: Mapping[str, Any]) -> float:
    """Macro AUC of one seed's run."""
    return run["macro_auc"]["value"]


def small_pointing(run: Mapping[str, Any], measure: Measure = lambda scores: scores["pointing"]) -> float:
    """Mean of a grounding measure over the findings that do not fill half of the chest."""
    return float(np.mean([measure(scores) for name, scores in run["grounding"].items() if name not in LARGE_FINDINGS]))


def unseen_auc(run: Mapping[str, Any], asked_by: str = "description") -> float:
    """AUC of one seed's run for the disease that training never showed."""
    return run["unseen"][asked_by]["value"]


def spread(record: RunRecord, measure: Measure) -> Interval:
    """A measure's mean over the record's seeds with its 95 % interval."""
    return mean_and_spread([measure(run) for run in record.metrics["runs"]])


def effect(better: RunRecord, worse: RunRecord, measure: Measure) -> Interval:
    """The mean difference between two records, seed by seed, with its 95 % interval.

    Raises ValueError when the records hold other seeds or other data.
    """
    if better.seeds != worse.seeds or better.data != worse.data:
        raise ValueError(f"{better.name} and {worse.name} were not run with the same seeds on the same data")
    pairs = zip(better.metrics["runs"], worse.metrics["runs"])
    return mean_and_spread([measure(one) - measure(other) for one, other in pairs])


def verdict(difference: Interval) -> str:
    """ "reproduced" when the interval lies above zero, "trend only" when the mean does, else "not reproduced"."""
    if difference.low > 0:
        return "reproduced"
    return "trend only" if difference.value > 0 else "not reproduced"


def claims(records: Mapping[str, RunRecord]) -> list[dict[str, str]]:
    """The rows of the ledger that these records (by name) can answer."""
    rows = [
        ("convirt", "medklip", macro_auc, "Entity queries beat whole-report contrast in zero-shot AUC",
         "ConVIRT .804 / .610, MedKLIP .869 / .768 (RSNA / ChestX-ray14)", "other data and scale"),
        ("convirt", "medklip", small_pointing, "Entity queries ground better than whole-report contrast",
         "pointing game on RSNA: BioViL .834, MedKLIP .872 (ConVIRT not reported)", "small findings of the phantom, other baseline"),
        ("medklip_names_no_position", "medklip_names", macro_auc, "The position loss raises zero-shot AUC",
         "ChestX-ray14 .750 to .762", "other scale; 12 entities instead of 75"),
        ("medklip_names_no_position", "medklip_names", small_pointing, "The position loss helps grounding",
         "RSNA pointing game .798 to .842", "other scale; 12 entities instead of 75"),
        ("medklip_names", "medklip", macro_auc, "Descriptions raise zero-shot AUC",
         "ChestX-ray14 .762 to .768 (but SIIM .902 to .892)", "frozen word vectors instead of Bio_ClinicalBERT"),
        ("medklip_names", "medklip", small_pointing, "Descriptions help grounding",
         "RSNA pointing game .842 to .872", "frozen word vectors instead of Bio_ClinicalBERT"),
        ("medklip_names", "medklip", unseen_auc, "Descriptions let the model recognise an unseen disease",
         "COVID-19 AUC by name .656, by description .740", "word vectors; 12 training entities instead of 75"),
    ]  # fmt: skip
    found = []
    for worse, better, measure, claim, paper, reason in rows:
        if worse in records and better in records:
            difference = effect(records[better], records[worse], measure)
            before, after = spread(records[worse], measure), spread(records[better], measure)
            ours = (
                f"{before.value:.3f} to {after.value:.3f}; difference {difference}, {len(records[better].seeds)} seeds"
            )
            found.append({"claim": claim, "paper": paper, "ours": ours, "verdict": verdict(difference),
                          "reason": reason, "chapter": "04_entity_fusion"})  # fmt: skip
    return found

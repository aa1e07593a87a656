"""How a claim is tested against committed records: measures, paired effects, verdicts. Built in chapter 04_entity_fusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvlp_lite.evaluation.intervals import Interval, mean_ci
from medvlp_lite.records.record import RunRecord

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
    return mean_ci([measure(run) for run in record.metrics["runs"]])


def effect(better: RunRecord, worse: RunRecord, measure: Measure, baseline: Measure | None = None) -> Interval:
    """The mean difference between two records, seed by seed, with its 95 % interval.

    ``baseline`` measures the worse record where that is another quantity. Raises ValueError when the records hold other seeds or other data.
    """
    if better.seeds != worse.seeds or better.data != worse.data:
        raise ValueError(f"{better.name} and {worse.name} were not run with the same seeds on the same data")
    pairs = zip(better.metrics["runs"], worse.metrics["runs"])
    return mean_ci([measure(one) - (baseline or measure)(other) for one, other in pairs])


def verdict(difference: Interval) -> str:
    """ "reproduced" when the interval lies above zero, "trend only" when the mean does, else "not reproduced"."""
    if difference.low > 0:
        return "reproduced"
    return "trend only" if difference.value > 0 else "not reproduced"


@dataclass(frozen=True)
class Comparison:
    """A claim of a paper as a question to two records: is the measure larger in ``better`` than in ``worse``?

    ``baseline`` measures the worse side where it is another quantity, as when both sides stand in one record.
    ``paper`` gives the paper's values, ``reason`` why ours may differ, ``chapter`` where it is tested.
    """

    worse: str
    better: str
    measure: Measure
    claim: str
    paper: str
    reason: str
    chapter: str
    baseline: Measure | None = None

    def row(self, records: Mapping[str, RunRecord]) -> dict[str, str]:
        """This claim's row of the ledger, from records by name."""
        worse, better = records[self.worse], records[self.better]
        difference = effect(better, worse, self.measure, self.baseline)
        before, after = spread(worse, self.baseline or self.measure), spread(better, self.measure)
        ours = f"{before.value:.3f} to {after.value:.3f}; difference {difference}, {len(better.seeds)} seeds"
        return {"claim": self.claim, "paper": self.paper, "ours": ours, "verdict": verdict(difference),
                "reason": self.reason, "chapter": self.chapter}  # fmt: skip

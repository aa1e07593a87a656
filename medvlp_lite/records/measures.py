"""What a claim can be about: numbers read from one seed's run of a record, listed by name in ``data/measures.yaml``.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

LARGE_FINDINGS = ("cardiomegaly", "edema", "pneumoconiosis")  # fill half of the chest: any map hits them
DATA = Path(__file__).parent / "data"
Run = Mapping[str, Any]
Read = Callable[..., float]  # of a run, and of the run that it is compared with


@dataclass(frozen=True)
class Measure:
    """A number of one run: how it is read, and the smallest difference in it that matters, by its kind."""

    kind: str
    delta: float
    read: Read


def at(*keys: str | int) -> Read:
    """Reads what stands at the end of these keys."""

    def read(run: Run, other: Run | None = None) -> float:
        value: Any = run
        for key in keys:
            value = value[key]
        return float(value)

    return read


def small(*keys: str, root: str = "grounding") -> Read:
    """Mean of a measure over the findings, listed under ``root``, that do not fill half of the chest."""
    value = at(*keys)

    def read(run: Run, other: Run | None = None) -> float:
        return float(np.mean([value(scores) for name, scores in run[root].items() if name not in LARGE_FINDINGS]))  # fmt: skip

    return read


def phrase(measure: str, tau_w: float | None, sigma: float = 1.5, root: str = "phrase_grounding") -> Read:
    """Mean of a phrase grounding measure over small findings, at one ``tau_w`` (None: no patch is weighted) and smoothing."""

    def read(run: Run, other: Run | None = None) -> float:
        rows = (row for row in run[root] if (row["tau_w"], row["sigma"]) == (tau_w, sigma))
        return float(np.mean([row[measure] for row in rows if row["entity"] not in LARGE_FINDINGS]))

    return read


def chosen_phrase(measure: str, *taus: float | None) -> Read:
    """The ``phrase`` at the one of several ``tau_w`` that has the largest on validation studies."""

    def read(run: Run, other: Run | None = None) -> float:
        return phrase(measure, max(taus, key=lambda tau: phrase(measure, tau, root="phrase_grounding_val")(run)))(run)

    return read


def early_gini(run: Run, other: Run | None = None) -> float:
    """How unequal MaCo's weights were when a quarter of the training was over: the Gini coefficient of their map."""
    steps = run["lungs"]["by_step"]
    return float([one["gini"] for one in steps if one["step"] <= steps[-1]["step"] / 4][-1])


def findings_won(run: Run, other: Run) -> float:
    """The share of findings whose AUC is larger in ``run`` than in ``other``; equal ones count half."""
    pairs = [(run["auc"][name]["value"], other["auc"][name]["value"]) for name in run["auc"] if name in other["auc"]]
    return float(np.mean([(own > its) + 0.5 * (own == its) for own, its in pairs]))


def rank_agreement(run: Run, other: Run | None = None) -> float:
    """Spearman's rank correlation, over small findings, of AUC with the contrast-to-noise ratio of the map."""
    from scipy.stats import spearmanr

    names = [name for name in run["grounding"] if name not in LARGE_FINDINGS and name in run["auc"]]
    return float(spearmanr([run["auc"][n]["value"] for n in names], [run["grounding"][n]["cnr"] for n in names])[0])


def pair_confusion(counts: Sequence[Sequence[float]]) -> dict[tuple[int, int], float]:
    """How often two classes are taken for each other, over how often they would be if the answers ignored the image.

    ``counts`` (K, K): row r, column c were r and were called c. 1 is what any constant or blind classifier gets, in every
    pair; 0 is a pair that is never confused. A pair that no answer could confuse counts 1.
    """
    counts = np.asarray(counts, dtype=float)
    blind = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    mixed, expected = counts + counts.T, blind + blind.T
    pairs = zip(*np.triu_indices(len(counts), 1))
    return {(int(a), int(b)): mixed[a, b] / expected[a, b] if expected[a, b] else 1.0 for a, b in pairs}


def first_pair(run: Run, other: Run | None = None) -> float:
    """``pair_confusion`` of stages 0 and I."""
    return pair_confusion(run["confusion"])[0, 1]


def other_pairs(run: Run, other: Run | None = None) -> float:
    """The largest ``pair_confusion`` of any other two stages."""
    return max(value for pair, value in pair_confusion(run["confusion"]).items() if pair != (0, 1))


def always_stage_0(run: Run) -> Run:
    """The same cases before a classifier that always answers stage 0."""
    return {"confusion": [[sum(row), *[0] * (len(row) - 1)] for row in run["confusion"]]}


def blind_first_pair(run: Run, other: Run | None = None) -> float:
    """``first_pair`` of a classifier that always answers stage 0."""
    return first_pair(always_stage_0(run))


def blind_other_pairs(run: Run, other: Run | None = None) -> float:
    """``other_pairs`` of a classifier that always answers stage 0."""
    return other_pairs(always_stage_0(run))


FUNCTIONS = {f.__name__: f for f in (findings_won, rank_agreement, early_gini, first_pair, other_pairs, blind_first_pair, blind_other_pairs)}  # fmt: skip
READERS: dict[str, Callable[[Any], Read]] = {
    "at": lambda keys: at(*keys),
    "small": lambda keys: small(*keys),
    "phrase": lambda arguments: phrase(*arguments),
    "chosen_phrase": lambda arguments: chosen_phrase(*arguments),
    "map": lambda keys: small(*keys, root="map_controls"),
    "sentence": lambda keys: small(*keys, root="sentence_grounding"),
    "function": FUNCTIONS.__getitem__,
    "constant": lambda value: lambda run, other=None: float(value),
}


def _measure(deltas: Mapping[str, float], kind: str, **how: Any) -> Measure:
    ((reader, arguments),) = how.items()
    return Measure(kind, deltas[kind], READERS[reader](arguments))


LISTED = yaml.safe_load((DATA / "measures.yaml").read_text(encoding="utf-8"))
MEASURES = {name: _measure(LISTED["deltas"], **how) for name, how in LISTED["measures"].items()}
"""Every measure by the name under which claims, chapters and the ledger know it."""

"""What a claim can be about: numbers read from one seed's run of a record, each with its kind.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LARGE_FINDINGS = ("cardiomegaly", "edema", "pneumoconiosis")  # fill half of the chest: any map hits them
OWN_TAU = 0.02  # MaCo's temperature of the weight map at test time
Run = Mapping[str, Any]
Read = Callable[..., float]  # of a run, and of the run that it is compared with


@dataclass(frozen=True)
class Measure:
    """A number of one run: its kind, which decides the smallest difference that matters, and how it is read."""

    kind: str
    read: Read


def at(*path: str) -> Read:
    """Reads what stands at the end of these keys."""

    def read(run: Run, other: Run | None = None) -> float:
        value: Any = run
        for key in path:
            value = value[key]
        return float(value)

    return read


def constant(value: float) -> Read:
    """The same number for every run, such as what chance would give."""
    return lambda run, other=None: value


def small(*path: str) -> Read:
    """Mean of a grounding measure over the findings that do not fill half of the chest."""

    def read(run: Run, other: Run | None = None) -> float:
        return float(np.mean([at(*path)(scores) for name, scores in run["grounding"].items() if name not in LARGE_FINDINGS]))  # fmt: skip

    return read


def phrase(measure: str, tau_w: float | None, sigma: float = 1.5) -> Read:
    """Mean of a phrase grounding measure over small findings, at one ``tau_w`` (None: no patch is weighted) and smoothing."""

    def read(run: Run, other: Run | None = None) -> float:
        rows = (row for row in run["phrase_grounding"] if (row["tau_w"], row["sigma"]) == (tau_w, sigma))
        return float(np.mean([row[measure] for row in rows if row["entity"] not in LARGE_FINDINGS]))

    return read


def larger(*reads: Read) -> Read:
    """The largest of several readings of one run."""
    return lambda run, other=None: max(read(run) for read in reads)


def lung_share(run: Run, other: Run | None = None) -> float:
    """The share of the final weight map that lies inside the lungs."""
    return float(run["lungs"]["by_step"][-1][str(OWN_TAU)])


def findings_won(run: Run, other: Run) -> float:
    """The share of findings whose AUC is larger in ``run`` than in ``other``; equal ones count half."""
    pairs = [(run["auc"][name]["value"], other["auc"][name]["value"]) for name in run["auc"] if name in other["auc"]]
    return float(np.mean([(own > its) + 0.5 * (own == its) for own, its in pairs]))


def rank_agreement(run: Run, other: Run | None = None) -> float:
    """Spearman's rank correlation, over small findings, of AUC with the contrast-to-noise ratio of the map."""
    from scipy.stats import spearmanr

    names = [name for name in run["grounding"] if name not in LARGE_FINDINGS and name in run["auc"]]
    return float(spearmanr([run["auc"][n]["value"] for n in names], [run["grounding"][n]["cnr"] for n in names])[0])


def pair_confusion(counts: np.ndarray) -> dict[tuple[int, int], float]:
    """How often two classes are taken for each other, over how often they would be if the answers ignored the image.

    ``counts`` (K, K): row r, column c were r and were called c. 1 is what any constant or blind classifier gets, in every
    pair; 0 is a pair that is never confused. A pair that no answer could confuse counts 1.
    """
    counts = np.asarray(counts, dtype=float)
    true, called = counts.sum(axis=1), counts.sum(axis=0)
    blind = np.outer(true, called) / counts.sum()
    mixed, expected = counts + counts.T, blind + blind.T
    pairs = zip(*np.triu_indices(len(counts), 1))
    return {(int(a), int(b)): mixed[a, b] / expected[a, b] if expected[a, b] else 1.0 for a, b in pairs}


def _confusions(run: Run, blind: bool) -> dict[tuple[int, int], float]:
    counts = np.asarray(run["confusion"], dtype=float)
    if blind:
        counts = np.stack([counts.sum(axis=1), *np.zeros((len(counts) - 1, len(counts)))], axis=1)
    return pair_confusion(counts)


def first_pair(blind: bool = False) -> Read:
    """``pair_confusion`` of stages 0 and I; ``blind`` puts a classifier that always answers stage 0 in the run's place."""
    return lambda run, other=None: _confusions(run, blind)[0, 1]


def other_pairs(blind: bool = False) -> Read:
    """The largest ``pair_confusion`` of any other two stages."""
    return lambda run, other=None: max(value for pair, value in _confusions(run, blind).items() if pair != (0, 1))


def _families() -> Iterator[tuple[str, Measure]]:
    for name, key in {"pointing": "pointing", "IoU": "iou", "Dice": "dice", "CNR": "cnr"}.items():
        yield name, Measure(key, small(key))
    for key in ("recall", "precision"):
        yield f"detection {key}", Measure("share", small(f"detection_{key}"))
    for name, key, kind in (("CNR", "cnr", "cnr"), ("mIoU", "miou", "iou"), ("pointing", "pointing", "pointing")):
        yield f"phrase {name}", Measure(kind, phrase(key, OWN_TAU))
        yield f"phrase {name}, no weights", Measure(kind, phrase(key, None))
        yield f"phrase {name}, better end of tau_w", Measure(kind, larger(phrase(key, None), phrase(key, 0.01)))
    for asked in ("name", "known type", "description"):
        yield f"unseen AUC, by {asked}", Measure("auc", at("unseen", asked, "value"))
        for name, key in {"F1": "f1", "accuracy": "accuracy"}.items():
            yield f"unseen {name}, by {asked}", Measure(key, at("unseen", asked, key))
    for task, path in {"multi-label": "multi", "single-label": "single", "fine-grained": "fine"}.items():
        for name, key in {"F1": "f1", "accuracy": "accuracy"}.items():
            yield f"{task} {name}", Measure(key, at(path, key))
    for way in ("image_to_text", "text_to_image"):
        for k in ("1", "3", "10"):
            yield f"P@{k}, {way.replace('_', ' ')}", Measure("share", at("retrieval", "category", way, "precision", k))
        yield f"chance, {way.replace('_', ' ')}", Measure("share", at("retrieval", "category", way, "chance"))
    for share in ("1 %", "10 %", "100 %"):
        yield f"probe AUC, {share}", Measure("auc", at("probe", share, "auc"))
        yield f"random probe AUC, {share}", Measure("auc", at("probe_random", share, "auc"))
    for key in ("accuracy", "sensitivity", "specificity", "mean"):
        yield f"staging {key}", Measure("accuracy", at("scores", key))


MEASURES: dict[str, Measure] = {
    "AUC": Measure("auc", at("macro_auc", "value")),
    "F1": Measure("f1", at("max_f1_threshold_from_val")),
    "findings won": Measure("share", findings_won),
    "half": Measure("share", constant(0.5)),
    "zero": Measure("share", constant(0.0)),
    "location prior": Measure("pointing", small("baselines", "average lesion")),
    "random map": Measure("pointing", small("baselines", "random")),
    "centre box": Measure("pointing", small("baselines", "centre")),
    "pointing, pneumothorax": Measure("pointing", at("grounding", "pneumothorax", "pointing")),
    "rank agreement of AUC and CNR": Measure("correlation", rank_agreement),
    "probe AUC": Measure("auc", at("probe", "macro", "value")),
    "lung share": Measure("share", lung_share),
    "lung area": Measure("share", at("lungs", "area")),
    "severity accuracy": Measure("accuracy", at("fine", "severity_accuracy")),
    "severity AUC": Measure("auc", at("fine", "severity_auc")),
    "purity": Measure("share", at("purity")),
    "chance purity": Measure("share", at("purity_chance")),
    "read-out accuracy": Measure("accuracy", at("probe", "accuracy")),
    "same-stage retrieval": Measure("share", at("same_stage_retrieval")),
    "largest stage": Measure("accuracy", at("majority")),
    "staging F1": Measure("f1", at("scores", "f1")),
    "staging AUC": Measure("auc", at("scores", "auc")),
    "staging kappa": Measure("kappa", at("kappa")),
    "accuracy of the surest 80 %": Measure("accuracy", at("doubt", "max", "accuracy_kept", "80%")),
    "AUC of uncertainty for errors": Measure("auc", at("doubt", "max", "auc")),
    "confusion of 0 and I": Measure("ratio", first_pair()),
    "confusion of another pair": Measure("ratio", other_pairs()),
    "constant answer, 0 and I": Measure("ratio", first_pair(blind=True)),
    "constant answer, another pair": Measure("ratio", other_pairs(blind=True)),
    "Grad-CAM inside": Measure("share", at("grad_cam", "energy")),
    "even map inside": Measure("share", at("grad_cam", "uniform")),
    **dict(_families()),
}
"""Every measure by the name under which claims, chapters and the ledger know it."""

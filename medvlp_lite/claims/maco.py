"""What MaCo's papers claim, as questions to the records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medvlp_lite.claims.base import Comparison, Measure, macro_auc

CHAPTER = "05_masked_contrastive"
CONTRASTIVE, WEIGHTED = "maco_contrastive", "maco"
OWN_TAU = 0.02
SMALL = "zero-shot on phantoms, small ViT, 196 patches of a 56-pixel image"


def phrase_measure(measure: str, tau_w: float | None, sigma: float = 1.5) -> Measure:
    """Mean over findings of a grounding measure at one ``tau_w`` (None: no patch is weighted) and smoothing."""

    def value(run: Mapping[str, Any]) -> float:
        rows = [row for row in run["phrase_grounding"] if row["tau_w"] == tau_w and row["sigma"] == sigma]
        return float(np.mean([row[measure] for row in rows]))

    return value


def lung_share(run: Mapping[str, Any], tau_w: float = OWN_TAU) -> float:
    """The share of the final weight map that lies inside the lungs."""
    return run["lungs"]["by_step"][-1][str(tau_w)]


def lung_area(run: Mapping[str, Any]) -> float:
    """The share of the image that lungs cover: what equal weights would have inside."""
    return run["lungs"]["area"]


def probe_auc(run: Mapping[str, Any]) -> float:
    """Macro AUC of a linear probe on frozen features."""
    return run["probe"]["macro"]["value"]


COMPARISONS = (
    Comparison(CONTRASTIVE, WEIGHTED, macro_auc, "Correlation weighting raises zero-shot AUC",
        "not reported zero-shot; fine-tuned on 1 % of RSNA 90.9 to 91.5", SMALL, CHAPTER),
    Comparison(CONTRASTIVE, WEIGHTED, probe_auc, "Correlation weighting improves the features",
        "fine-tuned AUC on 1 / 100 % of RSNA 90.9 / 93.0 to 91.5 / 93.6", "linear probe instead of fine-tuning", CHAPTER),
    Comparison(CONTRASTIVE, WEIGHTED, phrase_measure("cnr", OWN_TAU), "Correlation weighting raises CNR of phrase grounding",
        "MS-CXR .860 to 1.144", SMALL, CHAPTER, baseline=phrase_measure("cnr", None)),
    Comparison(CONTRASTIVE, WEIGHTED, phrase_measure("miou", OWN_TAU), "Correlation weighting raises mIoU of phrase grounding",
        "MS-CXR .212 to .255", SMALL, CHAPTER, baseline=phrase_measure("miou", None)),
    Comparison(CONTRASTIVE, WEIGHTED, phrase_measure("pointing", OWN_TAU), "Correlation weighting helps the pointing game",
        "MS-CXR, arXiv version, .366 to .429", SMALL, CHAPTER, baseline=phrase_measure("pointing", None)),
    Comparison(WEIGHTED, WEIGHTED, phrase_measure("cnr", OWN_TAU), "Using the weight map at test time raises CNR",
        "MS-CXR, best at tau_w .01 (1.149) and .02 (1.144)", SMALL, CHAPTER, baseline=phrase_measure("cnr", None)),
    Comparison(WEIGHTED, WEIGHTED, lung_share, "The weight map gathers on the lungs",
        "shown as a picture by epoch", "share inside the lungs against the lungs' share of the image", CHAPTER,
        baseline=lung_area),
)  # fmt: skip

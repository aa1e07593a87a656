"""What MSK-PT's paper claims of its first stage, as questions to the records. Staging has its own room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlp_lite.claims.base import Comparison

CHAPTER = "07_prototype_alignment"
FULL, GLOBAL = "mskpt", "mskpt_global"
TOKEN_ONLY, PROTOTYPE_ONLY = "mskpt_no_prototype", "mskpt_no_token"
TABLE = "Table 5 lost; the loss ablation's text states the direction"
RECONSTRUCTION = "our reconstruction of lost formulas; phantoms; frozen features read out linearly"


def stage_purity(run: Mapping[str, Any]) -> float:
    """Share of an image's ten nearest neighbours that are of its stage."""
    return run["purity"]


def probe_accuracy(run: Mapping[str, Any]) -> float:
    """Accuracy of a linear read-out of the frozen image features, four stages."""
    return run["probe"]["accuracy"]


COMPARISONS = (
    Comparison(GLOBAL, FULL, stage_purity, "Similarity-aware alignment makes clusters of stages more distinct",
        "Figure 8, t-SNE; no number given", RECONSTRUCTION, CHAPTER),
    Comparison(GLOBAL, TOKEN_ONLY, probe_accuracy, "Token-wise alignment adds to global alignment", TABLE,
        RECONSTRUCTION, CHAPTER),
    Comparison(GLOBAL, PROTOTYPE_ONLY, probe_accuracy, "Prototype-wise alignment adds to global alignment", TABLE,
        RECONSTRUCTION, CHAPTER),
    Comparison(GLOBAL, FULL, probe_accuracy, "Both together add to global alignment", TABLE, RECONSTRUCTION, CHAPTER),
    Comparison(TOKEN_ONLY, PROTOTYPE_ONLY, probe_accuracy, "Leaving out prototypes costs more than leaving out tokens", TABLE,
        RECONSTRUCTION, CHAPTER),
)  # fmt: skip

"""What MedKLIP's paper claims, as questions to the records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlp_lite.claims.base import Comparison, macro_auc, small_pointing, unseen_auc

CHAPTER = "04_entity_fusion"
BASELINE, FULL = "convirt", "medklip"
NAMES, NO_POSITION, NO_CROP = "medklip_names", "medklip_names_no_position", "medklip_no_crop"
TEXTS = "frozen word vectors instead of Bio_ClinicalBERT"


def location_prior(run: Mapping[str, Any]) -> float:
    """What pointing at each finding's usual place in training scores, over the findings of ``small_pointing``."""
    return small_pointing(run, lambda scores: scores["baselines"]["average lesion"])


COMPARISONS = (
    Comparison(BASELINE, FULL, macro_auc, "Entity queries beat whole-report contrast in zero-shot AUC",
        "ConVIRT .804 / .610, MedKLIP .869 / .768 (RSNA / ChestX-ray14)", "other data and scale", CHAPTER),
    Comparison(BASELINE, FULL, small_pointing, "Entity queries ground better than whole-report contrast",
        "pointing game on RSNA: BioViL .834, MedKLIP .872 (ConVIRT not reported)",
        "small findings of the phantom, other baseline", CHAPTER),
    Comparison(FULL, FULL, small_pointing, "Attention points better than the usual place of each finding",
        "not tested in the paper", "a baseline that never looks", CHAPTER, location_prior),
    Comparison(NO_CROP, FULL, small_pointing, "Random crops help grounding",
        "not tested in the paper; the released code crops", "crops of half the area or more", CHAPTER),
    Comparison(NO_POSITION, NAMES, macro_auc, "The position loss raises zero-shot AUC",
        "ChestX-ray14 .750 to .762", "other scale; 12 entities instead of 75", CHAPTER),
    Comparison(NO_POSITION, NAMES, small_pointing, "The position loss helps grounding",
        "RSNA pointing game .798 to .842", "other scale; 12 entities instead of 75", CHAPTER),
    Comparison(NAMES, FULL, macro_auc, "Descriptions raise zero-shot AUC",
        "ChestX-ray14 .762 to .768 (but SIIM .902 to .892)", TEXTS, CHAPTER),
    Comparison(NAMES, FULL, small_pointing, "Descriptions help grounding",
        "RSNA pointing game .842 to .872", TEXTS, CHAPTER),
    Comparison(NAMES, FULL, unseen_auc, "Descriptions let the model recognise an unseen disease",
        "COVID-19 AUC by name .656, by description .740", "word vectors; 12 training entities instead of 75", CHAPTER),
)  # fmt: skip

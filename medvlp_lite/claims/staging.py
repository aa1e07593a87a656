"""What MSK-PT's paper claims of staging and doubt, as questions to the records. Its tables are lost: most values are words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medvlp_lite.claims.base import Comparison

CHAPTER = "08_uncertainty_staging"
FULL = "staging"
PHANTOM = "reconstructed formulas, phantoms, small networks, short training"


def mean_of_five(run: Mapping[str, Any]) -> float:
    """The mean of accuracy, sensitivity, specificity, F1 and AUC of one seed's run."""
    return run["scores"]["mean"]


def accuracy(run: Mapping[str, Any]) -> float:
    """Exact-match accuracy of one seed's run."""
    return run["scores"]["accuracy"]


def kept_accuracy(run: Mapping[str, Any], share: str = "80%") -> float:
    """Accuracy of the answers kept when the least sure are referred, by 1 - max p."""
    return run["doubt"]["max"]["accuracy_kept"][share]


def confusion_share(run: Mapping[str, Any], first: int, second: int) -> float:
    """The share of the cases of two stages that was taken for the other of the two."""
    counts = np.asarray(run["confusion"])
    return float((counts[first, second] + counts[second, first]) / max(counts[[first, second]].sum(), 1))


def normal_and_first(run: Mapping[str, Any]) -> float:
    """Confusion of stage 0 with stage I."""
    return confusion_share(run, 0, 1)


def worst_other_pair(run: Mapping[str, Any]) -> float:
    """The largest confusion of any pair of stages but 0 and I."""
    return max(confusion_share(run, a, b) for a in range(4) for b in range(a + 1, 4) if (a, b) != (0, 1))


def energy(run: Mapping[str, Any]) -> float:
    """Share of Grad-CAM's energy inside the true opacities."""
    return run["grad_cam"]["energy"]


def claim(worse: str, better: str, measure, text: str, paper: str, baseline=None) -> Comparison:
    """A question about staging: is ``measure`` larger in the record ``better`` than in ``worse``?"""
    return Comparison(worse, better, measure, text, paper, PHANTOM, CHAPTER, baseline)


LOST = "values lost; said in words"
COMPARISONS = (
    claim("staging_scratch", FULL, accuracy, "Pretraining with reports raises staging accuracy",
          "best baseline 79.2 % (derived), MSK-PT 81.73 %"),
    claim("staging_scratch", "staging_no_distillation", accuracy, "Starting from stage 1, without distillation, raises staging accuracy",
          "not in the paper: our control"),
    claim("staging_no_distillation", FULL, mean_of_five, "Distillation through both banks helps staging", LOST),
    claim("staging_scratch", "staging_light", accuracy, "Pretraining raises staging accuracy where distillation counts a tenth",
          "not in the paper: our control"),
    claim("staging_scratch", "staging_no_uncertainty", accuracy, "Pretraining raises staging accuracy where both losses are plain",
          "not in the paper: our control"),
    claim("staging_scratch_longer", FULL, accuracy, "Pretraining beats as many steps, stage 1 included, on labels alone", "not in the paper: our control"),
    claim("staging_no_global", FULL, mean_of_five, "Global alignment helps staging", LOST),
    claim("staging_no_sma", FULL, mean_of_five, "Token- and prototype-wise alignment help staging", LOST),
    claim("staging_no_token", FULL, mean_of_five, "Token-wise alignment helps staging", LOST),
    claim("staging_no_prototype", FULL, mean_of_five, "Prototype-wise alignment helps staging", LOST),
    claim("staging_no_prototype", "staging_no_token", mean_of_five, "Losing prototypes hurts staging more than losing tokens", LOST),
    claim("staging_no_data", FULL, mean_of_five, "The shared data feature helps staging", LOST),
    claim("staging_no_text", FULL, mean_of_five, "The shared text feature helps staging", LOST),
    claim("staging_no_uncertainty", FULL, mean_of_five, "Weighting by certainty helps staging", LOST),
    claim("staging_scratch_25", "staging_25", accuracy, "With a quarter of the labels, pretraining still helps",
          "little is lost with 25 % of the labels (values lost)"),
    claim("staging_noise_40_none", "staging_noise_40_linear", accuracy, "Weighting by certainty protects from wrong labels",
          "said of the uncertainty threshold; no figures"),
    claim(FULL, FULL, kept_accuracy, "Accuracy rises when the least sure fifth is referred",
          "shown on four cases", accuracy),
    claim(FULL, FULL, normal_and_first, "Stage 0 and stage I are confused most", "read off the confusion matrix", worst_other_pair),
    claim("staging_scratch", FULL, energy, "Grad-CAM lies more inside the lesions after pretraining", "shown on four cases"),
)  # fmt: skip

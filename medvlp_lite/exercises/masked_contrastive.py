"""Checkers of the exercises of chapter 05_masked_contrastive."""

import math

import numpy as np
import torch

from medvlp_lite.components.masked_contrastive import importance
from medvlp_lite.components.reconstruction import position_map, random_masking
from medvlp_lite.evaluation.grounding import contrast_to_noise
from medvlp_lite.notebook import exercise, require
from medvlp_lite.systems.maco import MaCo

REGION = np.zeros((14, 14), dtype=bool)
REGION[4:9, 3:7] = True


@exercise((np.ndarray, list, torch.Tensor), "a 14 x 14 array")
def check_disagreement(answer) -> None:
    """A map whose contrast-to-noise ratio on ``REGION`` is above 1 and whose largest value lies outside."""
    heat = np.asarray(answer, dtype=float)
    require(heat.shape == REGION.shape, "One number for each of the 14 x 14 patches.")
    require(np.isfinite(heat).all(), "Every number must be finite.")
    require(contrast_to_noise(heat, REGION) > 1, "The region must be brighter than the rest on average.")
    require(heat[~REGION].max() > heat[REGION].max(), "The single largest value must lose the pointing game.")


@exercise(tuple, "the pair (system, importance)")
def check_joint(answer: tuple) -> None:
    """A MaCo trained with the paper's joint weighting, and its mean importance."""
    require(len(answer) == 2, "Two things: the trained system and one number.")
    system, given = answer
    require(isinstance(system, MaCo), "The first is a MaCo.")
    require(system.config.weighting == "joint", "It does not train with the joint weighting.")
    score = system.importance_score
    require(bool(score.weight.detach().any()), "Its score layer is still as it was made: train it.")
    torch.manual_seed(0)
    seen = position_map(random_masking(500, system.image_encoder.grid, 0.5, block=system.config.block), system.patches)
    with torch.no_grad():
        mean = float(importance(score(seen.to(system.device))).mean())
    require(math.isclose(given, mean, rel_tol=0.15, abs_tol=0.01), "That is not the mean importance of its views.")

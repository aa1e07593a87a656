"""Checkers of the exercises of chapter 07_prototype_alignment."""

from collections.abc import Callable

import numpy as np
import torch

from medvlp_lite.components.prototype_alignment import sinkhorn
from medvlp_lite.notebook import exercise, require
from medvlp_lite.systems.mskpt import MSKPT
from medvlp_lite.training import History


@exercise(Callable, "a function of stages (B,) that gives a bool tensor (B, B)")
def check_near_positives(answer: Callable) -> None:
    """Pairs at most one stage apart count as positive."""
    got = torch.as_tensor(answer(torch.tensor([0, 1, 3, -1, -1])))
    require(tuple(got.shape) == (5, 5) and got.dtype == torch.bool, "Five patients need 5 x 5 truth values.")
    require(bool(got.diagonal().all()), "A patient's own report is always right.")
    require(bool(got[0, 1] and got[1, 0]), "Neighbouring stages are positive, from both sides.")
    require(not got[0, 2] and not got[1, 2], "At most one stage apart.")
    require(not got[3, 4] and not got[0, 3], "Unknown is not a stage: it is near to nothing.")


@exercise((np.ndarray, list, torch.Tensor), "a 6 x 3 array")
def check_stubborn(answer) -> None:
    """Similarities for which three rounds of Sinkhorn do not reach equal use."""
    similarity = torch.as_tensor(np.asarray(answer, dtype=float))
    require(tuple(similarity.shape) == (6, 3), "Six patients, three prototypes.")
    require(bool((similarity.abs() <= 1).all()), "Cosines lie between -1 and 1.")
    used = float(sinkhorn(similarity).sum(dim=0).min())
    require(used < 1.0, f"The least used prototype still has {used:.2f} of its fair share of 2.")


@exercise(tuple, "the pair (system, history)")
def check_class_training(answer: tuple) -> None:
    """A stage-1 system trained with one prototype per stage."""
    require(len(answer) == 2, "Two things: the trained system and what fit returned.")
    system, history = answer
    require(isinstance(system, MSKPT), "The first is an MSKPT.")
    require(system.config.prototypes == "class", "Its prototypes do not know the stage.")
    require(isinstance(history, History), "The second is what fit returned.")
    terms = history.terms.get("prototype", [])
    require(len(terms) > 1 and any(terms), "Its prototypes saw no stage: train on studies that keep some.")

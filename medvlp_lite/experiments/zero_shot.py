"""The baseline, and the bound that is told the labels. Built in chapter 03_contrastive_baseline."""

from dataclasses import replace
from typing import Any

from medvlp_lite.experiments.draws import Draw
from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row, shuffled
from medvlp_lite.phantom.patients import ENTITIES

DRAW = Draw()
SHARED = {"start": "start"}  # what every row starts from: its part -> row
HEADLINE = ("macro_auc/value", "pointing/small")
# Learning rate and crop of each system were chosen on a draw that no row uses (benchmarks/tuning.json). Where crops changed the
# AUC by less than .01 they are on: MedKLIP's released code has them, and its maps need them.
CROP = 0.5  # the share of an image that is kept at least
CONTRAST = Training(2e-3, crop=CROP)
SMALL_BATCHES = Training(2e-3, times=2, batch=0.5, crop=CROP)
SEEN = ("zero_shot", "prompts", "grounding", "label probe", "counterfactual")
ASKED = (*SEEN, "unseen", "unseen grounding")
"""What is measured of every system in the one table; "unseen" of those that can be asked about what they were not built for."""


def _row(name: str, system: str, training: Training, measures: tuple[str, ...], value: int = 2, **how: Any) -> Row:
    headline = (*HEADLINE, "unseen/description/value") if "unseen" in measures else HEADLINE
    how = {"parents": SHARED, "validation": "macro_auc", **how}
    return Row(name, system, DRAW, training, measures, headline=headline, value=value, **how)


def _bound(name: str, value: int = 2, training: Training = SMALL_BATCHES, **how: Any) -> Row:
    """Told the labels; each finding has an attention of its own, since an average over the image drowns what is small."""
    return _row(name, "supervised", training, SEEN, value, options={"entities": ENTITIES, "head": "attention"}, **how)


def longer(row: Row) -> Row:
    """The same with twice the images, from one draw: is the row fitted?"""
    training = replace(row.training, times=2 * row.training.times)
    return replace(row, name=f"{row.name}_longer", training=training, seeds=1, value=3)


CONVIRT, BOUND = _row("convirt", "convirt", CONTRAST, ASKED, 4), _bound("supervised", 4)

ROWS = (
    CONVIRT,
    BOUND,
    longer(CONVIRT),
    longer(BOUND),
    # from random weights
    _row("convirt_random", "convirt", CONTRAST, ASKED, parents={}),
    _bound("supervised_random", parents={}),
    # nothing can be learned from these pairs
    _row("convirt_shuffled", "convirt", CONTRAST, ASKED, train_set=shuffled),
)

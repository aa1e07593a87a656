"""The baseline, and the bound that is told the labels. Built in chapter 03_contrastive_baseline."""

from typing import Any

from medvlp_lite.experiments.draws import Draw
from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row, shuffled
from medvlp_lite.phantom.patients import ENTITIES

DRAW = Draw()
SHARED = {"start": "start"}  # what every row starts from: its part -> row
HEADLINE = ("macro_auc/value", "pointing/small")
SEEN = ("zero_shot", "prompts", "grounding", "label probe", "counterfactual")
ASKED = (*SEEN, "unseen", "unseen grounding")
"""What is measured of every system in the one table; "unseen" of those that can be asked about what they were not built for."""


def _row(name: str, system: str, rate: float, measures: tuple[str, ...], value: int = 3, **how: Any) -> Row:
    headline = (*HEADLINE, "unseen/description/value") if "unseen" in measures else HEADLINE
    how = {"parents": SHARED, **how}
    return Row(
        name, system, DRAW, Training(rate), measures, validation="macro_auc", headline=headline, value=value, **how
    )


ROWS = (
    _row("convirt", "convirt", 1e-3, ASKED, 4),
    _row("supervised", "supervised", 2e-3, SEEN, 4, options={"entities": ENTITIES}),
    # the same from random weights
    _row("convirt_random", "convirt", 1e-3, ASKED, 2, parents={}),
    _row("supervised_random", "supervised", 2e-3, SEEN, 2, options={"entities": ENTITIES}, parents={}),
    # nothing can be learned from these pairs
    _row("convirt_shuffled", "convirt", 1e-3, ASKED, 2, train_set=shuffled),
)

"""The baseline, and the bound that is told the labels. Built in chapter 03_contrastive_baseline."""

from medvlp_lite.experiments.draws import Draw
from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row
from medvlp_lite.phantom.patients import ENTITIES

DRAW = Draw(cap=9000)
STEPS = {"cap": 1000, "least": 0.5}
SHARED = {"start": "start"}  # what every row starts from: its part -> row
HEADLINE = ("macro_auc/value", "pointing/small")

ROWS = (
    Row(
        "convirt", "convirt", DRAW, Training(1e-3, **STEPS), ("zero_shot", "grounding", "unseen", "label probe"), parents=SHARED,
        validation="macro_auc", headline=(*HEADLINE, "unseen/description/value"), value=3,
    ),
    Row(
        "supervised", "supervised", DRAW, Training(2e-3, **STEPS), ("zero_shot", "grounding", "label probe"), parents=SHARED,
        options={"entities": ENTITIES}, validation="macro_auc", headline=HEADLINE, value=3,
    ),
    # the same from random weights
    Row(
        "convirt_random", "convirt", DRAW, Training(1e-3, **STEPS), ("zero_shot", "grounding", "label probe"),
        validation="macro_auc", headline=HEADLINE, value=2,
    ),
    Row(
        "supervised_random", "supervised", DRAW, Training(2e-3, **STEPS), ("zero_shot", "grounding", "label probe"),
        options={"entities": ENTITIES}, validation="macro_auc", headline=HEADLINE, value=2,
    ),
)  # fmt: skip

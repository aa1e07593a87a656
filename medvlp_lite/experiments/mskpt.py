"""MSK-PT's first stage with and without its parts, and how often reports repeat. Built in chapter 07_prototype_alignment."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from medvlp_lite.experiments.draws import Draw
from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row, shuffled, whole
from medvlp_lite.experiments.zero_shot import ASKED, HEADLINE, SHARED
from medvlp_lite.experiments.zero_shot import DRAW as CHEST
from medvlp_lite.studies import StudyDataset

DRAW = Draw(screening=True)
TRAINING = Training(2e-3)  # chosen on the tuning draw
GLOBAL = {"token_weight": 0.0, "prototype_weight": 0.0}
CATEGORIES: dict[str, dict[str, Any]] = {
    "mskpt_global": GLOBAL,
    "mskpt_no_token": {"token_weight": 0.0},
    "mskpt_class": {"token_weight": 0.0, "prototypes": "class"},
    "mskpt_supervised": {"token_weight": 0.0, "prototypes": "supervised"},
}
"""Whole pairs alone, then with categories: learned without labels, one per stage, or every pair of a stage as a positive."""
REPEATED = (0.5, 1.0)  # shares of reports that repeat word for word; the rows above have 0


def _row(
    name: str, value: int, draw: Draw = DRAW, train_set: Callable[..., StudyDataset] = whole, **options: Any
) -> Row:
    return Row(
        name, "mskpt", draw, TRAINING, ("stage one",), options=options, validation="purity",
        headline=("purity", "probe/accuracy"), value=value, parents=SHARED, train_set=train_set,
    )  # fmt: skip


def _chest(name: str, **options: Any) -> Row:
    return Row(
        name, "mskpt", CHEST, TRAINING, ASKED, options=options, parents=SHARED, validation="macro_auc",
        headline=HEADLINE, value=4,
    )  # fmt: skip


ROWS = (
    # on phantoms with all findings, for the table of all systems
    _chest("mskpt_chest"),
    _chest("mskpt_chest_global", **GLOBAL),
    # on a screening
    _row("mskpt", 4),
    _row("mskpt_global", 3, **GLOBAL),
    _row("mskpt_no_token", 3, **CATEGORIES["mskpt_no_token"]),
    _row("mskpt_no_prototype", 2, prototype_weight=0.0),
    _row("mskpt_no_global", 2, global_weight=0.0),
    _row("mskpt_class", 3, **CATEGORIES["mskpt_class"]),
    _row("mskpt_supervised", 2, **CATEGORIES["mskpt_supervised"]),
    _row("mskpt_labels", 3, label_weight=1.0),
    _row("mskpt_global_labels", 2, **GLOBAL, label_weight=1.0),
    _row("mskpt_batch_tokens", 2, tokens="batch"),
    _row("mskpt_shuffled", 2, train_set=shuffled),
    *(
        _row(f"{name}_repeat_{share:.0%}".rstrip("%"), 2, draw=replace(DRAW, repeat=share), **CATEGORIES[name])
        for share in REPEATED
        for name in ("mskpt_global", "mskpt_no_token", "mskpt_class")
    ),
)

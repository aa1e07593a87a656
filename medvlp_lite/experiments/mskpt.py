"""MSK-PT's first stage with and without its parts. Built in chapter 07_prototype_alignment."""

from typing import Any

from medvlp_lite.experiments.draws import Draw
from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row

DRAW = Draw(cap=8000, screening=True)
TRAINING = Training(1e-3, cap=250, least=1 / 6)  # the screening has fewer phantoms, and stage 2 goes on from here


def _row(name: str, value: int, **options: Any) -> Row:
    return Row(
        name, "mskpt", DRAW, TRAINING, ("stage one",), options=options, validation="purity",
        headline=("purity", "probe/accuracy"), value=value,
    )  # fmt: skip


ROWS = (
    _row("mskpt", 3),
    _row("mskpt_no_token", 2, token_weight=0.0),
    _row("mskpt_no_prototype", 2, prototype_weight=0.0),
    _row("mskpt_global", 3, token_weight=0.0, prototype_weight=0.0),
    _row("mskpt_no_global", 2, global_weight=0.0),
)

"""MedKLIP and its ablations, beside the baseline. Built in chapter 04_entity_fusion."""

from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row
from medvlp_lite.experiments.zero_shot import DRAW, HEADLINE, STEPS
from medvlp_lite.phantom.patients import ENTITIES

CROP = 0.5  # chosen on validation phantoms; 0.2 in the official MedKLIP code
MEASURES = ("zero_shot", "grounding", "unseen")


def _row(name: str, value: int, crop: float = CROP, **options) -> Row:
    """As many images as the baseline sees, in twice the steps: a decoder converges by their number."""
    return Row(
        name, "medklip", DRAW, Training(1e-3, times=2, batch=0.5, crop=crop, **STEPS), MEASURES,
        options={"entities": ENTITIES, **options}, validation="macro_auc",
        headline=(*HEADLINE, "unseen/description/value"), value=value,
    )  # fmt: skip


ROWS = (
    _row("medklip", 3),
    _row("medklip_names", 2, use_descriptions=False),
    _row("medklip_names_no_position", 2, use_descriptions=False, position_weight=0.0),
    _row("medklip_no_crop", 2, crop=1.0),
)

"""MedKLIP, its ablations, and the controls that tell what each part of it is worth. Built in chapter 04_entity_fusion."""

from dataclasses import replace
from typing import Any

from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row
from medvlp_lite.experiments.zero_shot import CROP, DRAW, HEADLINE, SHARED, longer
from medvlp_lite.phantom.patients import ENTITIES, SIGNS
from medvlp_lite.reports.vocabulary import vocabulary

# As many images as the others see, in twice the steps of half the batch: a decoder converges by their number. The norm in the
# decoder and no dropout became the default after one seed on an earlier phantom, whose test part was read.
TRAINING = Training(1e-3, times=2, batch=0.5, crop=CROP)
SEEN = ("zero_shot", "grounding", "counterfactual")
ASKED = (*SEEN, "unseen", "unseen grounding")
READ_OUT = ("prompts", "label probe")


def _row(name: str, value: int, *more: str, system: str = "medklip", crop: float = CROP, **options: Any) -> Row:
    textless = system == "supervised" or options.get("text_model") == "one-hot"
    return Row(
        name, system, DRAW, replace(TRAINING, crop=crop), ((SEEN if textless else ASKED) + more),
        options={"entities": ENTITIES, **options}, validation="macro_auc",
        headline=HEADLINE if textless else (*HEADLINE, "unseen/description/value"), value=value, parents=SHARED,
    )  # fmt: skip


def _without(entity: str) -> Row:
    """MedKLIP without this finding's labels and query; its images and the sentences about it, which nobody reads, stay."""
    return Row(
        f"medklip_without_{entity.replace(' ', '_')}", "medklip", DRAW, TRAINING, ("held out",),
        options={"entities": tuple(name for name in ENTITIES if name != entity)}, validation="macro_auc",
        headline=("held_out/name/value", "held_out/description/value"), value=1, parents=SHARED,
    )  # fmt: skip


FILTER = {"system": "supervised", "labels": "filter"}
TEXTLESS = {"text_model": "one-hot", "use_descriptions": False, "position_weight": 0.0}
NAMES = {"use_descriptions": False}
PAPER = {"memory_norm": False, "dropout": 0.1}
CODE = {**PAPER, "init_std": 0.02, "attention_start": 1.0}
COLUMNS = (*ENTITIES, *(name for name in vocabulary()["entities"] if name not in ENTITIES))

MEDKLIP = _row("medklip", 4, *READ_OUT, "random probe")

ROWS = (
    MEDKLIP,
    longer(MEDKLIP),
    # from told labels to entity queries, one part at a time: the labels' source, the head, the names, the position loss
    _row("labels_linear", 4, system="supervised"),
    _row("filter_linear", 4, *READ_OUT, **FILTER),
    _row("filter_attention", 4, *READ_OUT, head="attention", **FILTER),
    _row("medklip_onehot", 3, **TEXTLESS),
    _row("medklip_names_no_position", 4, position_weight=0.0, **NAMES),
    _row("medklip_names", 4, **NAMES),
    # crops
    _row("medklip_no_crop", 2, crop=1.0),
    _row("labels_linear_no_crop", 2, system="supervised", crop=1.0),
    _row("filter_linear_no_crop", 2, crop=1.0, **FILTER),
    # the decoder: as printed, as released, and with one change each
    _row("medklip_paper_decoder", 3, **PAPER),
    _row("medklip_code_decoder", 2, **CODE),
    _row("medklip_norm_only", 2, memory_norm=True, dropout=0.1),
    _row("medklip_no_dropout_only", 2, memory_norm=False, dropout=0.0),
    # weight of the position loss: 0, 0.3 (medklip), 1 (paper and code)
    _row("medklip_no_position", 4, position_weight=0.0),
    _row("medklip_position_1", 3, position_weight=1.0),
    # as many columns as the paper has, of which a phantom's report names few
    _row("medklip_75", 1, entities=COLUMNS),
    # number of entities, with and without the position loss: the 12 (medklip), 24, and all that the phantom has
    *(
        _row(f"medklip_{name}_entities{suffix}", 2, entities=(*ENTITIES, *signs), **options)
        for name, signs in {"24": SIGNS[:12], "all": SIGNS}.items()
        for suffix, options in {"": {}, "_no_position": {"position_weight": 0.0}}.items()
    ),
    # negative controls
    _row("medklip_swapped", 4, shuffled="descriptions"),
    _row("medklip_shuffled_positions", 4, shuffled="positions"),
    *map(_without, ENTITIES),
)

"""MaCo: the paper's ladder and setting, the dial of masks and weightings, ours, and rows that serve as controls.

Every row sees the same images as often, from the same start, unless its name says otherwise. The paper's setting: single-patch
masks, reconstruction and contrast at .9 to .1, images turned and scaled, weight decay .05. Its AdamW differs by a second moment
of .95 instead of .98. Texts are means of tokens in all rows. Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlp_lite.experiments.draws import PhantomData
from medvlp_lite.experiments.profiles import Profile, Training
from medvlp_lite.experiments.runner import Row, plain_start, shuffled, with_encoders
from medvlp_lite.experiments.zero_shot import DRAW, SHARED, longer
from medvlp_lite.systems.base import System

PAPER = {"text_pool": "mean", "affine": True, "trace_every": 20}
BLOCK = 3  # side of the squares that are hidden together; chosen on training phantoms, encoders frozen (chapter 05)
OURS = {"text_pool": "mean", "lam": None, "score_rate": 3.0, "trace_every": 20}
TRAINING = Training(1e-3, weight_decay=0.05)
STILL = Training(1e-12, share=0)  # one step that changes nothing
ALIGNED = ("zero_shot", "grounding", "unseen", "phrases", "phrases on val", "sentences", "token probe", "weights")
CONTROLLED = (*ALIGNED, "map controls")


def from_pretraining(
    row: Row, data: PhantomData, profile: Profile, seed: int, parents: Mapping[str, System]
) -> System:  # fmt: skip
    """The tokenizer and the text encoder of the start of all rows, and a ViT that has learned to reconstruct."""
    return with_encoders(plain_start(row, data, profile, seed, parents), parents["image"], ("image_encoder",))


def transplanted(row: Row, data: PhantomData, profile: Profile, seed: int, parents: Mapping[str, System]) -> System:
    """A trained system with the weight map of another."""
    system = parents["system"]
    system.importance_score.load_state_dict(parents["weights"].importance_score.state_dict())
    return system


SHARED_VIT = {"parents": {**SHARED, "image": "start_vit"}, "start": from_pretraining}
"""What every row starts from, unless its name says otherwise."""


def _pretraining(name: str, value: int, *more: str, **options: Any) -> Row:
    return Row(
        name, "maco", DRAW, TRAINING, ("token probe", "reconstruction", *more),
        options={**PAPER, "trace_every": 0, "contrastive": False, **options}, validation="reconstruction_error",
        headline=("probe/macro/value", "reconstruction/0.75"), value=value, **SHARED_VIT,
    )  # fmt: skip


def _row(
    name: str, value: int, base: Mapping[str, Any] = PAPER, measures: tuple[str, ...] = ALIGNED, how: Any = None,
    training: Training = TRAINING, **options: Any,
) -> Row:  # fmt: skip
    """A row that is asked in words; ``how`` names what else of it is not as in the others."""
    return Row(
        name, "maco", DRAW, training, measures, options={**base, **options}, validation="macro_auc",
        headline=("macro_auc/value", "probe/macro/value"), value=value, **{**SHARED_VIT, **(how or {})},
    )  # fmt: skip


MACO = _row("maco", 4, measures=(*CONTROLLED, "prompts", "counterfactual"))

ROWS = (
    # one part after the other, at equal images
    _pretraining("maco_mae", 2, hr=False),
    _pretraining("maco_hr", 2, "random token probe"),
    _row("maco_contrastive", 4, weighting="none"),
    MACO,
    longer(MACO),
    # masks x weighting; the arXiv version reconstructs what the encoder saw
    _row("maco_normalised", 3, measures=CONTROLLED, weighting="joint_normalised"),
    _row("maco_split", 2, weighting="split"),
    _row("maco_arxiv", 2, weighting="arxiv", hr=False),
    _row("maco_block_contrastive", 2, block=BLOCK, weighting="none"),
    _row("maco_block", 2, measures=CONTROLLED, block=BLOCK),
    _row("maco_block_normalised", 2, block=BLOCK, weighting="joint_normalised"),
    _row("maco_block_split", 1, block=BLOCK, weighting="split"),
    _row("maco_block_arxiv", 1, block=BLOCK, weighting="arxiv", hr=False),
    # ours: both losses count the same, a faster score, images not turned
    _row("maco_ours_contrastive", 2, OURS, block=BLOCK, weighting="none"),
    _row("maco_ours", 2, OURS, CONTROLLED, block=BLOCK),
    _row("maco_iid", 1, OURS),
    # one thing changed in the paper's setting
    _row("maco_temperature", 2, temperature_rate=300.0),
    _row("maco_no_affine", 2, affine=False),
    _row("maco_hidden_75", 1, mask_ratio=0.75),
    _row("maco_pretrained", 2, how={"parents": {**SHARED, "image": "maco_hr"}}),
    _row("maco_random", 2, how={"parents": {}, "start": plain_start}),
    # controls
    _row("maco_shuffled", 4, how={"train_set": shuffled}),
    _row(
        "maco_transplanted", 1, training=STILL, weighting="none",
        how={"parents": {"system": "maco_contrastive", "weights": "maco"}, "start": transplanted},
    ),
)  # fmt: skip

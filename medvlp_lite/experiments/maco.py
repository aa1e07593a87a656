"""MaCo: pre-training by reconstruction, and alignment that starts from it. Built in chapter 05_masked_contrastive."""

from collections.abc import Mapping
from typing import Any

from medvlp_lite.experiments.draws import Draw, PhantomData
from medvlp_lite.experiments.profiles import Profile, Training, build_system
from medvlp_lite.experiments.runner import Row
from medvlp_lite.systems.base import System

DRAW = Draw()
SCORE = {
    "score_rate": 3.0,
    "trace_every": 20,
}  # rate and block chosen on training phantoms, encoders frozen (chapter 05)
BLOCK = 3
PARTS = {"image": ("image_encoder", "decoder"), "text": ("text_encoder", "text_projection")}


def start(row: Row, data: PhantomData, profile: Profile, seed: int, parents: Mapping[str, System]) -> System:
    """A MaCo whose image side starts from a pre-training and whose text side, tokenizer included, from a baseline."""
    system = build_system(row.system, parents["text"].tokenizer, row.options, profile)
    for side, names in PARTS.items():
        for name in names:
            getattr(system, name).load_state_dict(getattr(parents[side], name).state_dict())
    return system


def _pretraining(name: str, value: int, **options: Any) -> Row:
    return Row(
        name, "maco", DRAW, Training(1e-3, share=2, weight_decay=0.05), ("token probe", "reconstruction"),
        options={"contrastive": False, "mask_ratio": 0.75, **options}, validation="reconstruction_error",
        headline=("probe/macro/value", "reconstruction/0.75"), value=value, seeds=1,
    )  # fmt: skip


def _alignment(name: str, value: int, **options: Any) -> Row:
    return Row(
        name, "maco", DRAW, Training(1e-3, share=4 / 15),
        ("zero_shot", "grounding of 60", "unseen", "phrases", "token probe", "weights"),
        options={"text_pool": "mean", "lam": None, **options}, parents={"image": "maco_hr", "text": "convirt"},
        start=start, validation="macro_auc", headline=("macro_auc/value", "probe/macro/value"), value=value,
    )  # fmt: skip


ROWS = (
    _pretraining("maco_mae", 1, hr=False),
    _pretraining("maco_hr", 2),
    _alignment("maco_contrastive", 3, block=BLOCK, weighting="none"),
    _alignment("maco", 3, block=BLOCK, **SCORE),
    _alignment("maco_iid", 1, **SCORE),
)

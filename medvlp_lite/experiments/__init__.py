"""The rows behind the book's figures, declared once: chapters run them live and small, ``medvlp-lite reproduce`` in full."""

from medvlp_lite.experiments import maco, medfilip, medklip, mskpt, reproduce, runner, staging, start, zero_shot
from medvlp_lite.experiments.draws import (
    IMAGE_SIZE,
    STAGE_SHARES,
    Draw,
    PhantomData,
    phantom_data,
    screening_data,
    split_custom,
    with_labels,
)
from medvlp_lite.experiments.profiles import PROFILES, Profile, Training, build_system, profile_of
from medvlp_lite.experiments.runner import (
    ROWS,
    WEIGHTS,
    Row,
    load_pretrained,
    train_system,
)
from medvlp_lite.records.record import load_record, results_folder
from medvlp_lite.studies import StudyDataset

ROWS.update(
    {row.name: row for module in (start, zero_shot, medklip, maco, medfilip, mskpt, staging) for row in module.ROWS}
)

__all__ = [
    "IMAGE_SIZE",
    "PROFILES",
    "ROWS",
    "STAGE_SHARES",
    "WEIGHTS",
    "Draw",
    "PhantomData",
    "Profile",
    "Row",
    "StudyDataset",
    "Training",
    "build_system",
    "load_pretrained",
    "load_record",
    "phantom_data",
    "profile_of",
    "reproduce",
    "results_folder",
    "runner",
    "screening_data",
    "split_custom",
    "start",
    "train_system",
    "with_labels",
]

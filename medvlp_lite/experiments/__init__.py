"""The experiments behind the book's figures, written once: chapters run them live and small, the command line in full."""

from medvlp_lite.experiments.base import (
    EXPERIMENTS,
    IMAGE_SIZE,
    SCALES,
    WEIGHTS,
    Experiment,
    PhantomData,
    Scale,
    builder,
    committed,
    phantom_data,
    plan_for,
    reference,
    results_folder,
    run,
    scale_of,
    train_system,
)
from medvlp_lite.experiments.zero_shot import grounding, heatmaps, unseen_disease, zero_shot
from medvlp_lite.studies import StudyDataset

__all__ = [
    "EXPERIMENTS",
    "IMAGE_SIZE",
    "SCALES",
    "WEIGHTS",
    "Experiment",
    "PhantomData",
    "Scale",
    "StudyDataset",
    "builder",
    "committed",
    "grounding",
    "heatmaps",
    "phantom_data",
    "plan_for",
    "reference",
    "results_folder",
    "run",
    "scale_of",
    "train_system",
    "unseen_disease",
    "zero_shot",
]

"""The experiments behind the book's figures, written once: chapters run them live and small, the command line in full."""

from medvlp_lite.experiments import fine_grained, masked
from medvlp_lite.experiments.base import (
    EXPERIMENTS,
    IMAGE_SIZE,
    PROFILES,
    WEIGHTS,
    Experiment,
    PhantomData,
    Profile,
    builder,
    load_pretrained,
    load_record,
    phantom_data,
    plan_for,
    profile_of,
    results_folder,
    run,
    train_system,
)
from medvlp_lite.experiments.prototypes import (
    embed_reports,
    linear_probe,
    pooled_features,
    same_stage_retrieval,
    stage_one_measures,
)
from medvlp_lite.experiments.stages import stage_data
from medvlp_lite.experiments.staging import RECIPES, Recipe, measure_staging, train_staging, with_labels
from medvlp_lite.experiments.zero_shot import grounding, heatmaps, unseen_disease, zero_shot
from medvlp_lite.studies import StudyDataset

__all__ = [
    "EXPERIMENTS",
    "IMAGE_SIZE",
    "PROFILES",
    "RECIPES",
    "WEIGHTS",
    "Experiment",
    "PhantomData",
    "Profile",
    "Recipe",
    "StudyDataset",
    "builder",
    "embed_reports",
    "fine_grained",
    "grounding",
    "heatmaps",
    "linear_probe",
    "load_pretrained",
    "load_record",
    "masked",
    "measure_staging",
    "phantom_data",
    "plan_for",
    "pooled_features",
    "profile_of",
    "results_folder",
    "run",
    "same_stage_retrieval",
    "stage_data",
    "stage_one_measures",
    "train_staging",
    "train_system",
    "unseen_disease",
    "with_labels",
    "zero_shot",
]

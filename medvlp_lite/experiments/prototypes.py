"""MSK-PT's first stage with and without its parts: what the image features know of the stage when no stage was told.

Built in chapter 07_prototype_alignment.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from medvlp_lite.evaluation.classification import embed_dataset, image_batches, nearest_neighbour_purity
from medvlp_lite.experiments.base import EXPERIMENTS, IMAGE_SIZE, Experiment, PhantomData, Profile
from medvlp_lite.experiments.stages import stage_data, stages
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import System
from medvlp_lite.systems.mskpt import MSKPT
from medvlp_lite.training import TrainingConfig

MAX_STEPS = 250
VARIANTS: dict[str, dict[str, Any]] = {
    "mskpt": {},
    "mskpt_no_token": {"token_weight": 0.0},
    "mskpt_no_prototype": {"prototype_weight": 0.0},
    "mskpt_global": {"token_weight": 0.0, "prototype_weight": 0.0},
}
PROBE_STRENGTHS = (0.01, 0.1, 1.0, 10.0)


@torch.no_grad()
def pooled_features(system: System, dataset: StudyDataset) -> np.ndarray:
    """Average-pooled features of the image encoder (N, C): what the second stage starts from."""
    system.eval()
    pooled = [system.image_features(images).mean(dim=(2, 3)) for images in image_batches(dataset, system.device)]
    return torch.cat(pooled).float().cpu().numpy()


@torch.no_grad()
def embed_reports(system: System, dataset: StudyDataset) -> np.ndarray:
    """The system's vectors of all reports, without indication and technique: (N, d)."""
    system.eval()
    texts = [findings_text(report) for report in dataset.reports]
    return torch.cat([system.embed_texts(texts[i : i + 64]).float().cpu() for i in range(0, len(texts), 64)]).numpy()


@dataclass(frozen=True)
class Probe:
    """A linear read-out of frozen features: accuracy and macro AUC on test, confusion counts, and its strength from val."""

    accuracy: float
    macro_auc: float
    confusion: list[list[int]]
    strength: float


def linear_probe(features: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> Probe:
    """Fit logistic regression on frozen features (N, C) of "train", choose its strength on "val", judge it on "test".

    Features are standardised with training statistics. Raises KeyError when a part is missing.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import confusion_matrix, roc_auc_score

    mean, spread = features["train"].mean(axis=0), features["train"].std(axis=0) + 1e-6
    scaled = {part: (values - mean) / spread for part, values in features.items()}
    fitted = {
        strength: LogisticRegression(C=strength, max_iter=300).fit(scaled["train"], labels["train"])
        for strength in PROBE_STRENGTHS
    }
    best = max(fitted, key=lambda strength: fitted[strength].score(scaled["val"], labels["val"]))
    model = fitted[best]
    probabilities = model.predict_proba(scaled["test"])
    columns = [k for k in model.classes_ if 0 < (labels["test"] == k).sum() < len(labels["test"])]
    aucs = [roc_auc_score(labels["test"] == k, probabilities[:, list(model.classes_).index(k)]) for k in columns]
    answers = model.predict(scaled["test"])
    return Probe(
        accuracy=float((answers == labels["test"]).mean()),
        macro_auc=float(np.mean(aucs)) if aucs else float("nan"),
        confusion=confusion_matrix(labels["test"], answers, labels=range(4)).tolist(),
        strength=float(best),
    )


def same_stage_retrieval(images: np.ndarray, reports: np.ndarray, labels: np.ndarray, first: int = 10) -> float:
    """The share of each image's ``first`` nearest reports (cosine, C-5) that tell of the image's own stage."""
    nearest = np.argsort(-images @ reports.T, axis=1)[:, :first]
    return float((labels[nearest] == labels[:, None]).mean())


def stage_one_measures(system: System, data: PhantomData) -> dict[str, Any]:
    """What is recorded of one seed: purity, silhouette, linear probe, retrieval by stage, and how prototypes are used."""
    from sklearn.metrics import silhouette_score

    parts = {"train": data.train, "val": data.val, "test": data.test}
    labels = {part: stages(dataset) for part, dataset in parts.items()}
    features = {part: pooled_features(system, dataset) for part, dataset in parts.items()}
    images, reports, truth = embed_dataset(system, data.test), embed_reports(system, data.test), labels["test"]
    shares = np.bincount(truth, minlength=4) / len(truth)
    neighbours = min(10, len(truth) - 1)
    measures = {
        "purity": nearest_neighbour_purity(images, truth, neighbours),
        "feature_purity": nearest_neighbour_purity(features["test"], truth, neighbours),
        "report_purity": nearest_neighbour_purity(reports, truth, neighbours),
        "purity_chance": float((shares**2).sum()),
        "silhouette": float(silhouette_score(images, truth, metric="cosine")),
        "probe": asdict(linear_probe(features, labels)),
        "majority": float(shares.max()),
        "same_stage_retrieval": same_stage_retrieval(images, reports, truth, neighbours),
    }
    return measures | prototype_use(system, images, truth)


def prototype_use(system: System, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How images (N, d) spread over learned prototypes, and how much the nearest prototype tells of the stage.

    "usage" is the share of images per prototype, "stage_information" the normalised mutual information of prototype and stage
    (0 nothing, 1 the same). Empty for a system without learned prototypes.
    """
    from sklearn.metrics import normalized_mutual_info_score

    vectors = getattr(getattr(system, "prototypes", None), "vectors", None)
    if vectors is None:
        return {}
    nearest = (images @ vectors.detach().float().cpu().numpy().T).argmax(axis=1)
    usage = np.bincount(nearest, minlength=len(vectors)) / len(nearest)
    return {"usage": usage.tolist(), "stage_information": float(normalized_mutual_info_score(labels, nearest))}


def _build(**options: Any):
    return lambda data: MSKPT(data.tokenizer(), image_size=IMAGE_SIZE, **options)


def stage_one_plan(scale: Profile, seed: int) -> TrainingConfig:
    """250 steps, or a sixth of the scale's: the screening has fewer phantoms, and stage 2 goes on from here."""
    steps = max(min(scale.steps, MAX_STEPS), scale.steps // 6)
    return TrainingConfig(steps, scale.batch_size, 1e-3, precision=scale.precision, seed=seed)


for _name, _options in VARIANTS.items():
    EXPERIMENTS[_name] = Experiment(_build(**_options), stage_one_plan, stage_one_measures, data=stage_data)

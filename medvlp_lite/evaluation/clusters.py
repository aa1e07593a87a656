"""What image vectors know of stages that nobody told them: purity, silhouette, retrieval, and how prototypes are used.

Built in chapter 07_prototype_alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medvlp_lite.evaluation.inference import Parts, embed_dataset, embed_reports, pooled_features
from medvlp_lite.evaluation.linear_probe import class_probe
from medvlp_lite.systems.base import System

NEIGHBOURS = 10


def nearest_neighbour_purity(vectors: np.ndarray, groups: Sequence[object], neighbours: int = 10) -> float:
    """The share of each point's nearest neighbours (cosine) that belong to its own group, averaged: a number beside a t-SNE
    that does not depend on the picture. Chance is the sum of squared group shares.

    Raises ValueError when there are not more points than neighbours.
    """
    from sklearn.neighbors import NearestNeighbors

    groups = np.asarray(groups)
    if len(groups) <= neighbours:
        raise ValueError(f"need more than {neighbours} points, got {len(groups)}")
    index = NearestNeighbors(n_neighbors=neighbours + 1, metric="cosine").fit(vectors)
    found = index.kneighbors(vectors, return_distance=False)
    others = [[i for i in row if i != own][:neighbours] for own, row in enumerate(found)]
    return float(np.mean(groups[np.asarray(others)] == groups[:, None]))


def same_stage_retrieval(images: np.ndarray, reports: np.ndarray, labels: np.ndarray, first: int = 10) -> float:
    """The share of each image's ``first`` nearest reports (cosine, C-5) that tell of the image's own stage."""
    nearest = np.argsort(-images @ reports.T, axis=1)[:, :first]
    return float((labels[nearest] == labels[:, None]).mean())


def stage_one_measures(system: System, data: Parts) -> dict[str, Any]:
    """All that is recorded of a stage-1 system: purity, silhouette, linear probe, retrieval by stage, and prototype use."""
    from sklearn.metrics import silhouette_score

    parts = (data.train, data.val, data.test)
    features = [pooled_features(system, part) for part in parts]
    images, reports, truth = embed_dataset(system, data.test), embed_reports(system, data.test), data.test.stages
    shares = np.bincount(truth, minlength=4) / len(truth)
    neighbours = min(NEIGHBOURS, len(truth) - 1)
    return {
        "purity": nearest_neighbour_purity(images, truth, neighbours),
        "feature_purity": nearest_neighbour_purity(features[-1], truth, neighbours),
        "report_purity": nearest_neighbour_purity(reports, truth, neighbours),
        "purity_chance": float((shares**2).sum()),
        "silhouette": float(silhouette_score(images, truth, metric="cosine")),
        "probe": class_probe(*((own, part.stages) for own, part in zip(features, parts))),
        "majority": float(shares.max()),
        "same_stage_retrieval": same_stage_retrieval(images, reports, truth, neighbours),
        **prototype_use(system, images, truth),
    }


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

"""Where a system looks, against where findings are: grounding per finding, and MaCo's phrase grounding (C-4, K-12, M-10).

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from medvlp_lite.components.masked_contrastive import patch_weights, phrase_maps, smooth_maps, upsample_maps
from medvlp_lite.evaluation.grounding import (
    average_lesion,
    best_iou_threshold,
    centre_box,
    contrast_to_noise,
    miou,
    pointing_game,
    random_maps,
    score_grounding,
)
from medvlp_lite.evaluation.inference import Parts, heatmaps, image_batches
from medvlp_lite.phantom.patients import ENTITIES
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import Query, System

LARGE_FINDINGS = ("cardiomegaly", "edema", "pneumoconiosis")  # fill half of the chest: any map hits them
TAUS = (None, 1.0, 0.1, 0.05, 0.02, 0.01)


def positive_studies(dataset: StudyDataset, name: str, limit: int) -> list[tuple[int, np.ndarray]]:
    """Place and region (H, W) of the first ``limit`` studies in which this entity is present and its place known."""
    rows = []
    for index, study in enumerate(dataset.studies):
        region = study.region(name, dataset.size, dataset.size) if study.label(name) == 1 else None
        if region is not None and region.any():
            rows.append((index, region))
        if len(rows) == limit:
            break
    return rows


def grounding(system: System, data: Parts, names: Sequence[str] = ENTITIES, limit: int = 150) -> dict[str, Any]:
    """Grounding per entity on the first ``limit`` positive test studies, beside baselines that never look (C-4).

    Thresholds come from validation studies, the average lesion map from training studies. An entity without positive
    studies in a part is left out.
    """
    scores: dict[str, Any] = {}
    for name in names:
        found = {part: positive_studies(getattr(data, part), name, limit) for part in ("train", "val", "test")}
        if not all(found.values()):
            continue
        regions = {part: [region for _, region in rows] for part, rows in found.items()}
        heats = {
            part: heatmaps(system, getattr(data, part).subset([i for i, _ in found[part]]), name)
            for part in ("val", "test")
        }
        threshold = best_iou_threshold(heats["val"], regions["val"], steps=50)
        scores[name] = asdict(score_grounding(heats["test"], regions["test"], threshold))
        maps = blind_maps(len(heats["test"]), heats["test"].shape[-1], regions["train"])
        scores[name]["baselines"] = {
            kind: float(np.mean([pointing_game(*pair) for pair in zip(own, regions["test"])]))
            for kind, own in maps.items()
        }
    return scores


def blind_maps(count: int, grid: int, regions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Maps (count, grid, grid) that never look: noise, the middle, and where training regions (H, W) lie on average."""
    return {
        "random": random_maps(count, grid),
        "centre": np.repeat(centre_box(grid)[None], count, axis=0),
        "average lesion": np.repeat(average_lesion(regions, grid)[None], count, axis=0),
    }


def by_size(rows: Iterable[tuple[str, Mapping[str, Any]]], measure: str = "pointing") -> dict[str, float]:
    """The mean of a measure over (finding, scores) pairs, "small" findings apart from "large" ones; NaN where there is none."""
    values: dict[str, list[float]] = {"small": [], "large": []}
    for name, scores in rows:
        values["large" if name in LARGE_FINDINGS else "small"].append(scores[measure])
    return {size: float(np.mean(own)) if own else float("nan") for size, own in values.items()}


@torch.no_grad()
def phrase_grounding(
    system: System,
    data: Parts,
    names: Sequence[str] = ENTITIES,
    limit: int = 60,
    taus: Sequence[float | None] = TAUS,
    sigmas: Sequence[float] = (1.5, 0.0),
) -> list[dict[str, Any]]:
    """CNR, mIoU and pointing game of a MaCo per entity, ``tau_w`` and smoothing (M-10, C-4).

    On the first ``limit`` positive test studies of each entity; maps are upsampled bilinearly, as the official code does.
    ``tau_w`` None weights no patch. "size" tells small findings from large ones.
    """
    system.eval()
    rows = []
    for name in names:
        found = positive_studies(data.test, name, limit)
        if not found:
            continue
        images = torch.cat(list(image_batches(data.test.subset([place for place, _ in found]), system.device)))
        positive, negative = system.prompts([Query.about(name)])
        vectors, weights = system.image_projection(system.local_features(images)), system.importance_score.weight[0]
        for tau in taus:
            for sigma in sigmas:
                maps = smooth_maps(phrase_maps(vectors, positive - negative, patch_weights(weights, tau)), sigma)
                full = upsample_maps(maps, data.test.size)[:, 0].float().cpu().numpy()
                scores = phrase_scores(full, [region for _, region in found])
                size = "large" if name in LARGE_FINDINGS else "small"
                rows.append({"entity": name, "size": size, "tau_w": tau, "sigma": sigma, **scores})
    return rows


def phrase_scores(maps: np.ndarray, regions: Sequence[np.ndarray]) -> dict[str, float]:
    """Means over studies of what MaCo's papers report, from maps (N, H, W) at image resolution and their regions."""
    pairs = list(zip(maps, regions))
    measures = {
        "cnr": contrast_to_noise,
        "cnr_absolute": lambda heat, region: contrast_to_noise(heat, region, absolute=True),
        "miou": miou,
        "pointing": pointing_game,
    }
    return {"studies": len(pairs), **{k: float(np.mean([f(*pair) for pair in pairs])) for k, f in measures.items()}}

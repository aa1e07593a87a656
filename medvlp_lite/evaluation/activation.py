"""Where a class score comes from: Grad-CAM (C-6), and how much of it lies inside the truth.

Libraries for this (pytorch-grad-cam, Captum's LayerGradCam) bring dozens of methods that hook themselves into a module by name. Here the
network is already cut in two, features and head, so that the formula is three lines; a dependency would hide it.
Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from medvlp_lite.evaluation.grounding import positive_studies, upsample
from medvlp_lite.evaluation.inference import BATCH, image_batches, stage_probabilities
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import System


def grad_cam(
    features: Callable[[torch.Tensor], torch.Tensor],
    scores: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    classes: torch.Tensor,
) -> torch.Tensor:
    """Grad-CAM of one class per image, (B, h, w) >= 0: equation C-6.

    ``features`` gives maps A (B, C, h, w) of images, ``scores`` class scores (B, K) of A. Each channel is weighted by the mean
    gradient of the class score over its cells; what speaks against the class is cut to 0. Works inside ``no_grad`` and leaves
    no gradient behind. Raises ValueError when ``classes`` (B,) does not fit.
    """
    if classes.shape != images.shape[:1]:
        raise ValueError(f"need one class for each of {len(images)} images, got {tuple(classes.shape)}")
    with torch.enable_grad():
        maps = features(images).detach().requires_grad_()
        chosen = scores(maps).gather(1, classes.to(maps.device).long().view(-1, 1)).sum()
        (gradient,) = torch.autograd.grad(chosen, maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * maps.detach()).sum(dim=1).relu()


def energy_inside(heat: np.ndarray, region: np.ndarray) -> float:
    """The share of a map's sum that falls inside a region: a uniform map scores the region's share of the image.

    ``heat`` (h, w) >= 0 on its own grid, ``region`` bool (H, W); NaN for a map that is 0 everywhere. Raises ValueError for an empty
    region or negative values.
    """
    if not region.any():
        raise ValueError("the region is empty; energy is measured on positive studies only")
    if (heat < 0).any():
        raise ValueError("the map has negative values; cut them to 0 first")
    fine = upsample(heat, *region.shape)
    return float(fine[region].sum() / fine.sum()) if fine.sum() > 0 else float("nan")


def stage_maps(system: System, dataset: StudyDataset, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM (C-6) of the given stage of every image: (N, h, w)."""
    system.eval()
    found = []
    for start, images in zip(range(0, len(dataset), BATCH), image_batches(dataset, system.device)):
        chosen = torch.as_tensor(classes[start : start + len(images)])
        found.append(grad_cam(system.image_encoder, system.stage_logits, images, chosen).cpu())
    return torch.cat(found).cpu().numpy()


def stage_map_energy(system: System, dataset: StudyDataset, entity: str, limit: int = 300) -> dict[str, float]:
    """Mean energy of the true stage's map inside the true mask of ``entity``, on the first ``limit`` diseased studies.

    "right" and "wrong" are the same over studies that are staged right and wrong, NaN where there is none; "uniform" is what a
    uniform map would score there.
    """
    found = positive_studies(dataset, entity, limit)
    found = [(i, region) for i, region in found if dataset.stages[i] > 0]
    if not found:
        return {
            "energy": float("nan"),
            "right": float("nan"),
            "wrong": float("nan"),
            "uniform": float("nan"),
            "count": 0,
        }
    part = dataset.subset([i for i, _ in found])
    maps = stage_maps(system, part, part.stages)
    inside = np.array([energy_inside(heat, region) for heat, (_, region) in zip(maps, found)])
    right = stage_probabilities(system, part).argmax(axis=1) == part.stages
    parts = {"energy": inside, "right": inside[right], "wrong": inside[~right]}
    means = {name: float(np.nanmean(row)) if np.isfinite(row).any() else float("nan") for name, row in parts.items()}
    return {**means, "uniform": float(np.mean([region.mean() for _, region in found])), "count": len(found)}


def worst_cases(system: System, dataset: StudyDataset, count: int = 4) -> np.ndarray:
    """Places of the ``count`` wrong answers that give the true stage least. Raises ValueError when a study has no stage."""
    truth = dataset.stages
    if (truth < 0).any():
        raise ValueError(f"{int((truth < 0).sum())} studies have no stage; leave them out")
    probabilities = stage_probabilities(system, dataset)
    order = np.argsort(probabilities[np.arange(len(truth)), truth], kind="stable")
    return order[probabilities.argmax(axis=1)[order] != truth[order]][:count]

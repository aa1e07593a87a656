"""What MaCo's parts are worth: reconstruction by mask ratio, where its weights lie, and what seeing each patch is worth (M-3 to M-8).

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from medvlp_lite.components.contrastive import cosine_matrix
from medvlp_lite.components.masked_contrastive import (
    ImportanceScore,
    importance,
    patch_weights,
    row_losses,
    upsample_maps,
    weighted_info_nce,
)
from medvlp_lite.components.reconstruction import patchify, position_map, random_masking, reconstruction_loss
from medvlp_lite.encoders.image import standardise
from medvlp_lite.evaluation.classification import auc_table
from medvlp_lite.evaluation.grounding import TAUS, average_lesion
from medvlp_lite.evaluation.inference import Parts, image_batches, patients_of, pooled_features
from medvlp_lite.evaluation.linear_probe import probe_scores
from medvlp_lite.phantom.render import render
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.maco import MaCo

RATIOS = (0.25, 0.5, 0.75, 0.9)


@torch.no_grad()
def reconstruction_errors(system: MaCo, dataset: StudyDataset, ratios: Sequence[float] = RATIOS) -> dict[str, float]:
    """Mean squared error of hidden patches by mask ratio, against the full-size image, where grey has unit variance (M-3).

    A system that draws smaller patches is judged on its drawing enlarged by bilinear interpolation.
    """
    system.eval()
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    errors: dict[str, list[float]] = {str(ratio): [] for ratio in ratios}
    for images in image_batches(dataset, system.device):
        for ratio in ratios:
            visible = random_masking(len(images), system.image_encoder.grid, ratio, device=images.device)
            drawn = system.reconstruct(images, visible)
            side = images.shape[-1] // system.image_encoder.grid
            full, target = patchify(upsample_maps(drawn, images.shape[-1]), side), patchify(standardise(images), side)
            errors[str(ratio)].append(float(reconstruction_loss(full, target, position_map(visible, system.patches))))
    torch.random.set_rng_state(generator)
    return {ratio: float(np.mean(values)) for ratio, values in errors.items()}


def token_probe(system: MaCo, data: Parts, limit: int = 4000, seed: int = 0) -> dict[str, Any]:
    """Test AUC of one linear probe per entity on frozen mean tokens of ``limit`` training studies that ``seed`` draws."""
    rows = np.random.default_rng(seed).permutation(len(data.train))[:limit]
    parts = [(pooled_features(system, part), part.labels) for part in (data.train.subset(rows), data.val, data.test)]
    scores = probe_scores(*parts)[-1]
    table = auc_table(
        data.test.labels, np.nan_to_num(scores, nan=0.5), data.test.entities, groups=patients_of(data.test)
    )
    return {"macro": asdict(table.macro), "per_class": {name: one.value for name, one in table.per_class.items()}}


def lung_area(dataset: StudyDataset, grid: int, limit: int = 200) -> np.ndarray:
    """The share of each patch that lungs cover, averaged over the first phantoms of a data set (grid, grid)."""
    studies = dataset.studies[:limit]
    return average_lesion([render(study.meta["patient"], dataset.size).lungs for study in studies], grid)


def share_inside(weights: np.ndarray, area: np.ndarray) -> float:
    """The share of a weight map (N,) that sums to 1 which falls on ``area`` (h, w); equal weights give the area's own share."""
    return float((weights * area.ravel()).sum())


def weight_shares(system: MaCo, area: np.ndarray, taus: Sequence[float | None] = TAUS) -> list[dict[str, Any]]:
    """What share of the weight map lies on ``area`` (h, w) as training goes on, by temperature of the softmax."""
    return [
        {
            "step": step,
            **{str(tau): share_inside(patch_weights(weights, tau).cpu().numpy(), area) for tau in taus},
            "correlation": correlation(weights.cpu().numpy(), area.ravel()),
        }
        for step, weights in system.weights_by_step().items()
    ]


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two maps of one shape; NaN when one of them is constant."""
    return float(np.corrcoef(first, second)[0, 1]) if first.std() and second.std() else float("nan")


@torch.no_grad()
def patch_value(
    system: MaCo,
    dataset: StudyDataset,
    *,
    block: int = 1,
    mask_ratio: float | None = None,
    rounds: int = 4,
    batch: int = 64,
    seed: int = 0,
) -> np.ndarray:
    """What seeing each patch is worth: mean contrastive loss of images that hide it minus that of images that show it.

    In nats, on the grid (h, w), from ``rounds`` masks per image: the signal that the importance score can learn from.
    """  # fmt: skip
    system.eval()
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    grid, ratio = system.image_encoder.grid, system.config.mask_ratio if mask_ratio is None else mask_ratio
    batch, maps, losses = min(batch, len(dataset)), [], []
    for start in range(0, len(dataset) - batch + 1, batch):
        part = dataset.subset(range(start, start + batch))
        images = next(image_batches(part, system.device, batch))
        texts = system.text_features([findings_text(report) for report in part.reports])
        for _ in range(rounds):
            visible = random_masking(batch, grid, ratio, block=block, device=images.device)
            logits = system.logit_multiplier * cosine_matrix(system.view(images, visible), texts)
            maps.append(position_map(visible, system.patches))
            losses.append(row_losses(torch.stack([logits, logits.t()])).mean(dim=0))
    torch.random.set_rng_state(state)
    seen, loss = torch.cat(maps), torch.cat(losses).unsqueeze(1)
    hidden = 1 - seen
    value = (loss * hidden).sum(0) / hidden.sum(0).clamp(min=1) - (loss * seen).sum(0) / seen.sum(0).clamp(min=1)
    return value.view(grid, grid).cpu().numpy()


def learn_scores(
    system: MaCo,
    dataset: StudyDataset,
    *,
    block: int,
    rates: Sequence[float] = (3e-3,),
    steps: int = 150,
    weighting: str = "joint",
    batch: int = 64,
    seed: int = 0,
) -> dict[float, np.ndarray]:
    """Train fresh score layers alone, one per learning rate, while everything else of the system stands still.

    Returns each layer's weights (steps, N). What the score can find, apart from how the encoders answer to it (M-5 to M-8).
    """  # fmt: skip
    system.eval()
    torch.manual_seed(seed)
    grid, batch = system.image_encoder.grid, min(batch, len(dataset))
    layers = {rate: ImportanceScore(system.patches).to(system.device) for rate in rates}
    optimizers = {rate: torch.optim.Adam(layer.parameters(), lr=rate) for rate, layer in layers.items()}
    history: dict[float, list[torch.Tensor]] = {rate: [] for rate in rates}
    reports = [findings_text(report) for report in dataset.reports]
    with torch.no_grad():
        texts = torch.cat([system.text_features(reports[i : i + batch]) for i in range(0, len(reports), batch)])
    for _ in range(steps):
        chosen = torch.randperm(len(dataset))[:batch]
        images = next(image_batches(dataset.subset(chosen.tolist()), system.device, batch))
        visible = random_masking(batch, grid, system.config.mask_ratio, block=block, device=images.device)
        with torch.no_grad():
            logits = system.logit_multiplier * cosine_matrix(system.view(images, visible), texts[chosen])
        for rate, layer in layers.items():
            weights = importance(layer(position_map(visible, system.patches)))
            weighted_info_nce(logits, weights, 1.0, weighting=weighting).backward()
            optimizers[rate].step()
            optimizers[rate].zero_grad()
            history[rate].append(layer.weight.detach()[0].cpu().clone())
    return {rate: torch.stack(rows).cpu().numpy() for rate, rows in history.items()}


def weight_measures(system: MaCo, data: Parts, block: int = 1) -> dict[str, Any]:
    """Where the weights lie against the lungs as training goes on, and what each patch was worth on validation studies."""
    area = lung_area(data.test, system.image_encoder.grid)
    value = patch_value(system, data.val.subset(range(min(1024, len(data.val)))), block=block)
    return {
        "lungs": {"area": float(area.mean()), "cells": area, "by_step": weight_shares(system, area)},
        "patch_value": {"map": value, "correlation_with_lungs": correlation(value.ravel(), area.ravel())},
        "weights": system.importance_score.weight[0].detach().cpu().numpy(),
    }

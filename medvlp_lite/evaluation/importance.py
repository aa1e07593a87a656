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
    phrase_maps,
    row_losses,
    smooth_maps,
    upsample_maps,
    weighted_info_nce,
)
from medvlp_lite.components.reconstruction import patchify, position_map, random_masking, reconstruction_loss
from medvlp_lite.encoders.image import standardise
from medvlp_lite.evaluation.classification import auc_table
from medvlp_lite.evaluation.grounding import TAUS, average_lesion, full_size, phrase_scores, positive_studies, projected
from medvlp_lite.evaluation.inference import Parts, image_batches, patients_of, pooled_features
from medvlp_lite.evaluation.linear_probe import probe_scores
from medvlp_lite.phantom.patients import ENTITIES
from medvlp_lite.phantom.render import render
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import Query
from medvlp_lite.systems.maco import SIGMA, TAU_W, MaCo

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


def weight_shares(system: MaCo, area: np.ndarray, taus: Sequence[float | None] = TAUS) -> list[dict[str, Any]]:
    """What share of the weight map lies on ``area`` (h, w) after so many steps, by temperature of the softmax.

    "gini" says how far the map of M-10 has gathered at all, wherever.
    """
    found = []
    for step, weights in system.weights_by_step().items():
        shares = {str(tau): float(patch_weights(weights, tau).cpu().numpy() @ area.ravel()) for tau in taus}
        own = {
            "correlation": correlation(weights.cpu().numpy(), area.ravel()),
            "gini": gini(patch_weights(weights, TAU_W)),
        }
        found.append({"step": step, **shares, **own})
    return found


def gini(shares: torch.Tensor) -> float:
    """Gini coefficient of shares (N,) >= 0: half their mean absolute difference over their mean, 0 when all are equal."""
    ordered = shares.double().sort().values
    ranks = torch.arange(1 - len(ordered), len(ordered), 2, device=shares.device)
    return float((ranks * ordered).sum() / (len(ordered) * ordered.sum()))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two maps of one shape; NaN when one of them is constant."""
    return float(np.corrcoef(first, second)[0, 1]) if first.std() and second.std() else float("nan")


@torch.no_grad()
def patch_value(
    system: MaCo, dataset: StudyDataset, *, block: int = 1, mask_ratio: float | None = None, rounds: int = 4,
    batch: int = 64, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """What seeing each patch is worth: mean contrastive loss of images that hide it minus that of images that show it.

    In nats, on the grid (h, w), from ``rounds`` masks per image: the signal that the importance score can learn from.
    """
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
    system: MaCo, dataset: StudyDataset, *, block: int, rates: Sequence[float] = (3e-3,), steps: int = 150,
    weighting: str = "joint", batch: int = 64, seed: int = 0,
) -> dict[float, np.ndarray]:  # fmt: skip
    """Train fresh score layers alone, one per learning rate, while everything else of the system stands still.

    Returns each layer's weights (steps, N). What the score can find, apart from how the encoders answer to it (M-5 to M-8).
    """
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


@torch.no_grad()
def map_controls(
    system: MaCo, data: Parts, names: Sequence[str] = ENTITIES, limit: int = 60, seed: int = 0
) -> dict[str, dict[str, dict[str, float]]]:
    """Grounding of MaCo's map ("own") beside maps that lack one of its parts, per entity and control (M-10, C-4).

    "no weights": similarity alone. "weights alone": one map for all images and questions. "mean map": the question's map,
    averaged over training images. "shuffled weights": the same weights in other places. "transplanted": the map of another
    patient who has the finding, half a list away. "healthy": of one without it. "other question": asked about the next
    finding. "lesion prior": similarity times where training lesions lie, weights as good as a static map can be.
    """
    system.eval()
    weights, generator = patch_weights(system.importance_score.weight[0], TAU_W), torch.Generator().manual_seed(seed)
    moved = weights[torch.randperm(len(weights), generator=generator).to(weights.device)]
    typical = projected(system, data.train.subset(range(min(512, len(data.train))))).mean(dim=0, keepdim=True)
    positive, negative = system.prompts([Query.about(name) for name in names])
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for name, text, other in zip(names, positive - negative, (positive - negative).roll(-1, dims=0)):
        found, lesions = positive_studies(data.test, name, limit), positive_studies(data.train, name, 4 * limit)
        healthy = np.flatnonzero(data.test.labels[:, data.test.entities.index(name)] == 0)
        if len(found) < 4 or not lesions or not len(healthy):
            continue
        places, regions = zip(*found)
        own, absent = (projected(system, data.test.subset(rows)) for rows in (places, np.resize(healthy, len(places))))
        prior = torch.from_numpy(average_lesion([region for _, region in lesions], len(own[0]))).to(own)
        mine = phrase_maps(own, text[None], weights)
        maps = {
            "own": mine,
            "no weights": phrase_maps(own, text[None], torch.ones_like(weights)),
            "weights alone": weights.view(1, 1, *own.shape[1:3]),
            "mean map": phrase_maps(typical, text[None], weights),
            "shuffled weights": phrase_maps(own, text[None], moved),
            "transplanted": mine.roll(len(mine) // 2, dims=0),
            "healthy": phrase_maps(absent, text[None], weights),
            "other question": phrase_maps(own, other[None], weights),
            "lesion prior": phrase_maps(own, text[None], prior),
        }
        full = {kind: full_size(smooth_maps(each, SIGMA)[:, 0], data.test.size) for kind, each in maps.items()}
        scores[name] = {
            kind: phrase_scores(np.resize(each, (len(mine), *each.shape[1:])), regions, 0.0)
            for kind, each in full.items()
        }
    return scores


def weight_measures(system: MaCo, data: Parts, block: int = 1) -> dict[str, Any]:
    """Where the weights lie against the lungs as training goes on, and what each patch was worth on validation studies.

    "step" counts batches. "temperature" is what was learned of it, "mean_importance" what the contrast has come to count.
    """
    area = lung_area(data.test, system.image_encoder.grid)
    views = position_map(random_masking(512, len(area), system.config.mask_ratio, block=block), system.patches)
    value = patch_value(system, data.val.subset(range(min(1024, len(data.val)))), block=block)
    return {
        "lungs": {"area": float(area.mean()), "cells": area, "by_step": weight_shares(system, area)},
        "patch_value": {"map": value, "correlation_with_lungs": correlation(value.ravel(), area.ravel())},
        "weights": system.importance_score.weight[0].detach().cpu().numpy(),
        "temperature": 1 / system.logit_multiplier.item(),
        "mean_importance": importance(system.importance_score(views.to(system.device))).mean().item(),
    }

"""MaCo on phantoms: pre-training by drawing hidden patches, alignment from there, and where its weights lie.

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

import json
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
from medvlp_lite.evaluation.classification import auc_table, image_batches, queries_about
from medvlp_lite.evaluation.grounding import average_lesion, contrast_to_noise, miou, pointing_game
from medvlp_lite.experiments.base import (
    EXPERIMENTS,
    IMAGE_SIZE,
    WEIGHTS,
    Experiment,
    PhantomData,
    Profile,
    load_pretrained,
)
from medvlp_lite.experiments.zero_shot import grounding, positive_studies, unseen_disease, zero_shot
from medvlp_lite.phantom.patients import ENTITIES
from medvlp_lite.phantom.render import render
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.maco import MaCo
from medvlp_lite.training import TrainingConfig

TAUS = (None, 1.0, 0.1, 0.05, 0.02, 0.01)
RATIOS = (0.25, 0.5, 0.75, 0.9)
PRETRAINED, TEXT = "maco_hr", "convirt"
SCORE = {
    "score_rate": 3.0,
    "trace_every": 20,
}  # rate and block chosen on training phantoms, encoders frozen (chapter 05)
BLOCK = 3


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


@torch.no_grad()
def mean_tokens(system: MaCo, dataset: StudyDataset) -> np.ndarray:
    """The mean of all patch tokens before projection (N, C): what a linear probe reads."""
    system.eval()
    batches = [system.local_features(images).mean(dim=(1, 2)) for images in image_batches(dataset, system.device)]
    return torch.cat(batches).cpu().numpy()


def token_probe(system: MaCo, data: PhantomData, limit: int = 4000, names: Sequence[str] = ENTITIES) -> dict[str, Any]:
    """Test AUC of one logistic regression per entity on frozen mean tokens of the first ``limit`` training studies."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = data.train.subset(range(min(limit, len(data.train))))
    known, test = mean_tokens(system, train), mean_tokens(system, data.test)
    scores = np.full((len(test), len(names)), 0.5)
    for column in range(len(names)):
        truth = train.labels[:, column]
        if len(np.unique(truth[~np.isnan(truth)])) == 2:
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
            probe.fit(known[~np.isnan(truth)], truth[~np.isnan(truth)])
            scores[:, column] = probe.decision_function(test)
    table = auc_table(data.test.labels, scores, names, groups=[study.patient_id for study in data.test.studies])
    return {"macro": asdict(table.macro), "per_class": {name: one.value for name, one in table.per_class.items()}}


@torch.no_grad()
def phrase_grounding(
    system: MaCo,
    data: PhantomData,
    names: Sequence[str] = ENTITIES,
    limit: int = 60,
    taus: Sequence[float | None] = TAUS,
    sigmas: Sequence[float] = (1.5, 0.0),
) -> list[dict[str, Any]]:
    """CNR, mIoU and pointing game as the official code scores them, per entity, ``tau_w`` and smoothing (M-10, C-4).

    On the first ``limit`` positive test studies of each entity; maps are upsampled bilinearly. ``tau_w`` None weights no
    patch.
    """  # fmt: skip
    system.eval()
    rows = []
    for name in names:
        found = positive_studies(data.test, name, limit)
        if not found:
            continue
        images = torch.cat(list(image_batches(data.test.subset([place for place, _ in found]), system.device)))
        positive, negative = system.prompts(queries_about([name]))
        vectors, weights = system.image_projection(system.local_features(images)), system.importance_score.weight[0]
        for tau in taus:
            for sigma in sigmas:
                maps = smooth_maps(phrase_maps(vectors, positive - negative, patch_weights(weights, tau)), sigma)
                full = upsample_maps(maps, IMAGE_SIZE)[:, 0].float().cpu().numpy()
                pairs = [(heat, region) for heat, (_, region) in zip(full, found)]
                rows.append({
                    "entity": name, "tau_w": tau, "sigma": sigma, "studies": len(pairs),
                    "cnr": float(np.mean([contrast_to_noise(*pair) for pair in pairs])),
                    "cnr_absolute": float(np.mean([contrast_to_noise(*pair, absolute=True) for pair in pairs])),
                    "miou": float(np.mean([miou(*pair) for pair in pairs])),
                    "pointing": float(np.mean([pointing_game(*pair) for pair in pairs])),
                })  # fmt: skip
    return rows


def lung_area(dataset: StudyDataset, grid: int, limit: int = 200) -> np.ndarray:
    """The share of each patch that lungs cover, averaged over the first phantoms of a data set (grid, grid)."""
    studies = dataset.studies[:limit]
    return average_lesion([render(study.meta["patient"], IMAGE_SIZE).lungs for study in studies], grid)


def share_inside(weights: np.ndarray, area: np.ndarray) -> float:
    """The share of a weight map (N,) that sums to 1 which falls on ``area`` (h, w); equal weights give the area's own share."""
    return float((weights * area.ravel()).sum())


def weight_shares(system: MaCo, area: np.ndarray, taus: Sequence[float | None] = TAUS) -> list[dict[str, Any]]:
    """What share of the weight map lies on ``area`` (h, w) as training goes on, by temperature of the softmax."""
    return [
        {
            "step": step,
            **{str(tau): share_inside(patch_weights(weights, tau).cpu().numpy(), area) for tau in taus},
            "correlation": _correlation(weights.cpu().numpy(), area.ravel()),
        }
        for step, weights in system.weights_by_step().items()
    ]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
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
    grid, ratio = system.image_encoder.grid, system.config["mask_ratio"] if mask_ratio is None else mask_ratio
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
        visible = random_masking(batch, grid, system.config["mask_ratio"], block=block, device=images.device)
        with torch.no_grad():
            logits = system.logit_multiplier * cosine_matrix(system.view(images, visible), texts[chosen])
        for rate, layer in layers.items():
            weights = importance(layer(position_map(visible, system.patches)))
            weighted_info_nce(logits, weights, 1.0, weighting=weighting).backward()
            optimizers[rate].step()
            optimizers[rate].zero_grad()
            history[rate].append(layer.weight.detach()[0].cpu().clone())
    return {rate: torch.stack(rows).numpy() for rate, rows in history.items()}


def pretraining_measures(system: MaCo, data: PhantomData) -> dict[str, Any]:
    """What is recorded of one pre-training: a linear probe, and errors of reconstruction on the test part."""
    part = data.test.subset(range(min(512, len(data.test))))
    return {"probe": token_probe(system, data), "reconstruction": reconstruction_errors(system, part)}


def alignment_measures(system: MaCo, data: PhantomData) -> dict[str, Any]:
    """What is recorded of one alignment: recognition and grounding as for every system, and what MaCo's paper reports."""
    grid = system.image_encoder.grid
    area = lung_area(data.test, grid)
    block = system.config["block"]
    value = patch_value(system, data.val.subset(range(min(1024, len(data.val)))), block=block)
    return {
        **zero_shot(system, data),
        "grounding": grounding(system, data, limit=60),
        "unseen": unseen_disease(system),
        "phrase_grounding": phrase_grounding(system, data),
        "probe": token_probe(system, data),
        "lungs": {"area": float(area.mean()), "cells": area, "by_step": weight_shares(system, area)},
        "patch_value": {"map": value, "correlation_with_lungs": _correlation(value.ravel(), area.ravel())},
        "weights": system.importance_score.weight[0].detach().cpu().numpy(),
    }


def _pretraining(**options: Any):
    return lambda data: MaCo(data.tokenizer(), image_size=IMAGE_SIZE, contrastive=False, mask_ratio=0.75, **options)


def _pretraining_plan(scale: Profile, seed: int) -> TrainingConfig:
    return TrainingConfig(2 * scale.steps, scale.batch_size, 1e-3, 0.05, precision=scale.precision, seed=seed)


def _alignment(**options: Any):
    """A MaCo whose image side starts from the committed pre-training and whose text side from the committed baseline."""

    def build(data: PhantomData) -> MaCo:
        image, text = load_pretrained(PRETRAINED), load_pretrained(TEXT)
        digests = json.loads((WEIGHTS / "sha256.json").read_text(encoding="utf-8"))
        start = ", ".join(f"{n} {digests[n][:8]}" for n, there in ((PRETRAINED, image), (TEXT, text)) if there)
        chosen = {"image_size": IMAGE_SIZE, "text_pool": "mean", "lambda_mode": "sum", "warm_start": start, **options}
        system = MaCo(text.tokenizer if text else data.tokenizer(), **chosen)
        for part in ("image_encoder", "decoder") if image else ():
            getattr(system, part).load_state_dict(getattr(image, part).state_dict())
        for part in ("text_encoder", "text_projection") if text else ():
            getattr(system, part).load_state_dict(getattr(text, part).state_dict())
        return system

    return build


def _alignment_plan(scale: Profile, seed: int) -> TrainingConfig:
    return TrainingConfig(max(2, 4 * scale.steps // 15), scale.batch_size, 1e-3, precision=scale.precision, seed=seed)


EXPERIMENTS["maco_mae"] = Experiment(_pretraining(hr=False), _pretraining_plan, pretraining_measures)
EXPERIMENTS["maco_hr"] = Experiment(_pretraining(), _pretraining_plan, pretraining_measures)
EXPERIMENTS["maco_contrastive"] = Experiment(
    _alignment(block=BLOCK, weighting="none"), _alignment_plan, alignment_measures
)
EXPERIMENTS["maco"] = Experiment(_alignment(block=BLOCK, **SCORE), _alignment_plan, alignment_measures)
EXPERIMENTS["maco_iid"] = Experiment(_alignment(**SCORE), _alignment_plan, alignment_measures)

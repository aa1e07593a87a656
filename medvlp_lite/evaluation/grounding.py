"""Does the map lie where the finding is? Pointing game, overlap, detection, phrase grounding, and baselines that never look (C-4, K-12, M-10).

Maps are (h, w) on a system's own grid; regions are masks (H, W) at image resolution, bool or whole numbers, where all but 0
is inside (official masks count overlapping boxes). Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from medvlp_lite.components.masked_contrastive import (
    patch_weights,
    phrase_maps,
    sentence_pieces,
    smooth_maps,
    upsample_maps,
)
from medvlp_lite.evaluation.inference import Parts, answer_images, image_batches
from medvlp_lite.phantom.patients import ENTITIES
from medvlp_lite.reports.filter import extract
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import Query, System

LARGE_FINDINGS = ("cardiomegaly", "edema", "pneumoconiosis")  # fill half of the chest: any map hits them
TAUS = (None, 1.0, 0.1, 0.05, 0.02, 0.01)
MACO_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


def upsample(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map (h, w) at image resolution (H, W) by nearest neighbour, as the official MedKLIP code does."""
    rows = np.arange(height) * heat.shape[0] // height
    return heat[np.ix_(rows, np.arange(width) * heat.shape[1] // width)]


POINTING_RULES = ("centre", "any")


def pointing_game(heat: np.ndarray, region: np.ndarray, tolerance: int = 0, rule: str = "centre") -> float:
    """The share of a map's largest cells whose centre lies in the region: 1 or 0 for one cell, between for ties.

    A map that is constant thus scores the region's share of the image. ``rule`` "any" gives 1 as soon as a largest cell
    touches the region, as the released code counts; ties then get as many tries as there are cells.
    Cells that are NaN (outside a crop) are passed over. ``tolerance`` counts grid cells by which the region is widened
    first: a line thinner than a cell is else missed by maps that are right.
    Raises ValueError for an empty region, a map of nothing but NaN or an unknown rule.
    """
    region = _mask(region)
    if rule not in POINTING_RULES:
        raise ValueError(f"rule must be one of {', '.join(POINTING_RULES)}, got {rule!r}")
    if not region.any():
        raise ValueError("the region is empty; grounding is scored on positive studies only")
    if np.isnan(heat).all():
        raise ValueError("the map holds nothing but NaN")
    if tolerance:
        cell = max(region.shape[0] // heat.shape[0], region.shape[1] // heat.shape[1], 1)
        region = ndimage.binary_dilation(region, np.ones((3, 3)), iterations=tolerance * cell)
    largest = heat == np.nanmax(heat)
    if rule == "any":
        finer = np.maximum(heat.shape, region.shape)
        return float((upsample(largest, *finer) & upsample(region, *finer)).any())
    cells = [
        (2 * places + 1) * side // (2 * n) for places, side, n in zip(np.nonzero(largest), region.shape, heat.shape)
    ]
    return float(region[tuple(cells)].mean())


def _mask(region: np.ndarray) -> np.ndarray:
    if region.dtype != bool and not np.issubdtype(region.dtype, np.integer):
        raise ValueError(f"a region is a mask of bool or whole numbers, got {region.dtype}")
    return region != 0


def iou(predicted: np.ndarray, region: np.ndarray) -> float:
    """Intersection over union of two masks (H, W); 0 when only one is empty, NaN when both are (C-4)."""
    predicted, region = _mask(predicted), _mask(region)
    union = (predicted | region).sum()
    return float((predicted & region).sum() / union) if union else float("nan")


def dice(predicted: np.ndarray, region: np.ndarray) -> float:
    """Twice the intersection over the sum of both areas; 0 when only one is empty, NaN when both are (C-4)."""
    predicted, region = _mask(predicted), _mask(region)
    total = predicted.sum() + region.sum()
    return float(2 * (predicted & region).sum() / total) if total else float("nan")


def contrast_to_noise(heat: np.ndarray, region: np.ndarray, absolute: bool = False) -> float:
    """Mean inside minus mean outside over the root of both variances added: CNR (C-4).

    Signed as in the official MaCo code, with population variances; ``absolute`` gives the form that its comment states.
    Pixels that are NaN are left out. 0 when the denominator is 0, NaN when no pixel is left inside or outside.
    """
    region = _mask(region)
    full = upsample(heat, *region.shape).astype(np.float64)
    known = ~np.isnan(full)
    inside, outside = full[region & known], full[~region & known]
    if not inside.size or not outside.size:
        return float("nan")
    noise = np.sqrt(inside.var() + outside.var())
    if np.ptp(inside) == np.ptp(outside) == 0:  # exactly; a variance may keep rounding errors
        return 0.0
    value = float((inside.mean() - outside.mean()) / noise)
    return abs(value) if absolute else value


def scaled(heat: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """The map stretched to [low, high], NaN staying NaN; a constant map becomes ``low`` everywhere."""
    bottom, top = np.nanmin(heat), np.nanmax(heat)
    if top == bottom:
        return np.where(np.isnan(heat), np.nan, low)
    return low + (high - low) * (heat - bottom) / (top - bottom)


def miou(
    heat: np.ndarray, region: np.ndarray, thresholds: Sequence[float] = MACO_THRESHOLDS, empty: float = float("nan")
) -> float:
    """Mean IoU over thresholds of the map stretched to [-1, 1], strictly greater, as MaCo scores it (C-4).

    Pixels that are NaN are left out. An IoU with nothing predicted or nothing true counts as ``empty``: NaN as in the
    official code, where it makes the mean NaN; 0 is the other reading.
    """
    region = _mask(region)
    full = upsample(heat, *region.shape)
    known = ~np.isnan(full)
    if not known.any():
        return empty
    stretched, truth = scaled(full[known], -1, 1), region[known]
    return float(np.mean([
        iou(stretched > threshold, truth) if truth.any() and (stretched > threshold).any() else empty
        for threshold in thresholds
    ]))  # fmt: skip


def best_iou_threshold(heats: Sequence[np.ndarray], regions: Sequence[np.ndarray], steps: int = 100) -> float:
    """The threshold on stretched maps (steps of 1 / ``steps``) with the largest mean IoU. Call it on validation studies.

    Raises ValueError when nothing is given.
    """
    if not len(heats):
        raise ValueError("no validation map to choose a threshold on")
    candidates = np.arange(steps) / steps
    known = [_known(scaled(heat), region) for heat, region in zip(heats, regions)]
    means = [np.mean([iou(full > t, region) for full, region in known]) for t in candidates]
    return float(candidates[int(np.nanargmax(means))])


def _known(heat: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    full = upsample(heat, *region.shape)
    known = ~np.isnan(full)
    return full[known], region[known]


def regions_hit(predicted: np.ndarray, regions: Sequence[np.ndarray], at_iou: float = 0.1) -> tuple[int, int, int]:
    """Connected predicted areas against separate true regions: (true regions hit, areas that hit, areas) (C-4).

    A pair counts as a hit when its IoU exceeds ``at_iou``.
    """
    labelled, count = ndimage.label(predicted)
    areas = [labelled == number for number in range(1, count + 1)]
    hit = np.array([[iou(area, region) > at_iou for region in regions] for area in areas]).reshape(count, len(regions))
    return int(hit.any(axis=0).sum()), int(hit.any(axis=1).sum()), count


@dataclass(frozen=True)
class GroundingScore:
    """Grounding of one finding over its positive studies; ``detection_*`` at IoU 0.1; ``threshold`` came from validation.

    ``pointing_any`` is the pointing game by the released rule.
    """

    studies: int
    pointing: float
    pointing_one_cell: float
    iou: float
    dice: float
    cnr: float
    detection_recall: float
    detection_precision: float
    threshold: float
    pointing_any: float


def score_grounding(
    heats: Sequence[np.ndarray],
    regions: Sequence[np.ndarray],
    threshold: float,
    parts: Sequence[Sequence[np.ndarray]] | None = None,
    stretch: bool = True,
) -> GroundingScore:
    """All grounding measures over positive studies, at a threshold on stretched maps chosen elsewhere.

    ``parts`` gives each study's separate true regions (boxes); by default the connected parts of its region.
    ``stretch`` False thresholds the maps as they are: the official MedKLIP code takes attention above 0.008. Cells that are
    NaN count in no measure but detection. Raises ValueError when lengths differ or there is no study.
    """
    parts = [_connected(region) for region in regions] if parts is None else parts
    if not len(heats) == len(regions) == len(parts) or not len(heats):
        raise ValueError(f"need as many maps as regions and at least one, got {len(heats)} and {len(regions)}")
    maps = [scaled(heat) if stretch else heat for heat in heats]
    found = np.array([regions_hit(upsample(m, *r.shape) > threshold, p) for m, r, p in zip(maps, regions, parts)])
    known = [_known(*pair) for pair in zip(maps, regions)]
    truths = sum(len(part) for part in parts)
    return GroundingScore(
        studies=len(heats),
        pointing=float(np.mean([pointing_game(*pair) for pair in zip(heats, regions)])),
        pointing_one_cell=float(np.mean([pointing_game(*pair, tolerance=1) for pair in zip(heats, regions)])),
        iou=float(np.nanmean([iou(full > threshold, region) for full, region in known])),
        dice=float(np.nanmean([dice(full > threshold, region) for full, region in known])),
        cnr=float(np.nanmean([contrast_to_noise(h, r) for h, r in zip(heats, regions)])),
        detection_recall=float(found[:, 0].sum() / max(truths, 1)),
        detection_precision=float(found[:, 1].sum() / max(found[:, 2].sum(), 1)),
        threshold=threshold,
        pointing_any=float(np.mean([pointing_game(h, r, rule="any") for h, r in zip(heats, regions)])),
    )


def _connected(region: np.ndarray) -> list[np.ndarray]:
    labelled, count = ndimage.label(region)
    return [labelled == number for number in range(1, count + 1)]


def random_maps(count: int, grid: int, seed: int = 0) -> np.ndarray:
    """Maps (count, grid, grid) of noise: what pointing at random gives."""
    return np.random.default_rng(seed).random((count, grid, grid))


def centre_box(grid: int) -> np.ndarray:
    """A map (grid, grid) that points at the middle of the image, whatever it shows; any threshold cuts out a centred box."""
    away = np.abs(np.arange(grid) - (grid - 1) / 2) / (grid / 2)
    return 1 - np.maximum.outer(away, away)


def average_lesion(regions: Sequence[np.ndarray], grid: int) -> np.ndarray:
    """Where this finding usually lies: the mean of training regions on the grid (grid, grid).

    The strongest baseline that never looks at the image. Raises ValueError without regions, or for a finer grid than theirs.
    """
    if not len(regions):
        raise ValueError("no training region to average")
    if grid > min(regions[0].shape):
        raise ValueError(f"a grid of {grid} is finer than the regions, {regions[0].shape}")
    step = [np.arange(grid + 1) * side // grid for side in regions[0].shape]
    total = np.mean([region.astype(float) for region in regions], axis=0)
    sums = np.add.reduceat(np.add.reduceat(total, step[0][:-1], axis=0), step[1][:-1], axis=1)
    return sums / np.outer(np.diff(step[0]), np.diff(step[1]))


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
    found = {name: query_grounding(system, data, Query.about(name), limit) for name in names}
    return {name: scores for name, scores in found.items() if scores}


def query_grounding(system: System, data: Parts, query: Query, limit: int = 150) -> dict[str, Any]:
    """``grounding`` of one query about what it names; empty where a part has no positive study."""
    found = {part: positive_studies(getattr(data, part), query.name, limit) for part in ("train", "val", "test")}
    if not all(found.values()):
        return {}
    regions = {part: [region for _, region in rows] for part, rows in found.items()}
    heats = {
        part: answer_images(
            system,
            getattr(data, part).subset([i for i, _ in found[part]]),
            lambda images: system.heatmap(images, [query])[:, 0],
        )
        for part in ("val", "test")
    }
    threshold = best_iou_threshold(heats["val"], regions["val"], steps=50)
    maps = blind_maps(len(heats["test"]), heats["test"].shape[-1], regions["train"])
    baselines = {
        kind: float(np.mean([pointing_game(*pair) for pair in zip(own, regions["test"])])) for kind, own in maps.items()
    }
    return {**asdict(score_grounding(heats["test"], regions["test"], threshold)), "baselines": baselines}


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
    system: System, data: Parts, names: Sequence[str] = ENTITIES, limit: int = 60, taus: Sequence[float | None] = TAUS,
    sigma: float = 1.5, part: str = "test",
) -> list[dict[str, Any]]:  # fmt: skip
    """CNR, mIoU and pointing game of a MaCo per entity and ``tau_w`` (M-10, C-4).

    On the first ``limit`` positive studies of each entity in a part; maps are upsampled bilinearly, as the official code
    does. ``tau_w`` None weights no patch; what is best on "val" may be reported on "test". "size" tells small findings from
    large ones.
    """
    system.eval()
    rows, dataset = [], getattr(data, part)
    for name in names:
        found = positive_studies(dataset, name, limit)
        if not found:
            continue
        places, regions = zip(*found)
        vectors, weights = projected(system, dataset.subset(places)), system.importance_score.weight[0]
        positive, negative = system.prompts([Query.about(name)])
        size = "large" if name in LARGE_FINDINGS else "small"
        for tau in taus:
            maps = smooth_maps(phrase_maps(vectors, positive - negative, patch_weights(weights, tau)), sigma)
            scores = phrase_scores(full_size(maps[:, 0], dataset.size), regions)
            rows.append({"entity": name, "size": size, "tau_w": tau, "sigma": sigma, **scores})
    return rows


def full_size(maps: torch.Tensor, size: int) -> np.ndarray:
    """Maps (N, h, w) at image resolution (N, size, size), bilinearly."""
    return upsample_maps(maps.unsqueeze(1).float(), size)[:, 0].cpu().numpy()


def projected(system: System, dataset: StudyDataset) -> torch.Tensor:
    """A MaCo's projected tokens (N, h, w, d) of all studies, nothing masked."""
    batches = image_batches(dataset, system.device)
    return torch.cat([system.image_projection(system.local_features(images)) for images in batches])


@torch.no_grad()
def sentence_grounding(
    system: System, data: Parts, names: Sequence[str] = ENTITIES, limit: int = 60
) -> dict[str, dict[str, float]]:
    """CNR, mIoU and pointing game of any system asked, as in MS-CXR, by the sentence of each test study's own report.

    Per entity, on its first ``limit`` positive studies, those whose report has a sentence that states it and nothing else.
    The sentence is compared with nothing.
    """
    system.eval()
    scores = {}
    for name in names:
        found = positive_studies(data.test, name, limit)
        said = [sentence_about(data.test.studies[place].report, name) for place, _ in found]
        if not (asked := [(*row, text) for row, text in zip(found, said) if text]):
            continue
        places, regions, said = zip(*asked)
        images = torch.cat(list(image_batches(data.test.subset(places), system.device)))
        heats = torch.cat([system.heatmap(x[None], [Query(text, (text,))])[0] for x, text in zip(images, said)])
        scores[name] = phrase_scores(full_size(heats, data.test.size), regions)
    return scores


def sentence_about(report: str, name: str) -> str:
    """The first sentence of a report that says this finding is present and states no other; "" where there is none."""
    for sentence in sentence_pieces(findings_text(report)):
        if {found.entity for found in extract(sentence) if found.present} == {name}:
            return sentence
    return ""


def phrase_scores(maps: np.ndarray, regions: Sequence[np.ndarray], empty: float = float("nan")) -> dict[str, float]:
    """Means over studies of what MaCo's papers report, from maps (N, H, W) and their regions; ``empty``: see ``miou``."""
    pairs = list(zip(maps, regions))
    measures = {
        "cnr": contrast_to_noise,
        "miou": lambda heat, region: miou(heat, region, empty=empty),
        "pointing": pointing_game,
    }
    return {"studies": len(pairs), **{k: float(np.mean([f(*pair) for pair in pairs])) for k, f in measures.items()}}

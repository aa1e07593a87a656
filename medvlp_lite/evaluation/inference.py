"""What a system makes of a whole data set: batches go to the system's device, answers come back as CPU arrays.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import Query, System

BATCH = 64


class Parts(Protocol):
    """Anything with the three parts of a split: fitted on ``train``, chosen on ``val``, reported on ``test``."""

    train: StudyDataset
    val: StudyDataset
    test: StudyDataset


def image_batches(dataset: StudyDataset, device: torch.device, size: int = BATCH) -> Iterator[torch.Tensor]:
    """The images of a data set in order, as float batches (<= size, 1, H, W) in [0, 1] on ``device``."""
    for start in range(0, len(dataset), size):
        images = torch.from_numpy(dataset.images[start : start + size])
        yield images.unsqueeze(1).to(device).float().div_(255)


@torch.no_grad()
def answer_images(system: System, dataset: StudyDataset, answer: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """``answer`` of every batch of images, joined: float (N, ...). The system is put in evaluation mode."""
    system.eval()
    return torch.cat([answer(images).float().cpu() for images in image_batches(dataset, system.device)]).cpu().numpy()


def score_dataset(system: System, dataset: StudyDataset, queries: Sequence[Query]) -> np.ndarray:
    """The system's scores of every image for every query: float (N, Q)."""
    return answer_images(system, dataset, lambda images: system.score(images, queries))


def embed_dataset(system: System, dataset: StudyDataset) -> np.ndarray:
    """The system's image vectors: float (N, d)."""
    return answer_images(system, dataset, system.embed_images)


def pooled_features(system: System, dataset: StudyDataset) -> np.ndarray:
    """The mean local feature of every image before any projection (``System.image_features``): float (N, C)."""
    return answer_images(system, dataset, lambda images: system.image_features(images).mean(dim=(2, 3)))


def heatmaps(system: System, dataset: StudyDataset, name: str) -> np.ndarray:
    """The system's maps of every image for one entity: (N, h, w)."""
    return answer_images(system, dataset, lambda images: system.heatmap(images, [Query.about(name)])[:, 0])


def stage_probabilities(system: System, dataset: StudyDataset) -> np.ndarray:
    """The probabilities of every stage for every image, (N, K), from a system that has ``probabilities``."""
    return answer_images(system, dataset, system.probabilities)


@torch.no_grad()
def embed_texts(system: System, texts: Sequence[str]) -> np.ndarray:
    """The system's vectors of texts, float (len(texts), d); equal texts are encoded once and get equal vectors."""
    system.eval()
    distinct = list(dict.fromkeys(texts))
    parts = [system.embed_texts(distinct[i : i + BATCH]).float().cpu() for i in range(0, len(distinct), BATCH)]
    place = {text: row for row, text in enumerate(distinct)}
    return torch.cat(parts).cpu().numpy()[[place[text] for text in texts]]


def embed_reports(system: System, dataset: StudyDataset) -> np.ndarray:
    """The system's vectors of all reports, without indication and technique: (N, d)."""
    return embed_texts(system, [findings_text(report) for report in dataset.reports])


def patients_of(dataset: StudyDataset) -> list[str]:
    """The patient of every study (N,): what bootstraps and calibration draw by."""
    return [study.patient_id for study in dataset.studies]

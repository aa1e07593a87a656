"""The baseline: contrast whole images with whole reports, after ConVIRT and CLIP (equation C-1).

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.components.contrastive import gather_pairs, info_nce
from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.text import ReportTokenizer, TextEncoder
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import Batch, Finding
from medvlp_lite.systems.base import LossTerms, Query, System

TEMPERATURE = 0.07  # where the learned one starts


@dataclass(frozen=True)
class ConVIRTConfig:
    """The options of ConVIRT."""

    image_encoder: str = "resnet_lite"  # a name of ``encoders.image.image_encoder``
    text_encoder: str = "lite"  # a size of ``encoders.text.TextEncoder``
    image_size: int = 112  # side of the images in pixels
    max_length: int = 128  # word pieces of a report that are read
    dim: int = 128  # width of the shared space


class ConVIRT(System):
    """Image encoder and text encoder, each pooled and projected to width ``dim``, pulled together pair by pair.

    The temperature is learned (log scale, kept in [0.01, 1]). The image vector is the mean of the projected local features,
    so that each local feature can be compared with a sentence: that is the heat map.
    """

    name, Config = "convirt", ConVIRTConfig

    def __init__(self, tokenizer: ReportTokenizer, config: ConVIRTConfig | None = None):
        config = config or ConVIRTConfig()
        super().__init__(tokenizer, config)
        self.image_encoder = image_encoder(config.image_encoder, config.image_size)
        self.text_encoder = TextEncoder(tokenizer, config.text_encoder, config.max_length)
        self.image_projection = nn.Linear(self.image_encoder.width, config.dim)
        self.text_projection = nn.Linear(self.text_encoder.width, config.dim)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))

    @property
    def temperature(self) -> torch.Tensor:
        """The learned temperature, kept in [0.01, 1]."""
        return self.log_temperature.exp().clamp(0.01, 1.0)

    def local_features(self, images: torch.Tensor) -> torch.Tensor:
        """Projected local features (B, h, w, dim)."""
        return self.image_projection(self.image_encoder(images).permute(0, 2, 3, 1))

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.local_features(images).mean(dim=(1, 2)), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return self.embed_token_ids(self.text_encoder.ids(texts).to(self.device))

    def embed_token_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, dim) of word-piece numbers (B, L)."""
        return F.normalize(self.text_projection(self.text_encoder.pooled(ids)), dim=-1)

    def text_inputs(self, reports: Sequence[str], findings: Sequence[tuple[Finding, ...]]) -> dict[str, torch.Tensor]:
        return {"token_ids": self.text_encoder.ids([findings_text(report) for report in reports])}

    def compute_loss(self, batch: Batch) -> LossTerms:
        images = gather_pairs(self.embed_images(batch.images))
        texts = gather_pairs(self.embed_token_ids(batch.inputs["token_ids"]))
        return LossTerms({"contrastive": info_nce(images @ texts.t(), self.temperature)})

    def class_embeddings(self, queries: Sequence[Query]) -> torch.Tensor:
        """One direction per query (Q, dim): the mean of its affirming sentences minus the mean of those compared with."""
        return torch.stack([self._mean_text(query.positive) - self._mean_text(query.negative) for query in queries])

    def _mean_text(self, sentences: tuple[str, ...]) -> torch.Tensor:
        if not sentences:
            return torch.zeros(self.config.dim, device=self.device)
        return F.normalize(self.embed_texts(sentences).mean(dim=0), dim=0)

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        return self.embed_images(images) @ self.class_embeddings(queries).t()

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        local = F.normalize(self.local_features(images), dim=-1)
        return torch.einsum("bhwd,qd->bqhw", local, self.class_embeddings(queries))

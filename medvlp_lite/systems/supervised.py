"""The upper bound, told the labels instead of the reports; and, told what the filter reads, MedKLIP without its decoder.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.components.entity_fusion import existence_loss
from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.reports.filter import adjacency, entity_labels, extract
from medvlp_lite.studies import Batch, Finding
from medvlp_lite.systems.base import LossTerms, Query, System


@dataclass(frozen=True)
class SupervisedConfig:
    """The options of a network that is told labels."""

    entities: tuple[str, ...]  # the columns of a batch's labels, one logit each
    image_encoder: str = "resnet_lite"  # a name of ``encoders.image.image_encoder``
    image_size: int = 112  # side of the images in pixels
    labels: str = "truth"  # "filter": what the report filter reads in the reports, as MedKLIP is told
    head: str = "linear"  # on the average of all places; "attention": on an average whose weights each entity learns


class Supervised(System):
    """One logit per entity from pooled local features, trained with binary cross-entropy on the known labels.

    It reads no text but for its labels, so it can be asked only about the entities it was built for. Raises ValueError for
    unknown ``labels`` or ``head``.
    """

    name, Config = "supervised", SupervisedConfig

    def __init__(self, tokenizer: ReportTokenizer, config: SupervisedConfig):
        if config.labels not in ("truth", "filter") or config.head not in ("linear", "attention"):
            raise ValueError(f"labels are of 'truth' or 'filter', the head is 'linear' or 'attention', got {config}")
        super().__init__(tokenizer, config)
        self.image_encoder = image_encoder(config.image_encoder, config.image_size)
        self.head = nn.Linear(self.image_encoder.width, len(config.entities))
        if config.head == "attention":
            self.attention = nn.Conv2d(self.image_encoder.width, len(config.entities), 1)

    def text_inputs(self, reports: Sequence[str], findings: Sequence[tuple[Finding, ...]]) -> dict[str, torch.Tensor]:
        """With filter labels ``labels`` (N, entities): 1, 0 or NaN, as MedKLIP's reports say of entities (K-3)."""
        if self.config.labels == "truth":
            return {}
        rows = [entity_labels(adjacency(extract(report), self.config.entities)) for report in reports]
        return {"labels": torch.from_numpy(np.stack(rows)).float()}

    def compute_loss(self, batch: Batch) -> LossTerms:
        if self.config.labels == "truth" and batch.entities != self.config.entities:
            raise ValueError(f"this system knows {self.config.entities} but the batch labels {batch.entities}")
        labels = batch.inputs["labels"] if self.config.labels == "filter" else batch.labels
        return LossTerms({"existence": existence_loss(self._logits(batch.images), labels)})

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        local = self.image_encoder(images)
        if self.config.head == "linear":
            return self.head(local.mean(dim=(2, 3)))
        pooled = torch.einsum("behw,bchw->bec", self._attend(local), local)
        return (pooled * self.head.weight).sum(dim=-1) + self.head.bias

    def _attend(self, local: torch.Tensor) -> torch.Tensor:
        return self.attention(local).flatten(2).softmax(dim=-1).unflatten(-1, local.shape[2:])

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.image_encoder(images).mean(dim=(2, 3)), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        raise NotImplementedError("the supervised upper bound reads no text")

    def _columns(self, queries: Sequence[Query]) -> list[int]:
        unknown = [query.name for query in queries if query.name not in self.config.entities]
        if unknown:
            raise ValueError(f"the supervised system was not built for {', '.join(unknown)}")
        return [self.config.entities.index(query.name) for query in queries]

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        return self._logits(images)[:, self._columns(queries)]

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """Class activation (B, Q, h, w), or the attention of the entity."""
        local = self.image_encoder(images)
        linear = self.config.head == "linear"
        maps = torch.einsum("bchw,ec->behw", local, self.head.weight) if linear else self._attend(local)
        return maps[:, self._columns(queries)]

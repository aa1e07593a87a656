"""The upper bound: the same image encoder, told the labels instead of the reports.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import Batch
from medvlp_lite.systems.base import LossTerms, Query, System


@dataclass(frozen=True)
class SupervisedConfig:
    """The options of the supervised bound."""

    entities: tuple[str, ...]  # the columns of a batch's labels, one logit each
    image_encoder: str = "resnet_lite"  # a name of ``encoders.image.image_encoder``
    image_size: int = 112  # side of the images in pixels


class Supervised(System):
    """One logit per entity from average-pooled local features, trained with binary cross-entropy on the known labels.

    It reads no text, so it can be asked only about the entities it was built for.
    """

    name, Config = "supervised", SupervisedConfig

    def __init__(self, tokenizer: ReportTokenizer, config: SupervisedConfig):
        super().__init__(tokenizer, config)
        self.image_encoder = image_encoder(config.image_encoder, config.image_size)
        self.head = nn.Linear(self.image_encoder.width, len(config.entities))

    def compute_loss(self, batch: Batch) -> LossTerms:
        if batch.entities != self.config.entities:
            raise ValueError(f"this system knows {self.config.entities} but the batch labels {batch.entities}")
        known = ~batch.labels.isnan()
        logits = self.head(self.image_encoder(batch.images).mean(dim=(2, 3)))
        return LossTerms({"existence": F.binary_cross_entropy_with_logits(logits[known], batch.labels[known])})

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
        return self.head(self.image_encoder(images).mean(dim=(2, 3)))[:, self._columns(queries)]

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        local = self.image_encoder(images)
        return torch.einsum("bchw,qc->bqhw", local, self.head.weight[self._columns(queries)])

"""The shared start: an image encoder and a text encoder, each trained on its own modality, no pair ever used.

Images: two strong views of a film must find each other among all views of the batch (SimCLR). Reports: hidden word pieces are
guessed from the others (masked language model). Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.augment import random_resized_crop, strong_augment
from medvlp_lite.components.contrastive import gather_pairs, nt_xent
from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.text import MASK, ReportTokenizer, TextEncoder
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import Batch, Finding
from medvlp_lite.systems.base import LossTerms, Query, System

TEMPERATURE = 0.1
HIDDEN = 0.15  # share of the word pieces that are guessed, as in BERT
VIEW = (0.3, 1.0)  # share of a film's area that a view shows


@dataclass(frozen=True)
class UnimodalConfig:
    """The options of the shared start."""

    image_encoder: str = "resnet_lite"  # a name of ``encoders.image.image_encoder``
    text_encoder: str = "lite"  # a size of ``encoders.text.TextEncoder``
    image_size: int = 112  # side of the images in pixels
    max_length: int = 128  # word pieces of a text that are read
    dim: int = 128  # width in which views are compared
    texts: tuple[str, ...] = ()  # sentences, such as descriptions, that take the place of every fourth report


class Unimodal(System):
    """Two encoders that have never seen an image beside its report; it can be asked nothing about an image."""

    name, Config = "unimodal", UnimodalConfig

    def __init__(self, tokenizer: ReportTokenizer, config: UnimodalConfig | None = None):
        config = config or UnimodalConfig()
        super().__init__(tokenizer, config)
        self.image_encoder = image_encoder(config.image_encoder, config.image_size)
        width = self.image_encoder.width
        self.view_projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.dim))
        self.text_encoder = TextEncoder(tokenizer, config.text_encoder, config.max_length)
        self.word_head = nn.Sequential(
            nn.Linear(self.text_encoder.width, self.text_encoder.width),
            nn.GELU(),
            nn.LayerNorm(self.text_encoder.width),
        )
        self.word_bias = nn.Parameter(torch.zeros(len(tokenizer)))

    def text_inputs(self, reports: Sequence[str], findings: Sequence[tuple[Finding, ...]]) -> dict[str, torch.Tensor]:
        texts, more = [findings_text(report) for report in reports], self.config.texts
        if more:
            texts[::4] = [more[i % len(more)] for i in range(len(texts[::4]))]
        return {"token_ids": self.text_encoder.ids(texts)}

    def compute_loss(self, batch: Batch) -> LossTerms:
        one, two = (self._project(strong_augment(random_resized_crop(batch.images, VIEW), 0.5)) for _ in range(2))
        return LossTerms({
            "views": nt_xent(gather_pairs(one), gather_pairs(two), TEMPERATURE),
            "words": self.word_loss(batch.inputs["token_ids"]),
        })  # fmt: skip

    def _project(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.view_projection(self.image_encoder(images).mean(dim=(2, 3))), dim=-1)

    def word_loss(self, ids: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of hidden word pieces of ids (B, L): each is hidden with the share ``HIDDEN``, at least one is."""
        hide = (torch.rand(ids.shape) < HIDDEN).to(ids.device)
        hide[:, 1] = hide[:, 1] | ~hide.any()
        hide &= (ids != self.tokenizer.pad_id) & (ids != self.tokenizer.start_id) & (ids != self.tokenizer.end_id)
        states, _ = self.text_encoder.encode(ids.masked_fill(hide, self.tokenizer.id_of(MASK)))
        hide = hide[:, : states.shape[1]]
        words = self.text_encoder.bert.embeddings.word_embeddings.weight
        logits = self.word_head(states[hide]) @ words.t().to(states.dtype) + self.word_bias
        return F.cross_entropy(logits.float(), ids[:, : states.shape[1]][hide].long())

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.image_encoder(images).mean(dim=(2, 3)), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return F.normalize(self.text_encoder.pooled(self.text_encoder.ids(texts).to(self.device)), dim=-1)

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        raise NotImplementedError("the shared start has seen no pair of image and report, so it cannot be asked")

    heatmap = score

"""MedKLIP: triplets from reports, described entities as queries, a fusion decoder, attention as grounding.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.components.entity_fusion import (
    EntityFusionDecoder,
    entity_labels,
    existence_loss,
    init_weights,
    position_loss,
    sample_positions,
)
from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.sentence import ClassTokenVectors, HashedTfidf
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.reports.filter import adjacency, extract
from medvlp_lite.reports.knowledge import describe
from medvlp_lite.reports.vocabulary import vocabulary
from medvlp_lite.studies import Batch, Finding
from medvlp_lite.systems.base import LossTerms, Query, System

POSITION_PROMPT = "It is located at {}"
ONE_HOT = "one-hot"  # in place of a text model
UNKNOWN = -1  # in the compact labels of a data set


@dataclass(frozen=True)
class MedKLIPConfig:
    """The options of MedKLIP."""

    entities: tuple[str, ...]  # the queries, by name
    image_encoder: str = "resnet_lite"  # a name of ``encoders.image.image_encoder``
    image_size: int = 112  # side of the images in pixels
    width: int = 128  # of local features and queries
    heads: int = 4  # of the decoder's attention
    layers: int = 2  # of the decoder
    feedforward: int = 256  # width between the two linear layers of a decoder layer
    dropout: float = 0.0  # in the decoder and behind it; 0.1 in the official code
    init_std: float | None = None  # start of all weight matrices; 0.02 in the official code, None is PyTorch's start
    attention_start: float = 0.1  # factor on query and key weights, so that attention starts nearly flat; official: 1
    memory_norm: bool = True  # a layer norm on the features that the decoder reads; neither paper nor code has it
    use_descriptions: bool = True  # ask with descriptions; False asks with names alone (the paper's "w/o DE")
    position_weight: float = 0.3  # of the position loss; 1 in paper and code, 0 switches it off ("w/o PosCL")
    text_model: str = (
        "words"  # hashed TF-IDF, a Hugging Face name such as Bio_ClinicalBERT's, or "one-hot": no text at all
    )
    text_width: int | None = None  # of the frozen text vectors; given, they are left empty, to be filled from a file
    shuffled: str = ""  # "descriptions" or "positions" go to the wrong entity or study in training: negative controls


class MedKLIP(System):
    """Entities described in words ask the image's local features whether and where they are there: K-1 to K-13."""

    name, Config = "medklip", MedKLIPConfig

    def __init__(self, tokenizer: ReportTokenizer, config: MedKLIPConfig):
        if config.shuffled not in ("", "descriptions", "positions"):
            raise ValueError(f"shuffled is 'descriptions', 'positions' or '', got {config.shuffled!r}")
        entities, positions = _text_vectors(config)
        super().__init__(tokenizer, replace(config, text_width=entities.shape[1]))
        width, text_width = config.width, self.config.text_width
        self.image_encoder = image_encoder(config.image_encoder, config.image_size)
        hidden = self.image_encoder.width
        self.token_mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.query_projection = nn.Linear(text_width, width)
        self.decoder = EntityFusionDecoder(
            width, config.heads, config.layers, config.feedforward, config.dropout,
            config.init_std, config.attention_start, config.memory_norm,
        )  # fmt: skip
        self.dropout = nn.Dropout(config.dropout)
        self.existence_head = nn.Linear(width, 2)
        self.position_head = nn.Linear(width, text_width)
        for layer in (*self.token_mlp[::2], self.query_projection, self.existence_head, self.position_head):
            init_weights(layer, config.init_std)
        self.position_head.requires_grad_(config.position_weight > 0)
        self.register_buffer("entity_vectors", entities)
        self.register_buffer("position_vectors", positions)

    @property
    def texts(self) -> HashedTfidf | ClassTokenVectors:
        """The frozen text model, loaded when it is first asked. Raises ValueError for "one-hot", which has none."""
        if self.config.text_model == ONE_HOT:
            raise ValueError("one-hot queries know no text; ask about the entities that were trained")
        return _text_model(self.config.text_model)

    def local_features(self, images: torch.Tensor) -> torch.Tensor:
        """Local features (B, h, w, width): equation K-2."""
        return self.token_mlp(self.image_encoder(images).permute(0, 2, 3, 1))

    def fuse(self, images: torch.Tensor, entity_vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fused queries (B, Q, width) and cross-attention (layers, B, Q, h, w) for text vectors (Q, text width): K-6."""
        return self._fuse(self.local_features(images), entity_vectors)

    def _fuse(self, local: torch.Tensor, entity_vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries = self.query_projection(entity_vectors).expand(len(local), -1, -1)
        fused, attention = self.decoder(queries, local.flatten(1, 2))
        return self.dropout(fused), attention.unflatten(-1, local.shape[1:3])

    def text_inputs(self, reports: Sequence[str], findings: Sequence[tuple[Finding, ...]]) -> dict[str, torch.Tensor]:
        """``adjacency`` (N, positions, entities) int8: what the report filter reads, 1, 0 or -1 for unknown (K-3).

        ``shuffled`` "descriptions" puts an entity's labels in the column of the one half a list further, so that each is trained
        with the description of another; "positions" keeps who has what, and takes where from another study that has it.
        """
        matrices = torch.empty(len(reports), len(self.position_vectors), len(self.entity_vectors), dtype=torch.int8)
        for row, report in zip(matrices, reports):
            row.copy_(torch.from_numpy(adjacency(extract(report), self.config.entities)).nan_to_num(UNKNOWN))
        if self.config.shuffled == "descriptions":
            matrices = matrices.roll(len(self.entity_vectors) // 2, dims=2)
        if self.config.shuffled == "positions":
            generator = torch.Generator().manual_seed(0)
            for column in matrices.unbind(dim=2):
                stated = (column == 1).any(dim=1).nonzero()[:, 0]
                column[stated] = column[stated[torch.randperm(len(stated), generator=generator)]]
        return {"adjacency": matrices}

    def targets(self, reports: Sequence[str]) -> torch.Tensor:
        """What the report filter reads in reports: (B, positions, entities) with 1, 0 or NaN (K-3), on the CPU."""
        return _with_nan(self.text_inputs(reports, ())["adjacency"])

    def compute_loss(self, batch: Batch) -> LossTerms:
        targets = _with_nan(batch.inputs["adjacency"])
        labels = entity_labels(targets)
        fused, _ = self.fuse(batch.images, self.entity_vectors)
        terms = {"existence": existence_loss(self.existence_head(fused), labels)}
        if self.config.position_weight:
            predicted, candidates = self.position_head(fused), sample_positions(targets)
            terms["position"] = position_loss(predicted, self.position_vectors, candidates, labels == 1)
        return LossTerms(terms, {"position": self.config.position_weight})

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.local_features(images).mean(dim=(1, 2)), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return F.normalize(self.query_projection(self.texts(texts).to(self.device)), dim=-1)

    def _ask(self, images: torch.Tensor, queries: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Existence logits (B, Q) and attention (layers, B, Q, h, w).

        A known name is asked with its stored vector, whatever the query describes. Each other one is appended to the known
        queries alone (K-13), so that no answer depends on what else is asked.
        """
        local = self.local_features(images)
        known = {name: place for place, name in enumerate(self.config.entities)}
        together = self._answer(local, self.entity_vectors) if any(query.name in known for query in queries) else None
        logits, attention = [], []
        for query in queries:
            answer, place = together, known.get(query.name, -1)
            if query.name not in known:
                vector = self.texts([_wording(self.config, query.name, query.description)]).to(self.device)
                answer = self._answer(local, torch.cat([self.entity_vectors, vector]))
            logits.append(answer[0][:, place])
            attention.append(answer[1][:, :, place])
        return torch.stack(logits, dim=1), torch.stack(attention, dim=2)

    def _answer(self, local: torch.Tensor, entity_vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fused, attention = self._fuse(local, entity_vectors)
        logits = self.existence_head(fused)
        return logits[..., 1] - logits[..., 0], attention

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        return self._ask(images, queries)[0]

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """Cross-attention averaged over heads and layers: equation K-12. Each map sums to 1."""
        return self._ask(images, queries)[1].mean(dim=0)

    def attention_by_layer(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """Cross-attention of every layer, (layers, B, Q, h, w)."""
        return self._ask(images, queries)[1]


def _wording(config: MedKLIPConfig, name: str, description: str = "") -> str:
    return (description or describe(name)) if config.use_descriptions else name


def _text_vectors(config: MedKLIPConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Of entities and positions: one dimension each for "one-hot", so that every query is learned; zeros to be filled."""
    places = [POSITION_PROMPT.format(name) for name in vocabulary()["positions"]]
    counts = len(config.entities), len(places)
    if config.text_width is not None:
        return torch.zeros(counts[0], config.text_width), torch.zeros(counts[1], config.text_width)
    if config.text_model == ONE_HOT:
        entities, positions = (rows.clone() for rows in torch.eye(sum(counts)).split(counts))
        return sum(counts) ** 0.5 * entities, positions  # so long that learned queries start far apart
    texts = _text_model(config.text_model)
    return texts([_wording(config, name) for name in config.entities]), texts(places)


@lru_cache(maxsize=4)
def _text_model(name: str) -> HashedTfidf | ClassTokenVectors:
    if name != "words":
        return ClassTokenVectors(name)
    words = vocabulary()
    corpus = [describe(entity) for entity in words["entities"]]
    return HashedTfidf([*corpus, *(POSITION_PROMPT.format(position) for position in words["positions"])])


def _with_nan(codes: torch.Tensor) -> torch.Tensor:
    return codes.float().masked_fill(codes == UNKNOWN, torch.nan)

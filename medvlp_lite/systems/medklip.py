"""MedKLIP: triplets from reports, described entities as queries, a fusion decoder, attention as grounding.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
from medvlp_lite.encoders.descriptions import ClassTokenVectors, HashedTfidf
from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.reports.filter import adjacency, extract
from medvlp_lite.reports.knowledge import describe
from medvlp_lite.reports.vocabulary import vocabulary
from medvlp_lite.studies import Batch
from medvlp_lite.systems.base import LossTerms, Query, System

POSITION_PROMPT = "It is located at {}"


class MedKLIP(System):
    """Entities described in words ask the image's local features whether and where they are there: K-1 to K-13.

    ``entities`` are the queries, by name; ``use_descriptions`` asks with their descriptions, else with the names alone
    (the paper's "w/o DE"); ``position_weight`` is 1 in paper and code, 0.3 is what few steps bear, and 0 switches the position
    loss off ("w/o PosCL"). ``negatives`` are drawn from ``pool``: see ``sample_positions``. ``excluded`` entities stay
    queries but enter no loss, as the official option exclude_class has it. ``existence`` "code" has two
    logits, "paper" one; ``loc_log`` is explained at ``position_loss``. ``flip`` mirrors half of the training images;
    ``mirror_positions`` then mirrors left and right in the labels too, which the official code does not.
    ``init_std`` 0.02 is the official start of all weight matrices, made for its widths; at the small widths here it leaves
    everything small for long, so None (PyTorch's start) is the default, but for attention, which starts nearly flat as the
    official one does: ``attention_start`` scales its query and key weights. ``text_model`` "words" needs no download; any
    other value is a Hugging Face name such as Bio_ClinicalBERT's. With ``text_width`` given the frozen vectors are left
    empty, to be filled from a file, and no text model is loaded.
    Raises ValueError for an option that does not exist.
    """

    name = "medklip"

    def __init__(
        self,
        tokenizer: ReportTokenizer,
        *,
        entities: Sequence[str],
        image_encoder_name: str = "resnet_lite",
        image_size: int = 112,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        feedforward: int = 256,
        dropout: float = 0.1,
        init_std: float | None = None,
        attention_start: float = 0.1,
        use_descriptions: bool = True,
        position_weight: float = 0.3,
        negatives: int = 7,
        pool: str = "entity",
        excluded: Sequence[str] = (),
        existence: str = "code",
        loc_log: bool = True,
        flip: bool = False,
        mirror_positions: bool = True,
        text_model: str = "words",
        text_width: int | None = None,
    ):
        super().__init__()
        if existence not in ("code", "paper"):
            raise ValueError(f"existence must be 'code' or 'paper', got {existence!r}")
        self.config = {key: value for key, value in locals().items() if key not in ("self", "tokenizer", "__class__")}
        self.config |= {"entities": list(entities), "excluded": list(excluded)}
        if unknown := set(excluded) - set(entities):
            raise ValueError(f"excluded names no entity of this system: {', '.join(sorted(unknown))}")
        self.tokenizer = tokenizer
        fill = text_width is None
        text_width = self.config["text_width"] = self.texts.width if fill else text_width
        self.image_encoder = image_encoder(image_encoder_name, image_size)
        hidden = self.image_encoder.width
        self.token_mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.query_projection = nn.Linear(text_width, width)
        self.decoder = EntityFusionDecoder(width, heads, layers, feedforward, dropout, init_std, attention_start)
        self.dropout = nn.Dropout(dropout)
        self.existence_head = nn.Linear(width, 2 if existence == "code" else 1)
        self.position_head = nn.Linear(width, text_width)
        for layer in (*self.token_mlp[::2], self.query_projection, self.existence_head, self.position_head):
            init_weights(layer, init_std)
        self.position_head.requires_grad_(position_weight > 0)
        places = vocabulary()["positions"]
        self.register_buffer("entity_vectors", torch.zeros(len(entities), text_width))
        self.register_buffer("position_vectors", torch.zeros(len(places), text_width))
        if fill:
            self.entity_vectors.copy_(self.texts([self._wording(name) for name in entities]))
            self.position_vectors.copy_(self.texts([POSITION_PROMPT.format(name) for name in places]))

    @property
    def texts(self) -> HashedTfidf | ClassTokenVectors:
        """The frozen text model, loaded when it is first asked."""
        return _text_model(self.config["text_model"])

    def _wording(self, name: str, description: str = "") -> str:
        return (description or describe(name)) if self.config["use_descriptions"] else name

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

    def loss(self, batch: Batch) -> LossTerms:
        adjacency = self.targets(batch.reports)
        if self.training and self.config["flip"]:
            batch, adjacency = self._flip(batch, adjacency)
        fused, _ = self.fuse(batch.images, self.entity_vectors)
        labels = entity_labels(adjacency)
        labels[:, [self.config["entities"].index(name) for name in self.config["excluded"]]] = torch.nan
        logits = self.existence_head(fused)
        terms = {"existence": existence_loss(logits if logits.shape[-1] == 2 else logits.squeeze(-1), labels)}
        if self.config["position_weight"]:
            candidates = sample_positions(adjacency, self.config["negatives"], self.config["pool"])
            predicted = self.position_head(fused)
            terms["position"] = position_loss(
                predicted, self.position_vectors, candidates, labels == 1, loc_log=self.config["loc_log"]
            )
        return LossTerms(terms, {"position": self.config["position_weight"]})

    def targets(self, reports: Sequence[str]) -> torch.Tensor:
        """What the report filter makes of reports: (B, positions, entities) with 1, 0 or NaN (K-3)."""
        matrices = [_report_matrix(report, tuple(self.config["entities"])) for report in reports]
        return torch.stack(matrices).to(self.device)

    def _flip(self, batch: Batch, adjacency: torch.Tensor) -> tuple[Batch, torch.Tensor]:
        chosen = torch.rand(len(batch), device=adjacency.device) < 0.5
        images = torch.where(chosen.view(-1, 1, 1, 1), batch.images.flip(3), batch.images)
        if self.config["mirror_positions"]:
            mirrored = adjacency[:, _mirror_order()]
            adjacency = torch.where(chosen.view(-1, 1, 1), mirrored, adjacency)
        return replace(batch, images=images), adjacency

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.local_features(images).mean(dim=(1, 2)), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        vectors = self.texts(texts).to(self.device)
        return F.normalize(self.query_projection(vectors), dim=-1)

    def _ask(self, images: torch.Tensor, queries: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Existence logits (B, Q) and attention (layers, B, Q, h, w).

        A name the system knows is asked with its stored vector, whatever the query describes. Each other one is appended to
        the known queries alone (K-13), so that no answer depends on what else is asked.
        """
        local = self.local_features(images)
        known = {name: place for place, name in enumerate(self.config["entities"])}
        together = self._answer(local, self.entity_vectors) if any(query.name in known for query in queries) else None
        logits, attention = [], []
        for query in queries:
            answer, place = together, known.get(query.name, -1)
            if query.name not in known:
                vector = self.texts([self._wording(query.name, query.description)]).to(self.device)
                answer = self._answer(local, torch.cat([self.entity_vectors, vector]))
            logits.append(answer[0][:, place])
            attention.append(answer[1][:, :, place])
        return torch.stack(logits, dim=1), torch.stack(attention, dim=2)

    def _answer(self, local: torch.Tensor, entity_vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fused, attention = self._fuse(local, entity_vectors)
        logits = self.existence_head(fused)
        return logits[..., 1] - logits[..., 0] if logits.shape[-1] == 2 else logits.squeeze(-1), attention

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        return self._ask(images, queries)[0]

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """Cross-attention averaged over heads and layers: equation K-12. Each map sums to 1."""
        return self._ask(images, queries)[1].mean(dim=0)

    def attention_by_layer(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """Cross-attention of every layer, (layers, B, Q, h, w)."""
        return self._ask(images, queries)[1]


@lru_cache(maxsize=4)
def _text_model(name: str) -> HashedTfidf | ClassTokenVectors:
    if name != "words":
        return ClassTokenVectors(name)
    words = vocabulary()
    corpus = [describe(entity) for entity in words["entities"]]
    return HashedTfidf([*corpus, *(POSITION_PROMPT.format(position) for position in words["positions"])])


@lru_cache(maxsize=100_000)
def _report_matrix(report: str, entities: tuple[str, ...]) -> torch.Tensor:
    return torch.from_numpy(adjacency(extract(report), entities)).float()


@lru_cache(maxsize=1)
def _mirror_order() -> list[int]:
    positions = vocabulary()["positions"]
    swap = {"left": "right", "right": "left"}
    mirrored = ["_".join(swap.get(part, part) for part in name.split("_")) for name in positions]
    return [positions.index(name) if name in positions else place for place, name in enumerate(mirrored)]

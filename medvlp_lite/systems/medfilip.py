"""MedFILIP: structured labels from reports, categories explained in words, soft labels from their similarity (F-1 to F-10).

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.components import similarity_labels as soft
from medvlp_lite.components.contrastive import cosine_matrix, gather_pairs
from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.sentence import HashedTfidf, SentenceEncoder
from medvlp_lite.encoders.text import CLIPText, ReportTokenizer, TextEncoder
from medvlp_lite.reports.knowledge import base, structured_label
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.reports.structured_labels import (
    MILD_TO_SEVERE,
    Label,
    explanation_of,
    ontology_similarity_matrix,
    reported_labels,
    true_labels,
)  # fmt: skip
from medvlp_lite.studies import SEVERITIES, Batch, Finding
from medvlp_lite.systems.base import LossTerms, Query, System

TEMPERATURE = 0.07  # where the learned one starts
CHOICES = {
    "mse_on": soft.MSE_SCALES,
    "hard_labels": ("category", "text"),
    "triplets": ("report", "truth"),
    "template": ("paper", "code"),
}


@dataclass(frozen=True)
class MedFILIPConfig:
    """The options of MedFILIP; ``use_entities``, ``use_fg``, ``use_ssm`` and ``use_iki`` are the switches of the paper's Table 6."""

    categories: tuple[str, ...]  # the closed list of what counts as a finding
    image_encoder: str = "resnet_lite"  # a name of ``encoders.image.image_encoder``
    text_encoder: str | tuple[int, ...] = "lite"  # a size of ``encoders.text.TextEncoder``, or "clip"
    image_size: int = 112  # side of the images in pixels
    max_length: int = 128  # word pieces of a text that are read
    dim: int = 128  # width of the shared space
    use_entities: bool = True  # False: the texts are whole reports and Y the identity
    use_fg: bool = True  # False: a label is its category alone
    use_ssm: bool = True  # False: Y holds 0 and 1, by ``hard_labels``
    use_iki: bool = True  # False: categories are not explained
    hard_labels: str = "category"  # labels of one "category" or of one "text" count as equal
    similarity_model: str = (
        "reports"  # "words", "ontology", "minilm", "clinicalbert" (paper), "mpnet" (code), a hub name
    )
    centre_similarity: bool = True  # take the mean label away from the vectors of a text model
    severity_similarity: float = MILD_TO_SEVERE  # of mild and severe, in the ontology
    similarity_power: float = 1.0  # above 1 it sharpens the similarity
    same_category_only: bool = False  # no similarity across categories, as the released code has it
    clamp_min: float | None = 0.0  # smallest similarity; None leaves negative ones
    mse_on: str = "cosine"  # what the squared error compares with Y: the "cosine", or the "scaled" one (released code)
    triplets: str = "report"  # read from the "report", or the findings themselves ("truth")
    template: str = "paper"  # explain what the knowledge base knows, or the 61 categories of the released "code" (F-4)
    grey: tuple[float, float] | None = None  # mean and standard deviation of the released weights' training images

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")


class MedFILIP(System):
    """Images are matched with structured labels "severity location category, where category is explanation": F-1 to F-10."""

    name, Config = "medfilip", MedFILIPConfig

    def __init__(self, tokenizer: ReportTokenizer, config: MedFILIPConfig):
        super().__init__(tokenizer, config)
        self.image_encoder = image_encoder(config.image_encoder, config.image_size)
        clip, variant = config.text_encoder == "clip", config.text_encoder
        self.text_encoder = CLIPText(tokenizer) if clip else TextEncoder(tokenizer, variant, config.max_length)
        self.image_projection = nn.Linear(self.image_encoder.width, config.dim)
        self.text_projection = nn.Linear(self.text_encoder.width, config.dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))
        self.labels = LabelTable(self)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        if not self.config.grey:
            return super().image_features(images)
        mean, std = self.config.grey  # the official code repeats standardised grey values over three channels
        return self.image_encoder.body(((images - mean) / std).expand(-1, 3, -1, -1))

    def local_features(self, images: torch.Tensor) -> torch.Tensor:
        """Projected local features (B, h, w, dim); their mean is the image vector of F-6."""
        return self.image_projection(self.image_features(images).permute(0, 2, 3, 1))

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.local_features(images).mean(dim=(1, 2)), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return self.embed_token_ids(self.text_encoder.ids(texts).to(self.device))

    def embed_token_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, dim) of word pieces (B, L)."""
        return F.normalize(self.text_projection(self.text_encoder.pooled(ids)), dim=-1)

    def wording(self, label: Label) -> str:
        """The text of a structured label as this system reads it (F-4); slots it does not use are left out."""
        severity, location, category = label if self.config.use_fg else (None, None, label.category)
        if not self.config.use_entities:
            text = structured_label(severity, location, category)
            return f"{text[0].upper()}{text[1:]}."
        template = self.config.template
        explained = self.config.use_iki and (template == "paper" or category in base()["categories"])
        return structured_label(severity, location, category, explanation_of(category) if explained else "", template)

    def text_inputs(self, reports: Sequence[str], findings: Sequence[tuple[Finding, ...]]) -> dict[str, Any]:
        """``labels``, the structured labels of each study (F-1), or ``token_ids`` of the reports where they are the texts."""
        if not self.config.use_entities:
            return {"token_ids": self.text_encoder.ids([findings_text(report) for report in reports])}
        labels = self.labels_of(reports, findings)
        self.labels.add(label for row in _gather_lists(labels) for label in row)
        return {"labels": labels}

    def labels_of(self, reports: Sequence[str], findings: Sequence[tuple[Finding, ...]]) -> list[tuple[Label, ...]]:
        """The structured labels of each study (F-1); none where nothing is stated as present."""
        read, stated = (true_labels, findings) if self.config.triplets == "truth" else (reported_labels, reports)
        return [read(study, self.config.categories) for study in stated]

    def compute_loss(self, batch: Batch) -> LossTerms:
        # F-6: images; F-7: their cosines with all texts of the batch; F-5, F-12: what these should be
        images = gather_pairs(self.embed_images(batch.images))
        if self.config.use_entities:
            owned = _gather_lists(batch.inputs["labels"])
            cosine, labels = self._label_cosine(images, self.labels.rows_of(owned)), self.label_matrix(owned)
        else:
            cosine = cosine_matrix(images, gather_pairs(self.embed_token_ids(batch.inputs["token_ids"])))
            labels = soft.identity_labels(torch.arange(len(images)), len(images))
        # F-8
        return LossTerms(soft.itm_terms(cosine, labels.to(cosine), self.logit_scale.exp(), mse_on=self.config.mse_on))

    def _label_cosine(self, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """F-7 for images (N, d) and labels ``rows`` (M,): (N, M). Every text is encoded once, however often it stands there."""
        texts, columns = self.labels.text_of[rows].unique(return_inverse=True)
        some = texts if len(texts) else torch.zeros(1, dtype=torch.long)  # else encoders would have no gradient
        vectors = self.embed_token_ids(self.labels.token_ids[some].to(self.device))
        return cosine_matrix(images, vectors)[:, columns.to(images.device)] + 0 * self.logit_scale

    def label_matrix(self, owned: Sequence[tuple[Label, ...]]) -> torch.Tensor:
        """What each of N images should score with each of the M labels of a batch: (N, M) on the CPU, F-5 or F-12."""
        config, rows = self.config, self.labels.rows_of(owned)
        owners = torch.arange(len(owned)).repeat_interleave(torch.tensor([len(row) for row in owned]))
        categories = self.labels.category_of[rows]
        if not config.use_ssm:
            groups = categories if config.hard_labels == "category" else self.labels.text_of[rows]
            return soft.multi_hot_labels(owners, groups, len(owned))
        similarity, gate = self.labels.similarity[rows][:, rows], categories if config.same_category_only else None
        return soft.similarity_labels(
            similarity, owners, len(owned), categories=gate, clamp_min=config.clamp_min, power=config.similarity_power
        )

    def label_similarity(self, labels: Sequence[Label]) -> torch.Tensor:
        """How alike the similarity model finds structured labels: (M, M), 1 on the diagonal (first half of F-5)."""
        if self.config.similarity_model == "ontology":
            return torch.from_numpy(ontology_similarity_matrix(labels, self.config.severity_similarity)).float()
        texts = [self.wording(label) for label in labels]
        distinct = list(dict.fromkeys(texts))
        columns = torch.tensor([distinct.index(text) for text in texts], dtype=torch.long)
        return soft.text_similarity(self._similarity_model()(distinct))[columns][:, columns]

    def _similarity_model(self) -> HashedTfidf | SentenceEncoder:
        vocabulary = [Label(s, None, c) for c in self.config.categories for s in (None, *SEVERITIES)]
        centre = tuple(map(self.wording, vocabulary)) if self.config.centre_similarity else ()
        return similarity_model(self.config.similarity_model, centre)

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        return cosine_matrix(self.embed_images(images), self.class_embeddings(queries))

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        local = F.normalize(self.local_features(images), dim=-1)
        return torch.einsum("bhwd,qd->bqhw", local, self.class_embeddings(queries))

    def class_embeddings(self, queries: Sequence[Query]) -> torch.Tensor:
        """One unit vector per query (Q, dim): F-9. A known category by its template, another by its description, else its name.

        A system trained on whole reports is asked as the baseline is: affirming sentences minus those compared with.
        """
        if not self.config.use_entities:
            return torch.stack([self._contrast(query) for query in queries])
        known = self.config.categories
        return self.embed_texts(
            [self.wording(Label(None, None, q.name)) if q.name in known else q.description or q.name for q in queries]
        )

    def _contrast(self, query: Query) -> torch.Tensor:
        positive = self.embed_texts(query.positive or (query.description or query.name,)).mean(dim=0)
        negative = self.embed_texts(query.negative).mean(dim=0) if query.negative else torch.zeros_like(positive)
        return F.normalize(F.normalize(positive, dim=0) - F.normalize(negative, dim=0), dim=0)


@lru_cache(maxsize=8)
def similarity_model(name: str, centre: tuple[str, ...] = ()) -> HashedTfidf | SentenceEncoder:
    """The frozen text model phi of F-5 by name, with the mean of ``centre``'s vectors taken away where it is a network.

    Raises OSError when a hub model is neither cached nor reachable, ImportError when "minilm" is not installed.
    """
    if name == "words":
        return HashedTfidf([row["text"] for row in base()["categories"].values()])
    own = {"reports": SentenceEncoder.stored, "minilm": SentenceEncoder.minilm}
    model = own[name]() if name in own else SentenceEncoder.from_hub(name)
    return model.centred(centre) if centre else model


class LabelTable:
    """All structured labels that a MedFILIP has met: their texts, word pieces, categories and similarity, each made once.

    It grows when new labels come; what it says of a label does not depend on the others. Text 0 stands for no label.
    """

    def __init__(self, system: MedFILIP):
        self._system = (system,)  # in a tuple: the system is no part of its own table
        self.place: dict[Label, int] = {}
        self.category_of = self.text_of = torch.zeros(0, dtype=torch.long)  # numbers of each label's category and text
        self.similarity = torch.zeros(0, 0)
        self.token_ids = system.text_encoder.ids(["."])  # (texts, pieces)

    def add(self, labels: Iterable[Label]) -> None:
        """Take in the labels that are new."""
        new = [label for label in dict.fromkeys(labels) if label not in self.place]
        if not new:
            return
        system = self._system[0]
        self.place.update({label: len(self.place) + i for i, label in enumerate(new)})
        texts = [system.wording(label) for label in self.place]
        self.category_of = _numbered([label.category for label in self.place])
        self.text_of = 1 + _numbered(texts)
        self.token_ids = system.text_encoder.ids([".", *dict.fromkeys(texts)])
        if system.config.use_ssm:
            self.similarity = system.label_similarity(list(self.place))

    def rows_of(self, owned: Sequence[tuple[Label, ...]]) -> torch.Tensor:
        """The numbers (M,) of all labels of a batch, study by study. Raises KeyError for a label that was never added."""
        return torch.tensor([self.place[label] for row in owned for label in row], dtype=torch.long)


def _numbered(names: Sequence[str]) -> torch.Tensor:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.long)


def _gather_lists(rows: list) -> list:
    """The lists of all processes, joined in order; every process then reads all texts itself."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    gathered: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, rows)
    return [row for part in gathered for row in part]

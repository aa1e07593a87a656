"""MedFILIP: structured labels from reports, categories explained in words, soft labels from their similarity (F-1 to F-10).

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.components import similarity_labels as soft
from medvlp_lite.components.contrastive import cosine_matrix, gather_pairs
from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.sentence import HashedTfidf, SentenceEncoder
from medvlp_lite.encoders.text import CLIPText, ReportTokenizer, TextEncoder, masked_mean
from medvlp_lite.reports.knowledge import base
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.reports.structured_labels import (
    Label,
    explanation_of,
    ontology_similarity_matrix,
    reported_labels,
    true_labels,
)  # fmt: skip
from medvlp_lite.studies import SEVERITIES, Batch
from medvlp_lite.systems.base import LossTerms, Query, System

OPTIONS = {
    "ce": soft.CROSS_ENTROPIES,
    "mse_on": soft.MSE_SCALES,
    "hard_labels": ("category", "text"),
    "triplets": ("report", "truth"),
    "template": ("paper", "code"),
}


class MedFILIP(System):
    """Images are matched with structured labels "severity location category, where category is explanation": F-1 to F-10.

    ``categories`` is the closed list of what counts as a finding. Four switches make the rungs of the paper's Table 6:
    without ``use_entities`` the texts are whole reports and Y the identity; without ``use_fg`` a label is its category
    alone; without ``use_ssm`` Y holds 0 and 1, where ``hard_labels`` says whether labels of one "category" or of one
    "text" count as equal; without ``use_iki`` categories are not explained. ``similarity_model``: "reports" is the encoder
    that comes with the package, "words" compares word pieces, "ontology" is hand-made, "clinicalbert" (paper), "mpnet"
    (official code) and any other name come from the hub. ``centre_similarity`` takes the mean label away from the vectors
    of a text model. ``same_category_only``, ``clamp_min``: see ``similarity_labels``; ``ce``, ``mse_on``: see ``itm_terms``.
    ``triplets`` "report" reads the reports, "truth" takes the findings themselves. ``template`` "paper" explains what the
    knowledge base knows, "code" the 61 categories of the released dictionary (F-4). ``text_variant`` is a TextEncoder's, or
    "clip". Raises ValueError for an option that does not exist.
    """

    name = "medfilip"

    def __init__(
        self,
        tokenizer: ReportTokenizer,
        *,
        categories: Sequence[str],
        image_encoder_name: str = "resnet_lite",
        text_variant: str | Sequence[int] = "lite",
        image_size: int = 112,
        max_length: int = 96,
        dim: int = 128,
        temperature: float = 0.07,
        use_entities: bool = True,
        use_fg: bool = True,
        use_ssm: bool = True,
        use_iki: bool = True,
        hard_labels: str = "category",
        similarity_model: str = "reports",
        centre_similarity: bool = True,
        same_category_only: bool = False,
        clamp_min: float | None = 0.0,
        ce: str = "bce",
        mse_on: str = "cosine",
        triplets: str = "report",
        template: str = "paper",
        grey: tuple[float, float] | None = None,
    ):
        super().__init__()
        self.config = {key: value for key, value in locals().items() if key not in ("self", "tokenizer", "__class__")}
        self.config["categories"] = list(categories)
        for option, allowed in OPTIONS.items():
            if self.config[option] not in allowed:
                raise ValueError(f"{option} must be one of {allowed}, got {self.config[option]!r}")
        self.tokenizer = tokenizer
        self.image_encoder = image_encoder(image_encoder_name, image_size)
        clip = text_variant == "clip"
        self.text_encoder = CLIPText(tokenizer) if clip else TextEncoder(tokenizer, text_variant, max_length)
        self.image_projection = nn.Linear(self.image_encoder.width, dim)
        self.text_projection = nn.Linear(self.text_encoder.width, dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self._vectors: dict[str, torch.Tensor] = {}

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        if not self.config["grey"]:
            return super().image_features(images)
        mean, spread = self.config["grey"]  # the official code repeats standardised grey values over three channels
        return self.image_encoder.body(((images - mean) / spread).expand(-1, 3, -1, -1))

    def local_features(self, images: torch.Tensor) -> torch.Tensor:
        """Projected local features (B, h, w, dim); their mean is the image vector of F-6."""
        return self.image_projection(self.image_features(images).permute(0, 2, 3, 1))

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.local_features(images).mean(dim=(1, 2)), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        encoded = self.text_encoder(texts)
        pooled = encoded if isinstance(encoded, torch.Tensor) else masked_mean(*encoded)
        return F.normalize(self.text_projection(pooled), dim=-1)

    def wording(self, label: Label) -> str:
        """The text of a structured label as this system reads it (F-4); slots it does not use are left out."""
        severity, location, category = label if self.config["use_fg"] else (None, None, label.category)
        text = " ".join(word for word in (severity, location, category) if word)
        if not self.config["use_entities"]:
            return f"{text[0].upper()}{text[1:]}."
        code = self.config["template"] == "code"
        explained = self.config["use_iki"] and (not code or category in base()["categories"])
        explanation = explanation_of(category) if explained else ""
        if not explanation:
            return text
        if code:
            return f"{text}. {explanation}"
        return f"{text}, where {category} is {explanation[0].lower()}{explanation[1:].rstrip('.')}"

    def labels_of(self, batch: Batch) -> list[tuple[Label, ...]]:
        """The structured labels of each study of a batch (F-1); empty where nothing is stated as present."""
        categories = tuple(self.config["categories"])
        if self.config["triplets"] == "truth":
            return [true_labels(findings, categories) for findings in batch.findings]
        return [reported_labels(report, categories) for report in batch.reports]

    def loss(self, batch: Batch) -> LossTerms:
        images = gather_pairs(self.embed_images(batch.images))
        if self.config["use_entities"]:
            owned = _gather_lists(self.labels_of(batch))
            texts, labels = self._label_matrix(owned)
        else:
            reports = _gather_lists([findings_text(report) for report in batch.reports])
            texts, labels = reports, soft.identity_labels(torch.arange(len(reports)), len(reports))
        cosine = self._cosine(images, texts)
        options = {option: self.config[option] for option in ("ce", "mse_on")}
        return LossTerms(soft.itm_terms(cosine, labels.to(cosine), self.logit_scale.exp(), **options))

    def _cosine(self, images: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        """F-7, (N, M): every text is encoded once, however often it stands in the batch."""
        if not texts:  # several processes wait for a gradient of every parameter, be it zero
            return images.new_zeros(len(images), 0) * (images.sum() + self.embed_texts(["."]).sum() + self.logit_scale)
        distinct = list(dict.fromkeys(texts))
        place = {text: i for i, text in enumerate(distinct)}
        columns = torch.tensor([place[text] for text in texts], device=images.device)
        return cosine_matrix(images, self.embed_texts(distinct))[:, columns]

    def _label_matrix(self, owned: Sequence[tuple[Label, ...]]) -> tuple[list[str], torch.Tensor]:
        """The M texts of a batch of N images and what each image should score with each: (N, M), F-5 or F-12."""
        labels = [label for row in owned for label in row]
        owners = torch.tensor([i for i, row in enumerate(owned) for _ in row], dtype=torch.long)
        texts = [self.wording(label) for label in labels]
        categories = _numbered([label.category for label in labels])
        if self.config["use_ssm"]:
            matrix = soft.similarity_labels(
                self.label_similarity(labels),
                owners,
                len(owned),
                categories=categories if self.config["same_category_only"] else None,
                clamp_min=self.config["clamp_min"],
            )
        else:
            groups = categories if self.config["hard_labels"] == "category" else _numbered(texts)
            matrix = soft.multi_hot_labels(owners, groups, len(owned))
        return texts, matrix

    def label_similarity(self, labels: Sequence[Label]) -> torch.Tensor:
        """How alike the similarity model finds structured labels: (M, M), 1 on the diagonal (first half of F-5)."""
        distinct = list(dict.fromkeys(labels))
        place = {label: i for i, label in enumerate(distinct)}
        columns = torch.tensor([place[label] for label in labels], dtype=torch.long)
        if self.config["similarity_model"] == "ontology":
            matrix = torch.from_numpy(ontology_similarity_matrix(distinct)).float()
        else:
            matrix = soft.text_similarity(self._similarity_vectors([self.wording(label) for label in distinct]))
        return matrix[columns][:, columns]

    def _similarity_vectors(self, texts: Sequence[str]) -> torch.Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            vocabulary = [Label(s, None, c) for c in self.config["categories"] for s in (None, *SEVERITIES)]
            centre = tuple(map(self.wording, vocabulary)) if self.config["centre_similarity"] else ()
            self._vectors.update(zip(new, similarity_model(self.config["similarity_model"], centre)(new)))
        return torch.stack([self._vectors[text] for text in texts]) if texts else torch.zeros(0, 1)

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        return cosine_matrix(self.embed_images(images), self.class_embeddings(queries))

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        local = F.normalize(self.local_features(images), dim=-1)
        return torch.einsum("bhwd,qd->bqhw", local, self.class_embeddings(queries))

    def class_embeddings(self, queries: Sequence[Query]) -> torch.Tensor:
        """One unit vector per query (Q, dim): F-9. A known category by its template, another by its description, else its name.

        A system trained on whole reports is asked as the baseline is: affirming sentences minus those compared with.
        """
        if not self.config["use_entities"]:
            return torch.stack([self._contrast(query) for query in queries])
        known = self.config["categories"]
        texts = [
            self.wording(Label(None, None, q.name)) if q.name in known else q.description or q.name for q in queries
        ]
        return self.embed_texts(texts)

    def _contrast(self, query: Query) -> torch.Tensor:
        positive = self.embed_texts(query.positive or (query.description or query.name,)).mean(dim=0)
        negative = self.embed_texts(query.negative).mean(dim=0) if query.negative else torch.zeros_like(positive)
        return F.normalize(F.normalize(positive, dim=0) - F.normalize(negative, dim=0), dim=0)


@lru_cache(maxsize=8)
def similarity_model(name: str, centre: tuple[str, ...] = ()) -> HashedTfidf | SentenceEncoder:
    """The frozen text model phi of F-5 by name, with the mean of ``centre``'s vectors taken away where it is a network.

    Raises OSError when a hub model is neither cached nor reachable.
    """
    if name == "words":
        return HashedTfidf([row["text"] for row in base()["categories"].values()])
    model = SentenceEncoder.stored() if name == "reports" else SentenceEncoder.from_hub(name)
    return model.centred(centre) if centre else model


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

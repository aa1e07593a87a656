"""MSK-PT's second stage: an image-only student learns to stage from few labels and from what stage 1 stored (P-14 to P-23).

The paper's formulas are lost: all of this is a reconstruction. Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.augment import random_flip, strong_augment
from medvlp_lite.components import uncertainty_staging as us
from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import Batch, StudyDataset
from medvlp_lite.systems.base import LossTerms, Query, System

STAGES = ("stage 0", "stage I", "stage II", "stage III")
DISEASE = "pneumoconiosis"
THETA = 0.5  # answers less uncertain than this count as certain
SCALE = 1 / 0.07  # of cosines with the banks


@dataclass(frozen=True)
class MSKPTStagingConfig:
    """The options of MSK-PT's second stage."""

    image_encoder: str = "resnet_lite"  # a name of ``encoders.image.image_encoder``
    image_size: int = 112  # side of the images in pixels
    width: int = 128  # of the banks, which is the width of the teacher's shared space
    pooling: str = "mean_max"  # of local features, before head and projector: a name of POOLINGS
    text_weight: float = 1.0  # of distillation through the shared text feature (P-20); 0: without it
    data_weight: float = 1.0  # of distillation through the shared data feature (P-19); 0: without it
    gate: bool = True  # only images of which the teacher is certain teach (P-21); PromptKD's code has no gate
    weight: str = "linear"  # of labelled samples by certainty (P-16): a name of WEIGHTS; "none" is plain cross-entropy
    patience: int = 0  # training steps of plain cross-entropy first: a "gate" that nothing passes would never open

    def __post_init__(self) -> None:
        for name, known in (("weight", us.WEIGHTS), ("pooling", us.POOLINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    @property
    def taught(self) -> bool:
        """Whether a teacher is needed."""
        return self.text_weight > 0 or self.data_weight > 0


class MSKPTStaging(System):
    """A classifier of stages whose image encoder may start from a stage-1 system and be taught by it: P-22, a reconstruction.

    The teacher sees images as the batch brings them, the student mirrored at random and with stronger augmentation: a stage has no side. Call ``set_teacher`` before
    training with a teacher.
    """

    name, Config = "staging", MSKPTStagingConfig

    def __init__(self, tokenizer: ReportTokenizer, config: MSKPTStagingConfig | None = None):
        config = config or MSKPTStagingConfig()
        super().__init__(tokenizer, config)
        self.image_encoder = image_encoder(config.image_encoder, config.image_size)
        hidden, width = self.image_encoder.width * (2 if config.pooling == "mean_max" else 1), config.width
        self.head = nn.Linear(hidden, len(STAGES))
        self.projector = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)) if config.taught else None
        )
        self.register_buffer("text_bank", torch.zeros(len(STAGES), width))
        self.register_buffer("data_bank", torch.zeros(len(STAGES), width))
        self.register_buffer("class_weights", torch.ones(len(STAGES)), persistent=False)
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))
        self._teacher: tuple[System, ...] = ()

    def balance(self, stages: np.ndarray) -> MSKPTStaging:
        """Weigh the stages in the loss against how often they occur among ``stages`` (N,), -1 for unlabelled."""
        self.class_weights.copy_(us.balanced_weights(torch.as_tensor(stages), len(STAGES)))
        return self

    def set_teacher(
        self, teacher: System, dataset: StudyDataset, descriptions: Sequence[str] | None = None
    ) -> MSKPTStaging:
        """Start from a stage-1 system: its image encoder is copied, its answers become the teacher, its features the banks.

        Banks (P-18, P-19) and class weights come from the labelled studies of ``dataset``; with ``descriptions``, one text per stage, the
        text bank holds those instead. The teacher itself, not a copy, is put in evaluation mode and frozen. Raises ValueError
        when its vectors have another width, or a stage has no labelled study.
        """
        missing = [name for k, name in enumerate(STAGES) if not (dataset.stages == k).any()]
        if missing:
            raise ValueError(f"no labelled study of {', '.join(missing)}: label at least one of each stage")
        labelled = dataset.subset([i for i, stage in enumerate(dataset.stages) if stage >= 0])
        self.balance(labelled.stages)
        stages, images = torch.from_numpy(labelled.stages), torch.from_numpy(labelled.images).unsqueeze(1)
        text_stages = stages if descriptions is None else torch.arange(len(descriptions))
        texts = list(descriptions or map(findings_text, labelled.reports))
        teacher = teacher.eval().requires_grad_(False)
        self.image_encoder.load_state_dict(teacher.image_encoder.state_dict())
        with torch.no_grad():
            of_texts = [teacher.embed_texts(texts[i : i + 64]).cpu() for i in range(0, len(texts), 64)]
            of_images = [teacher.embed_images(part.to(teacher.device).float() / 255).cpu() for part in images.split(64)]
        for name, vectors, labels in (("text", of_texts, text_stages), ("data", of_images, stages)):
            bank, own = us.class_bank(torch.cat(vectors), labels, len(STAGES)), getattr(self, f"{name}_bank")
            if bank.shape != own.shape:
                raise ValueError(f"the {name} bank is {tuple(bank.shape)}, not {tuple(own.shape)}; set width")
            own.copy_(bank)
        self._teacher = (teacher,)  # in a tuple: not a part of what is trained and saved
        return self

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled image features (B, C): what the head reads (P-14)."""
        return us.pool_features(self.image_encoder(images), self.config.pooling)

    def stage_logits(self, maps: torch.Tensor) -> torch.Tensor:
        """The head's answer (B, K) to feature maps (B, C, h, w) of the image encoder."""
        return self.head(us.pool_features(maps, self.config.pooling))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, C) as unit vectors (B, d) beside the banks; the features themselves where there is no projector."""
        return F.normalize(features if self.projector is None else self.projector(features), dim=-1)

    def compute_loss(self, batch: Batch) -> LossTerms:
        config = self.config
        images = random_flip(strong_augment(batch.images))[0] if self.training else batch.images
        features = self.features(images)
        # P-16: labelled samples count by how certain the answer is, after ``patience`` steps
        logits = self.head(features)
        options = {"threshold": THETA, "class_weights": self.class_weights}
        labels = us.weighted_cross_entropy(logits, batch.stages, weight=config.weight, **options)
        if self.training:
            self.steps_seen += 1
            plain = us.weighted_cross_entropy(logits, batch.stages, weight="none", **options)
            labels = torch.where(self.steps_seen <= config.patience, plain, labels)  # without waiting for a GPU
        terms = {"labels": labels}
        if config.taught:
            terms |= self._distil(self.project(features), batch.images)
        return LossTerms(terms, {"text": config.text_weight, "data": config.data_weight})

    def _distil(self, student: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self._teacher:
            raise ValueError(
                "distillation needs a teacher: call set_teacher(), or set text_weight and data_weight to 0"
            )
        config, terms = self.config, {}
        with torch.no_grad():
            teacher = self._teacher[0].to(images.device).embed_images(images)
        answers = us.bank_logits(teacher, self.text_bank, SCALE)
        # P-21: which images the teacher is certain of
        keep = us.uncertainty(answers.softmax(dim=-1)) < THETA if config.gate else None
        if config.text_weight:  # P-20
            terms["text"] = us.distillation_loss(us.bank_logits(student, self.text_bank, SCALE), answers, keep=keep)
        if config.data_weight:  # P-19
            own, taught = (us.bank_logits(vectors, self.data_bank, SCALE) for vectors in (student, teacher))
            terms["data"] = us.distillation_loss(own, taught, keep=keep)
        return terms

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """The probability of every stage (B, K), from the linear head (P-14, P-23)."""
        return self.head(self.features(images)).float().softmax(dim=-1)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return self.project(self.features(images))

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        raise NotImplementedError("the second stage of MSK-PT reads no text")

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """Log-probability of each stage that is asked for by name; for "pneumoconiosis" the log-odds of any stage above 0."""
        logs = self.probabilities(images).clamp_min(1e-12).log()
        disease = logs[:, 1:].logsumexp(dim=-1) - logs[:, 0]
        return torch.stack([disease if (k := self._place(query)) < 0 else logs[:, k] for query in queries], dim=1)

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """The head's class activation map, which Grad-CAM (C-6) equals up to a factor here; negative values cut to 0."""
        weights = self.head.weight.unflatten(1, (-1, self.image_encoder.width)).sum(dim=1)
        rows = [weights[1:].mean(0) - weights[0] if (k := self._place(query)) < 0 else weights[k] for query in queries]
        return torch.einsum("bchw,qc->bqhw", self.image_encoder(images), torch.stack(rows)).relu()

    def _place(self, query: Query) -> int:
        if query.name == DISEASE:
            return -1
        if query.name not in STAGES:
            raise ValueError(f"this system knows {DISEASE} and {', '.join(STAGES)}, not {query.name!r}")
        return STAGES.index(query.name)

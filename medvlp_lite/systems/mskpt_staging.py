"""MSK-PT's second stage: an image-only student learns to stage from few labels and from what stage 1 stored (P-14 to P-23).

The paper's formulas are lost: all of this is a reconstruction. Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.augment import strong_augment
from medvlp_lite.components.uncertainty_staging import (
    SCORES,
    WEIGHTS,
    bank_logits,
    class_bank,
    distillation_loss,
    hint_loss,
    uncertainty,
    weighted_cross_entropy,
)
from medvlp_lite.encoders.image import image_encoder
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import Batch, StudyDataset
from medvlp_lite.systems.base import LossTerms, Query, System

STAGES = ("stage 0", "stage I", "stage II", "stage III")
DISEASE = "pneumoconiosis"
OPTIONS = {"weight": WEIGHTS, "score": SCORES, "data": ("bank", "hint"), "decide": ("head", "bank", "mean")}


class MSKPTStaging(System):
    """A classifier of stages whose image encoder may start from a stage-1 system and be taught by it: P-22, a reconstruction.

    ``text_weight`` and ``data_weight`` are the weights of distillation through the shared text and data features (0: without
    it); ``data`` "bank" uses class means (P-19), "hint" each image's own vector. ``gate`` lets only those images teach of which
    the teacher is surer than ``theta`` by ``score`` (P-21; PromptKD's code has no gate). ``weight`` and ``score`` are those of
    ``weighted_cross_entropy`` (P-16), a mean over the labelled samples of each process; "none" is plain cross-entropy, and so are
    the first ``patience`` training steps: a "gate" that nothing passes at the start would never open. ``decide`` takes the answer
    from the linear "head" (P-14), the text "bank" (P-20) or their "mean"; the last two need distillation. ``strong`` scales the student's augmentation; the teacher sees images as the
    batch brings them. ``start`` and ``labels`` say in words what it started from and which labels it saw. Call ``prepare`` before
    training with a teacher. Raises ValueError for an option that does not exist, or ``decide`` without what it needs.
    """

    name = "staging"

    def __init__(
        self,
        tokenizer: ReportTokenizer,
        *,
        stages: Sequence[str] = STAGES,
        image_encoder_name: str = "resnet_lite",
        image_size: int = 112,
        width: int = 128,
        weight: str = "linear",
        score: str = "max",
        text_weight: float = 1.0,
        data_weight: float = 1.0,
        data: str = "bank",
        gate: bool = True,
        theta: float = 0.5,
        temperature: float = 1.0,
        scale: float = 1 / 0.07,
        patience: int = 0,
        strong: float = 1.0,
        decide: str = "head",
        start: str = "random weights",
        labels: str = "all",
    ):
        super().__init__()
        self.config = {key: value for key, value in locals().items() if key not in ("self", "tokenizer", "__class__")}
        self.config["stages"] = list(stages)
        for option, choices in OPTIONS.items():
            if self.config[option] not in choices:
                raise ValueError(f"{option} must be one of {', '.join(choices)}, got {self.config[option]!r}")
        taught = text_weight > 0 or data_weight > 0
        if decide != "head" and not taught:
            raise ValueError(
                f"decide={decide!r} compares with the bank, which only distillation trains for: "
                "set text_weight or data_weight above 0, or decide='head'"
            )
        self.tokenizer = tokenizer
        self.image_encoder = image_encoder(image_encoder_name, image_size)
        hidden = self.image_encoder.width
        self.head = nn.Linear(hidden, len(stages))
        self.projector = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)) if taught else None
        )
        self.register_buffer("text_bank", torch.zeros(len(stages), width))
        self.register_buffer("data_bank", torch.zeros(len(stages), width))
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))
        self._teacher: tuple[System, ...] = ()

    def prepare(
        self, teacher: System, dataset: StudyDataset, descriptions: Sequence[str] | None = None
    ) -> MSKPTStaging:
        """Start from a stage-1 system: its image encoder is copied, its answers become the teacher, its features the banks.

        The banks come from the labelled studies of ``dataset`` (P-18, P-19); with ``descriptions``, one text per stage, the
        text bank holds those instead. The teacher itself, not a copy, is put in evaluation mode and frozen. Raises ValueError when
        its vectors have another width, or a stage has no labelled study.
        """
        missing = [name for k, name in enumerate(self.config["stages"]) if not (dataset.stages == k).any()]
        if missing:
            raise ValueError(f"no labelled study of {', '.join(missing)}: label at least one of each stage")
        teacher = teacher.eval().requires_grad_(False)
        self.image_encoder.load_state_dict(teacher.image_encoder.state_dict())
        labelled = [i for i, stage in enumerate(dataset.stages) if stage >= 0]
        stages, classes = torch.from_numpy(dataset.stages[labelled]), len(self.config["stages"])
        images = torch.from_numpy(dataset.images[labelled]).unsqueeze(1)
        reports = [findings_text(dataset.studies[i].report) for i in labelled]
        with torch.no_grad():
            chunks = range(0, len(labelled), 64)
            seen = [teacher.embed_images(images[i : i + 64].to(teacher.device).float() / 255).cpu() for i in chunks]
            said = [teacher.embed_texts(reports[i : i + 64]).cpu() for i in chunks] if descriptions is None else []
            text = (
                class_bank(torch.cat(said), stages, classes) if said else teacher.embed_texts(list(descriptions or ()))
            )
        data = class_bank(torch.cat(seen), stages, classes)
        for name, bank in (("text", text), ("data", data)):
            if bank.shape != self.text_bank.shape:
                raise ValueError(
                    f"the {name} bank is {tuple(bank.shape)}, not {tuple(self.text_bank.shape)}; set width"
                )
        self.text_bank.copy_(text)
        self.data_bank.copy_(data)
        self._teacher = (teacher,)  # in a tuple: not a part of what is trained and saved
        digest = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in teacher.parameters())).hexdigest()
        self.config["start"] = f"{teacher.name} {digest[:12]}"
        return self

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Average-pooled image features (B, C): what the head reads (P-14)."""
        return self.image_encoder(images).mean(dim=(2, 3))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, C) as unit vectors (B, d) beside the banks; the features themselves where there is no projector."""
        return F.normalize(features if self.projector is None else self.projector(features), dim=-1)

    def loss(self, batch: Batch) -> LossTerms:
        options = self.config
        images = strong_augment(batch.images, options["strong"]) if self.training else batch.images
        self.steps_seen += self.training
        weight = options["weight"] if not self.training or self.steps_seen > options["patience"] else "none"
        features = self.features(images)
        terms = {"labels": weighted_cross_entropy(
            self.head(features), batch.stages, weight=weight, score=options["score"], threshold=options["theta"]
        )}  # fmt: skip
        if options["text_weight"] or options["data_weight"]:
            terms |= self._distil(self.project(features), batch.images)
        return LossTerms(terms, {"text": options["text_weight"], "data": options["data_weight"]})

    def _distil(self, student: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self._teacher:
            raise ValueError("distillation needs a teacher: call prepare(), or set text_weight and data_weight to 0")
        options, terms = self.config, {}
        with torch.no_grad():
            teacher = self._teacher[0].to(images.device).embed_images(images)
        answers = bank_logits(teacher, self.text_bank, options["scale"])
        sure = uncertainty(answers.softmax(dim=-1), options["score"]) < options["theta"] if options["gate"] else None
        pick = {"temperature": options["temperature"], "keep": sure}
        if options["text_weight"]:
            terms["text"] = distillation_loss(bank_logits(student, self.text_bank, options["scale"]), answers, **pick)
        if options["data_weight"] and options["data"] == "hint":
            terms["data"] = hint_loss(student, teacher, keep=sure)
        elif options["data_weight"]:
            seen = (bank_logits(vectors, self.data_bank, options["scale"]) for vectors in (student, teacher))
            terms["data"] = distillation_loss(*seen, **pick)
        return terms

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """The probability of every stage (B, K), by the rule that ``decide`` names (P-23)."""
        features = self.features(images)
        head = self.head(features).float().softmax(dim=-1)
        if self.config["decide"] == "head":
            return head
        bank = bank_logits(self.project(features), self.text_bank, self.config["scale"]).softmax(dim=-1)
        return bank if self.config["decide"] == "bank" else (head + bank) / 2

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
        weights = self.head.weight
        rows = [weights[1:].mean(0) - weights[0] if (k := self._place(query)) < 0 else weights[k] for query in queries]
        return torch.einsum("bchw,qc->bqhw", self.image_encoder(images), torch.stack(rows)).relu()

    def _place(self, query: Query) -> int:
        if query.name == DISEASE:
            return -1
        if query.name not in self.config["stages"]:
            raise ValueError(f"this system knows {DISEASE} and {', '.join(self.config['stages'])}, not {query.name!r}")
        return self.config["stages"].index(query.name)

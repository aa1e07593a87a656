"""MaCo: contrast masked views with reports, weighted by which patches were visible, and reconstruct what was hidden (M-1 to M-11).

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.augment import random_affine
from medvlp_lite.components.contrastive import cosine_matrix, gather_pairs
from medvlp_lite.components.masked_contrastive import (
    ImportanceScore,
    importance,
    keep_weights,
    kept_steps,
    patch_weights,
    phrase_maps,
    sample_sentences,
    sentence_pieces,
    smooth_maps,
    v1_alignment,
    weighted_info_nce,
    zero_shot_probability,
)
from medvlp_lite.components.reconstruction import (
    MaskedDecoder,
    patchify,
    position_map,
    random_masking,
    reconstruction_loss,
    shrink,
    unpatchify,
)
from medvlp_lite.encoders.image import ViTEncoder, standardise
from medvlp_lite.encoders.text import ReportTokenizer, TextEncoder, masked_mean
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import Batch, Finding
from medvlp_lite.systems.base import LossTerms, Query, System

TRACE_ROWS = 32
TEMPERATURE = 0.03  # where the learned one starts
TAU_W, SIGMA = 0.02, 1.5  # of heat maps: temperature of the weight map and smoothing in cells, the paper's choice
CHOICES = {"weighting": ("joint", "joint_normalised", "split", "arxiv", "none"), "text_pool": ("pooler", "mean")}


@dataclass(frozen=True)
class MaCoConfig:
    """The options of MaCo."""

    vit: str | tuple[int, ...] = "lite_p4"  # a size of ``encoders.image.ViTEncoder``
    text_encoder: str | tuple[int, ...] = "lite"  # a size of ``encoders.text.TextEncoder``
    decoder: tuple[int, int, int] = (64, 1, 2)  # width, blocks and heads of what reconstructs
    dim: int = 128  # width of the shared space
    image_size: int = 112  # side of the full images in pixels
    downsample: int = 2  # the encoder sees images of 1 / this side
    hr: bool = True  # reconstruct the full image (M-3); False: what the encoder saw
    channels: int = 1  # grey values that are reconstructed per pixel; 3 in the released weights
    max_length: int = 128  # word pieces of a report that are read
    contrastive: bool = True  # False trains the reconstruction alone
    mask_ratio: float = 0.5  # share of patches that are hidden
    block: int = 1  # patches are hidden in squares of this side
    # how importance enters (M-8): "joint" (paper), "joint_normalised" (mean weight 1), "split" (code), "arxiv" (M-v1), "none"
    weighting: str = "joint"
    lam: float | None = 0.9  # weight of the reconstruction, 1 - lam of the contrast (M-9); None adds them (the code)
    text_pool: str = "pooler"  # the report's vector: BERT's "pooler" (released code) or the "mean" of the tokens
    text_projection: bool = True  # from the text's width to ``dim``; the released code has none
    affine: bool = False  # training images are turned by up to 20 degrees and scaled by 0.8 to 1.2 (the paper)
    score_rate: float = 1.0  # factor on the learning rate of the importance score
    temperature_rate: float = 1.0  # the same for 1 / temperature, which starts at 33: a step moves it by a rate
    trace_every: int = 0  # keep the score's weights every so many steps; once 32 are kept, every other one goes

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not 0 <= self.mask_ratio < 1 or self.image_size % self.downsample:
            raise ValueError(
                "need 0 <= mask_ratio < 1 and image_size a multiple of downsample, "
                f"got {self.mask_ratio}, {self.image_size} and {self.downsample}"
            )


class MaCo(System):
    """A ViT that sees part of each image, a decoder that reconstructs the rest, a BERT, and a score for what was seen.

    Images may come at full size, or as small as the encoder takes them, as the official evaluation feeds them.
    """

    name, Config = "maco", MaCoConfig

    def __init__(self, tokenizer: ReportTokenizer, config: MaCoConfig | None = None):
        config = config or MaCoConfig()
        super().__init__(tokenizer, config)
        self.image_encoder = ViTEncoder(config.vit, config.image_size // config.downsample)
        width, self.patches = self.image_encoder.width, self.image_encoder.grid**2
        self.target_patch = self.image_encoder.stride * (config.downsample if config.hr else 1)
        sizes = dict(zip(("width", "depth", "heads"), config.decoder))
        outputs = self.target_patch**2 * config.channels
        self.decoder = MaskedDecoder(width, outputs, self.image_encoder.grid, **sizes)
        self.image_projection = nn.Linear(width, config.dim)
        self.text_encoder = TextEncoder(tokenizer, config.text_encoder, config.max_length)
        text_width = self.text_encoder.width
        self.text_pooler = nn.Linear(text_width, text_width)
        self.text_projection = nn.Linear(text_width, config.dim) if config.text_projection else nn.Identity()
        self.importance_score = ImportanceScore(self.patches)
        self.logit_multiplier = nn.Parameter(torch.tensor(1 / TEMPERATURE))
        rows = TRACE_ROWS if config.trace_every else 0
        self.register_buffer("weight_trace", torch.full((rows, self.patches), torch.nan))
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))
        for part in self._unused():
            part.requires_grad_(False)

    def _unused(self) -> list[nn.Module | nn.Parameter]:
        """What no term of the loss reaches; were it to ask for a gradient, several processes could not train."""
        if not self.config.contrastive:
            texts = [self.text_encoder, self.text_pooler, self.text_projection]
            return [*texts, self.image_projection, self.importance_score, self.logit_multiplier]
        pooler = [self.text_pooler] if self.config.text_pool == "mean" else []
        return pooler + ([self.importance_score] if self.config.weighting == "none" else [])

    def lr_multipliers(self) -> dict[str, float]:
        return {"importance_score.": self.config.score_rate, "logit_multiplier": self.config.temperature_rate}

    def text_inputs(self, reports: Sequence[str], findings: Sequence[tuple[Finding, ...]]) -> dict[str, torch.Tensor]:
        """``sentence_ids`` (N, sentences, pieces) int32: the word pieces of each report's sentences, padded."""
        if not self.config.contrastive:
            return {}
        pieces = [sentence_pieces(findings_text(report)) for report in reports]
        return {"sentence_ids": self._sentence_ids(pieces)}

    def _sentence_ids(self, pieces: Sequence[Sequence[str]]) -> torch.Tensor:
        texts, marks = [piece for row in pieces for piece in row] or ["."], self._marks
        ids = self.tokenizer(texts, self.config.max_length + 1)[:, 1:]  # without the start
        ids = ids if marks["end"] is None else ids.masked_fill(ids == marks["end"], marks["pad"])
        table = ids.new_full((len(pieces), max(1, *map(len, pieces)), ids.shape[1]), marks["pad"])
        rows = torch.repeat_interleave(torch.arange(len(pieces)), torch.tensor([len(row) for row in pieces]))
        columns = torch.cat([torch.arange(len(row)) for row in pieces])
        table[rows, columns] = ids[: len(rows)]
        return table

    @property
    def _marks(self) -> dict[str, int | None]:
        """The numbers of the pieces that fill up, open and close a text."""
        return {"pad": self.tokenizer.pad_id, "start": self.tokenizer.start_id, "end": self.tokenizer.end_id}

    def compute_loss(self, batch: Batch) -> LossTerms:
        config, images, grid = self.config, batch.images, self.image_encoder.grid
        if self.training and config.affine:
            images = random_affine(images)
        if self.training and config.trace_every:
            weights = self.importance_score.weight.detach()
            self.weight_trace.copy_(keep_weights(self.weight_trace, weights, self.steps_seen, config.trace_every))
            self.steps_seen += 1
        # M-1: encode the visible patches alone
        small = shrink(images, config.downsample)
        visible = random_masking(len(images), grid, config.mask_ratio, block=config.block, device=images.device)
        visible_map = position_map(visible, self.patches)
        tokens = self.image_encoder(small, visible, class_token=True)
        # M-2, M-3: reconstruct the hidden ones
        target = standardise(images if config.hr else small).expand(-1, config.channels, -1, -1)
        predicted = self.decoder(tokens, visible)
        terms = {"reconstruction": reconstruction_loss(predicted, patchify(target, self.target_patch), visible_map)}
        if not config.contrastive:
            return LossTerms(terms)
        # M-4 to M-8: contrast the visible part with some of the report's sentences
        ids = sample_sentences(batch.inputs["sentence_ids"], config.max_length, **self._marks)
        vectors = self.image_projection(tokens[:, 1:].mean(dim=1))
        terms["contrastive"] = self.contrast(vectors, self._text_features(ids), self.importance_score(visible_map))
        # M-9
        lam = config.lam
        return LossTerms(terms, {} if lam is None else {"reconstruction": lam, "contrastive": 1 - lam})

    def contrast(self, images: torch.Tensor, texts: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The contrastive term from image vectors (B, d), text vectors (B, d) and raw scores (B,), over all processes.

        In full precision whatever the training's: logits around 30 leave bfloat16 no digits.
        """
        with torch.autocast(images.device.type, enabled=False):
            images, texts, scores = (gather_pairs(x.float()) for x in (images, texts, scores))
            logits, weighting = self.logit_multiplier * cosine_matrix(images, texts), self.config.weighting
            if weighting == "arxiv":
                return v1_alignment(logits, scores, 1.0)
            return weighted_info_nce(logits, importance(scores), 1.0, weighting=weighting)

    def weights_by_step(self) -> dict[int, torch.Tensor]:
        """The FC layer's weights (N,) at the training steps of the trace and now."""
        steps, every = int(self.steps_seen), self.config.trace_every
        kept = zip(kept_steps(TRACE_ROWS, steps, every), self.weight_trace) if every else ()
        return {**dict(kept), steps: self.importance_score.weight.detach()[0]}

    def local_features(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens of all patches before projection (B, h, w, C), nothing masked."""
        return self.image_features(images).permute(0, 2, 3, 1)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.image_encoder(self._small(images))

    def _small(self, images: torch.Tensor) -> torch.Tensor:
        side = self.image_encoder.grid * self.image_encoder.stride
        return images if images.shape[-1] == side else shrink(images, self.config.downsample)

    def image_vectors(self, images: torch.Tensor) -> torch.Tensor:
        """Image vectors (B, d) from all patches, not normalised: M-7."""
        return self.image_projection(self.image_features(images).mean(dim=(2, 3)))

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """Text vectors (len(texts), d), not normalised: M-7."""
        return self._text_features(self.text_encoder.ids(texts).to(self.device))

    def _text_features(self, ids: torch.Tensor) -> torch.Tensor:
        tokens, mask = self.text_encoder.encode(ids)
        if self.config.text_pool == "mean":
            return self.text_projection(masked_mean(tokens, mask))
        return self.text_projection(self.text_pooler(tokens[:, 0]).tanh())

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.image_vectors(images), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return F.normalize(self.text_features(texts), dim=-1)

    def prompts(self, queries: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean text vectors of what affirms and of what denies each query, (Q, d) each; zero where nothing denies."""
        texts = list(dict.fromkeys(text for query in queries for text in (*query.positive, *query.negative)))
        vectors = self.text_features(texts)
        images, width = self.image_projection.out_features, vectors.shape[-1]
        if width != images:
            raise ValueError(f"texts have {width} numbers, images {images}: they cannot be compared")
        known = dict(zip(texts, vectors))
        means = [
            [sum(known[text] for text in own) / max(1, len(own)) + vectors.new_zeros(width) for own in side]
            for side in zip(*((query.positive, query.negative) for query in queries))
        ]
        positive, negative = map(torch.stack, means)
        return positive, negative

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """The probability of M-11, (B, Q)."""
        return zero_shot_probability(self.image_vectors(images), *self.prompts(queries))

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """Maps (B, Q, h, w) of M-10 for the difference of what affirms and what denies, smoothed, not yet upsampled."""
        positive, negative = self.prompts(queries)
        return self.ground(images, positive - negative)

    def ground(
        self, images: torch.Tensor, texts: torch.Tensor, *, tau_w: float | None = TAU_W, sigma: float = SIGMA
    ) -> torch.Tensor:
        """Maps (B, Q, h, w) of text vectors (Q, d), equation M-10.

        ``tau_w`` is the temperature of the weight map (None weighs no patch), ``sigma`` the smoothing in cells.
        """
        weights = patch_weights(self.importance_score.weight[0], tau_w)
        tokens = self.image_projection(self.local_features(images))
        return smooth_maps(phrase_maps(tokens, texts, weights), sigma)

    def view(self, images: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Image vectors (B, d) from the visible patches (B, Ns) alone, not normalised."""
        return self.image_projection(self.image_encoder(self._small(images), visible).mean(dim=1))

    def reconstruct(self, images: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """What the decoder reconstructs from the visible patches (B, Ns) alone, in standardised grey (B, channels, H, W).

        H is the full image's side with ``hr``, else that of the image the encoder sees.
        """
        tokens = self.image_encoder(self._small(images), visible, class_token=True)
        return unpatchify(self.decoder(tokens, visible), self.target_patch, self.config.channels)

"""MaCo: contrast masked views with reports, weighted by which patches were visible, and draw what was hidden (M-1 to M-11).

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.components.contrastive import cosine_matrix, gather_pairs
from medvlp_lite.components.masked_contrastive import (
    WEIGHTINGS,
    ImportanceScore,
    importance,
    patch_weights,
    phrase_maps,
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
from medvlp_lite.studies import Batch
from medvlp_lite.systems.base import LossTerms, Query, System

TRACE_ROWS = 32
CHOICES = {
    "version": ("journal", "v1"),
    "weighting": WEIGHTINGS,
    "lambda_mode": ("paper", "sum"),
    "text_pool": ("pooler", "cls", "mean"),
    "sentences": ("random", "code", "all"),
}


class MaCo(System):
    """A ViT that sees part of each image, a decoder that draws the rest, a BERT, and a score for what was seen.

    ``version`` "journal" (M-8, by ``weighting``) or "v1" (M-v1, in groups of ``group``; "none" switches its weights off).
    ``hr`` draws the full image from one shrunk by ``downsample`` (M-3), else the decoder draws what the encoder saw.
    ``lambda_mode`` "paper" weights reconstruction by ``lam`` and contrast by 1 - lam (M-9), "sum" adds them as the released
    code does. ``contrastive`` False trains the reconstruction alone. ``block`` hides squares of patches. ``text_pool``
    "pooler" (code), "cls" (paper) or "mean"; ``text_projection`` False is the code's. ``sentences`` "random" keeps and
    shuffles some of a report's sentences; "code" does so before it drops empty ones. Images may come at full size, or as
    small as the encoder takes them, as the official evaluation feeds them. ``tau_w`` and ``smooth_sigma`` draw heat maps (M-10), None weights no patch.
    ``score_rate`` multiplies the FC layer's learning rate. ``trace_every`` > 0 keeps its weights every so many training
    steps, for ``weights_by_step``; once 32 are kept, every other one goes and the interval doubles. ``warm_start`` says which weights it began from.
    Raises ValueError for an unknown choice or an impossible number.
    """

    name = "maco"

    def __init__(
        self,
        tokenizer: ReportTokenizer,
        *,
        vit: str | Sequence[int] = "lite_p4",
        text_variant: str | Sequence[int] = "lite",
        decoder: Sequence[int] = (64, 1, 2),
        dim: int = 128,
        image_size: int = 112,
        max_length: int = 128,
        channels: int = 1,
        version: str = "journal",
        weighting: str = "joint",
        group: int = 16,
        contrastive: bool = True,
        hr: bool = True,
        downsample: int = 2,
        mask_ratio: float = 0.5,
        block: int = 1,
        norm_pix_loss: bool = False,
        lambda_mode: str = "paper",
        lam: float = 0.9,
        temperature: float = 0.03,
        text_pool: str = "pooler",
        text_projection: bool = True,
        sentences: str = "random",
        tau_w: float | None = 0.02,
        smooth_sigma: float = 1.5,
        normalise_features: bool = False,
        score_rate: float = 1.0,
        trace_every: int = 0,
        warm_start: str = "",
    ):
        super().__init__()
        self.config = {key: value for key, value in locals().items() if key not in ("self", "tokenizer", "__class__")}
        for name, choices in CHOICES.items():
            if self.config[name] not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {self.config[name]!r}")
        if not 0 <= mask_ratio < 1 or temperature <= 0 or image_size % downsample:
            raise ValueError(
                "need 0 <= mask_ratio < 1, temperature > 0 and image_size a multiple of downsample, "
                f"got {mask_ratio}, {temperature}, {image_size} and {downsample}"
            )
        self.tokenizer = tokenizer
        self.image_encoder = ViTEncoder(vit, image_size // downsample)
        width, self.patches = self.image_encoder.width, self.image_encoder.grid**2
        self.target_patch = self.image_encoder.stride * (downsample if hr else 1)
        decoder_width, depth, heads = decoder
        self.decoder = MaskedDecoder(
            width,
            self.target_patch**2 * channels,
            self.image_encoder.grid,
            width=decoder_width,
            depth=depth,
            heads=heads,
        )
        self.image_projection = nn.Linear(width, dim)
        self.text_encoder = TextEncoder(tokenizer, text_variant, max_length)
        self.text_pooler = nn.Linear(self.text_encoder.width, self.text_encoder.width)
        self.text_projection = nn.Linear(self.text_encoder.width, dim) if text_projection else nn.Identity()
        self.importance_score = ImportanceScore(self.patches)
        self.logit_multiplier = nn.Parameter(torch.tensor(1 / temperature))
        self.register_buffer("weight_trace", torch.full((TRACE_ROWS if trace_every else 0, self.patches), torch.nan))
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))
        unused = [self.text_pooler] if text_pool != "pooler" else []
        if not contrastive or weighting == "none" or (version == "journal" and weighting == "loss"):
            unused.append(self.importance_score)
        if not contrastive:
            unused += [self.image_projection, self.text_encoder, self.text_pooler, self.text_projection]
            self.logit_multiplier.requires_grad_(False)
        elif lambda_mode == "paper" and lam == 0:
            unused.append(self.decoder)
        for part in unused:
            part.requires_grad_(False)

    def lr_multipliers(self) -> dict[str, float]:
        return {"importance_score.": self.config["score_rate"]}

    def loss(self, batch: Batch) -> LossTerms:
        self._trace()
        config, images = self.config, batch.images
        small = shrink(images, config["downsample"])
        visible = random_masking(
            len(images), self.image_encoder.grid, config["mask_ratio"], block=config["block"], device=images.device
        )
        seen = position_map(visible, self.patches)
        tokens = self.image_encoder(small, visible, class_token=True)
        terms, weights = {}, {}
        if not config["contrastive"] or config["lam"] or config["lambda_mode"] == "sum":
            target = standardise(images if config["hr"] else small).expand(-1, config["channels"], -1, -1)
            terms["reconstruction"] = reconstruction_loss(
                self.decoder(tokens, visible), patchify(target, self.target_patch), seen,
                norm_pix_loss=config["norm_pix_loss"],
            )  # fmt: skip
        if config["contrastive"]:
            texts = [findings_text(report) for report in batch.reports]
            if config["sentences"] != "all":
                texts = [shuffled_sentences(text, empty=config["sentences"] == "code") for text in texts]
            terms["contrastive"] = self.contrast(
                self.image_projection(tokens[:, 1:]).mean(dim=1), self.text_features(texts), self.importance_score(seen)
            )
            if config["lambda_mode"] == "paper":
                weights = {"reconstruction": config["lam"], "contrastive": 1 - config["lam"]}
        return LossTerms(terms, weights)

    def contrast(self, images: torch.Tensor, texts: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The contrastive term from image vectors (B, d), text vectors (B, d) and raw scores (B,), over all processes.

        In full precision whatever the training's: logits around 30 leave bfloat16 no digits.
        """
        with torch.autocast(images.device.type, enabled=False):
            images, texts, scores = (gather_pairs(x.float()) for x in (images, texts, scores))
            logits, weighting = self.logit_multiplier * cosine_matrix(images, texts), self.config["weighting"]
            if self.config["version"] == "v1" and weighting != "none":
                return v1_alignment(logits, scores, 1.0, group=self.config["group"])
            return weighted_info_nce(logits, importance(scores), 1.0, weighting=weighting)

    def _trace(self) -> None:
        if not (self.training and self.config["trace_every"]):
            return
        step = int(self.steps_seen)
        stride, half = self._stride(step), TRACE_ROWS // 2
        if step and stride != self._stride(step - 1):  # full: every other row goes
            self.weight_trace[:half] = self.weight_trace[::2].clone()
            self.weight_trace[half:] = torch.nan
        if step % stride == 0:
            self.weight_trace[step // stride] = self.importance_score.weight.detach()[0]
        self.steps_seen += 1

    def _stride(self, step: int) -> int:
        stride = self.config["trace_every"]
        while step >= stride * TRACE_ROWS:
            stride *= 2
        return stride

    def weights_by_step(self) -> dict[int, torch.Tensor]:
        """The FC layer's weights (N,) at the training steps of the trace and now."""
        if not self.config["trace_every"]:
            return {int(self.steps_seen): self.importance_score.weight.detach()[0]}
        stride = self._stride(max(int(self.steps_seen) - 1, 0))
        kept = {row * stride: weights for row, weights in enumerate(self.weight_trace) if not weights.isnan().any()}
        return {**kept, int(self.steps_seen): self.importance_score.weight.detach()[0]}

    def local_features(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens of all patches before projection (B, h, w, C), nothing masked."""
        return self.image_encoder(self._small(images)).permute(0, 2, 3, 1)

    def _small(self, images: torch.Tensor) -> torch.Tensor:
        side = self.image_encoder.grid * self.image_encoder.stride
        return images if images.shape[-1] == side else shrink(images, self.config["downsample"])

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.local_features(images).permute(0, 3, 1, 2)

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """Text vectors (len(texts), d), not normalised: M-7."""
        tokens, mask = self.text_encoder(texts)
        pool = self.config["text_pool"]
        pooled = masked_mean(tokens, mask) if pool == "mean" else tokens[:, 0]
        return self.text_projection(self.text_pooler(pooled).tanh() if pool == "pooler" else pooled)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.image_projection(self.local_features(images).mean(dim=(1, 2))), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return F.normalize(self.text_features(texts), dim=-1)

    def prompts(self, queries: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean text vectors of what affirms and of what denies each query, (Q, d) each; zero where nothing denies."""
        sides = []
        for texts in ([query.positive for query in queries], [query.negative for query in queries]):
            known = {text: place for place, text in enumerate(dict.fromkeys(sum(texts, ())))}
            vectors = self.text_features(list(known)) if known else self.logit_multiplier.new_zeros(0)
            zero = self.image_projection.weight.new_zeros(self.image_projection.out_features)
            if known and vectors.shape[-1] != len(zero):
                raise ValueError(f"texts have {vectors.shape[-1]} numbers, images {len(zero)}: they cannot be compared")
            sides.append(torch.stack([vectors[[known[t] for t in own]].mean(dim=0) if own else zero for own in texts]))
        return sides[0], sides[1]

    def score(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """The probability of M-11, (B, Q)."""
        vectors = self.image_projection(self.local_features(images).mean(dim=(1, 2)))
        return zero_shot_probability(vectors, *self.prompts(queries), self.config["normalise_features"])

    def heatmap(self, images: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
        """Maps (B, Q, h, w) of M-10 for the difference of what affirms and what denies, smoothed, not yet upsampled."""
        positive, negative = self.prompts(queries)
        return self.ground(images, positive - negative)

    def ground(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        *,
        tau_w: float | str | None = "own",
        sigma: float | None = None,
    ) -> torch.Tensor:
        """Maps (B, Q, h, w) of text vectors (Q, d); ``tau_w`` and ``sigma`` replace the system's own: equation M-10."""
        tau = self.config["tau_w"] if tau_w == "own" else tau_w
        weights = patch_weights(self.importance_score.weight[0], tau)
        tokens = self.image_projection(self.local_features(images))
        return smooth_maps(phrase_maps(tokens, texts, weights), self.config["smooth_sigma"] if sigma is None else sigma)

    def view(self, images: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Image vectors (B, d) from the visible patches (B, Ns) alone, not normalised."""
        tokens = self.image_encoder(self._small(images), visible)
        return self.image_projection(tokens).mean(dim=1)

    def reconstruct(self, images: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """What the decoder draws from the visible patches (B, Ns) alone, in standardised grey (B, channels, H, W).

        H is the full image's side with ``hr``, else that of the image the encoder sees.
        """
        tokens = self.image_encoder(self._small(images), visible, class_token=True)
        return unpatchify(self.decoder(tokens, visible), self.target_patch, self.config["channels"])


def shuffled_sentences(report: str, empty: bool = False) -> str:
    """Some of the report's sentences in random order: split at full stops, shuffled, the first k of n kept, k uniform in 1..n.

    Pieces that are empty or say "none" are dropped first; with ``empty`` they count among the n and are dropped last, as in
    the released code, so that the answer may be empty.
    """
    pieces = [part.strip() for part in report.split(".")]
    pieces = pieces if empty else _said(pieces)
    if not pieces:
        return ""
    kept = torch.randperm(len(pieces))[: int(torch.randint(1, len(pieces) + 1, ()))]
    return "".join(f"{piece}. " for piece in _said([pieces[i] for i in kept.tolist()])).rstrip()


def _said(pieces: Sequence[str]) -> list[str]:
    return [piece for piece in pieces if piece and piece.lower() != "none"]

"""MSK-PT's first stage: whole pairs, words with patches, and categories are aligned at once (P-1 to P-13, P-17).

The paper's formulas are lost: all of this is a reconstruction. The second stage stands in ``mskpt_staging``.

Built in chapter 07_prototype_alignment.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.components.contrastive import gather_pairs, info_nce, nt_xent
from medvlp_lite.components.prototype_alignment import (
    ClassPrototypes,
    ClusterPrototypes,
    same_class,
    supervised_contrast,
)
from medvlp_lite.components.token_alignment import (
    GROUPINGS,
    batch_token_alignment,
    clipped_attention,
    intra_modal_loss,
    token_alignment,
)
from medvlp_lite.components.uncertainty_staging import weighted_cross_entropy
from medvlp_lite.encoders.text import ReportTokenizer, masked_mean
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import Batch
from medvlp_lite.systems.base import LossTerms
from medvlp_lite.systems.convirt import ConVIRT

OPTIONS = {
    "gra": ("infonce", "ntxent", "supcon"),
    "ta": ("pair", "batch", "batch_labels"),
    "grouping": GROUPINGS,
    "word_weights": ("uniform", "attention"),
    "pa": ("clusters", "class", "supcon"),
}


class MSKPT(ConVIRT):
    """ConVIRT's encoders and ways of asking, trained by three alignments: P-17, a reconstruction.

    ``global_weight`` weighs the alignment of whole pairs (P-4; ``gra`` "infonce", "ntxent" or "supcon"), ``token_weight`` that
    of words with patches (P-8; ``ta`` "pair": negatives are the other tokens of the same pair, "batch": other images,
    "batch_labels": other images of another stage; ``grouping`` as in ``grouping_weights``; ``word_weights`` P-7),
    ``intra_weight`` the soft target from similarity within each modality, ``prototype_weight`` that of categories (P-12; ``pa``
    "clusters": ``n_proto`` learned ones without labels, "class": one per stage, "supcon"), ``staging_weight`` the weighted
    cross-entropy on stage labels (P-16; 0 keeps this stage free of labels), which each process averages over its own labelled
    samples. A weight of 0 leaves a part out. Where labels are used, a study without stage (-1) takes no part. ``temperature`` is
    fixed here. Raises ValueError for an option that does not exist, or when all four alignments weigh 0.
    """

    name = "mskpt"

    def __init__(
        self,
        tokenizer: ReportTokenizer,
        *,
        image_encoder_name: str = "resnet_lite",
        text_variant: str = "lite",
        image_size: int = 112,
        max_length: int = 128,
        dim: int = 128,
        temperature: float = 0.07,
        global_weight: float = 1.0,
        token_weight: float = 1.0,
        intra_weight: float = 0.0,
        prototype_weight: float = 1.0,
        staging_weight: float = 0.0,
        gra: str = "infonce",
        ta: str = "pair",
        grouping: str = "softmax",
        word_weights: str = "uniform",
        pa: str = "clusters",
        n_proto: int = 16,
        stages: int = 4,
        token_temperature: float = 0.1,
        prototype_temperature: float = 0.2,
        epsilon: float = 0.05,
        iterations: int = 3,
    ):
        config = {key: value for key, value in locals().items() if key not in ("self", "tokenizer", "__class__")}
        for option, choices in OPTIONS.items():
            if config[option] not in choices:
                raise ValueError(f"{option} must be one of {', '.join(choices)}, got {config[option]!r}")
        if not (global_weight or token_weight or intra_weight or prototype_weight):
            raise ValueError(
                "nothing aligns images with reports: set global_weight, token_weight, intra_weight or prototype_weight; "
                "staging alone is what MSKPTStaging does"
            )
        super().__init__(
            tokenizer, image_encoder_name=image_encoder_name, text_variant=text_variant, image_size=image_size,
            max_length=max_length, dim=dim, temperature=temperature,
        )  # fmt: skip
        self.config = config
        self.log_temperature.requires_grad_(False)
        if word_weights == "attention":
            self.text_encoder.bert.set_attn_implementation("eager")
        self.prototypes = self.head = None
        if prototype_weight and pa == "clusters":
            self.prototypes = ClusterPrototypes(
                n_proto, dim, temperature=prototype_temperature, epsilon=epsilon, iterations=iterations
            )
        elif prototype_weight and pa == "class":
            self.prototypes = ClassPrototypes(stages, dim, temperature=prototype_temperature)
        if staging_weight:
            self.head = nn.Linear(self.image_encoder.width, stages)

    def loss(self, batch: Batch) -> LossTerms:
        options, terms = self.config, {}
        maps = self.image_encoder(batch.images)
        patches = self.image_projection(maps.permute(0, 2, 3, 1)).flatten(1, 2)
        hidden, mask, attention = self._read([findings_text(report) for report in batch.reports])
        images = gather_pairs(F.normalize(patches.mean(dim=1), dim=-1))
        texts = gather_pairs(F.normalize(self.text_projection(masked_mean(hidden, mask)), dim=-1))
        stages = gather_pairs(batch.stages.float().unsqueeze(1)).squeeze(1).long()
        if options["global_weight"]:
            terms["global"] = self._align_pairs(images, texts, stages)
        if options["token_weight"] or options["intra_weight"]:
            words = F.normalize(self.text_projection(hidden[:, 1:]), dim=-1)  # without [CLS]
            tokens = F.normalize(patches, dim=-1), words, mask[:, 1:]
            if options["token_weight"]:
                terms["token"] = self._align_tokens(*tokens, attention, batch.stages)
            if options["intra_weight"]:
                pooled = tokens[0].mean(dim=1), masked_mean(*tokens[1:])
                pooled = (gather_pairs(F.normalize(vector, dim=-1)) for vector in pooled)
                terms["intra"] = intra_modal_loss(*pooled, temperature=options["token_temperature"])
        if options["prototype_weight"]:
            terms["prototype"] = self._align_categories(images, texts, stages)
        if self.head is not None:
            terms["staging"] = weighted_cross_entropy(self.head(maps.mean(dim=(2, 3))), batch.stages)
        return LossTerms(terms, {name: options[f"{name}_weight"] for name in terms})

    def _align_pairs(self, images: torch.Tensor, texts: torch.Tensor, stages: torch.Tensor) -> torch.Tensor:
        temperature = self.config["temperature"]
        if self.config["gra"] == "ntxent":
            return nt_xent(images, texts, temperature)
        similarity = images @ texts.t()
        if self.config["gra"] == "supcon":
            return supervised_contrast(similarity, same_class(stages), temperature)
        return info_nce(similarity, temperature)

    def _align_tokens(
        self,
        patches: torch.Tensor,
        words: torch.Tensor,
        mask: torch.Tensor,
        attention: torch.Tensor | None,
        stages: torch.Tensor,
    ) -> torch.Tensor:
        options = self.config
        if options["ta"] == "pair":
            weights = None if attention is None else clipped_attention(attention, mask)
            return token_alignment(
                patches, words, mask, word_weights=weights, grouping=options["grouping"],
                temperature=options["token_temperature"],
            )  # fmt: skip
        missing = options["max_length"] - 1 - words.shape[1]  # every process pads alike
        words, mask = F.pad(words, (0, 0, 0, missing)), F.pad(mask, (0, missing)).float()
        patches, words, mask = gather_pairs(patches), gather_pairs(words), gather_pairs(mask) > 0.5
        stages = gather_pairs(stages.float().unsqueeze(1)).squeeze(1)
        positives = same_class(stages) if options["ta"] == "batch_labels" else None
        return batch_token_alignment(patches, words, mask, positives=positives)

    def _align_categories(self, images: torch.Tensor, texts: torch.Tensor, stages: torch.Tensor) -> torch.Tensor:
        if self.config["pa"] == "supcon":
            temperature = self.config["prototype_temperature"]
            return supervised_contrast(images @ texts.t(), same_class(stages), temperature)
        return (
            self.prototypes(images, texts)
            if self.config["pa"] == "clusters"
            else self.prototypes(images, texts, stages)
        )

    def _read(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Tokens (B, L, C), their mask (B, L), and for word weights from "attention" the last layer's from [CLS] to every
        other token, mean over heads: (B, L - 1)."""
        if self.config["word_weights"] != "attention":
            return *self.text_encoder(texts), None
        ids = self.tokenizer(texts, self.config["max_length"]).to(self.device)
        mask = ids != self.tokenizer.pad_id
        heard = self.text_encoder.bert(input_ids=ids, attention_mask=mask.long(), output_attentions=True)
        return heard.last_hidden_state, mask, heard.attentions[-1].mean(dim=1)[:, 0, 1:]

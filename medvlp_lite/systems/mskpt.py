"""MSK-PT's first stage: whole pairs, words with patches, and categories are aligned at once (P-1 to P-13, P-17).

The paper's formulas are lost: all of this is a reconstruction. The second stage stands in ``mskpt_staging``.
Built in chapter 07_prototype_alignment.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from medvlp_lite.components import prototype_alignment as pa
from medvlp_lite.components.contrastive import gather_pairs, info_nce
from medvlp_lite.components.token_alignment import batch_token_alignment, token_alignment
from medvlp_lite.components.uncertainty_staging import pool_features, weighted_cross_entropy
from medvlp_lite.encoders.text import ReportTokenizer, masked_mean
from medvlp_lite.studies import Batch
from medvlp_lite.systems.base import LossTerms
from medvlp_lite.systems.convirt import TEMPERATURE, ConVIRT, ConVIRTConfig

STAGES = 4  # classes of ``prototypes`` "class"
CLUSTERS = 16
PROTOTYPE_TEMPERATURE = 0.2
PROTOTYPES = ("clusters", "class", "supervised")
TOKENS = ("pair", "batch")


@dataclass(frozen=True)
class MSKPTConfig(ConVIRTConfig):
    """The options of MSK-PT's first stage, beside those of the encoders; a weight of 0 leaves its part out."""

    global_weight: float = 1.0  # of the alignment of whole pairs (P-4)
    token_weight: float = 1.0  # of words with patches (P-8)
    prototype_weight: float = 1.0  # of categories (P-12)
    label_weight: float = 0.0  # of cross-entropy on known stages, weighted by certainty (P-16): the paper's third loss
    tokens: str = "pair"  # negatives of a word: the patches of its own "pair", or all images of the "batch"
    prototypes: str = (
        "clusters"  # learned without labels; one per stage ("class"); or the contrast that they stand for,
    )
    # with all pairs of one stage as positives ("supervised"). A study without stage takes no part in the last two

    def __post_init__(self) -> None:
        for name, known in (("prototypes", PROTOTYPES), ("tokens", TOKENS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not (self.global_weight or self.token_weight or self.prototype_weight):
            raise ValueError(
                "nothing aligns images with reports: set global_weight, token_weight or prototype_weight; "
                "staging alone is what MSKPTStaging does"
            )


class MSKPT(ConVIRT):
    """ConVIRT's encoders and ways of asking, trained by three alignments at a fixed temperature: P-17, a reconstruction."""

    name, Config = "mskpt", MSKPTConfig

    def __init__(self, tokenizer: ReportTokenizer, config: MSKPTConfig | None = None):
        config = config or MSKPTConfig()
        super().__init__(tokenizer, config)
        self.log_temperature.requires_grad_(False)
        self.prototypes = None
        if config.prototype_weight and config.prototypes == "clusters":
            self.prototypes = pa.ClusterPrototypes(CLUSTERS, config.dim, temperature=PROTOTYPE_TEMPERATURE)
        elif config.prototype_weight and config.prototypes == "class":
            self.prototypes = pa.ClassPrototypes(STAGES, config.dim, temperature=PROTOTYPE_TEMPERATURE)
        self.head = nn.Linear(2 * self.image_encoder.width, STAGES) if config.label_weight else None

    def compute_loss(self, batch: Batch) -> LossTerms:
        config, terms = self.config, {}
        # P-1, P-2: local features of both sides in the shared space
        maps = self.image_encoder(batch.images)
        patches = self.image_projection(maps.flatten(2).transpose(1, 2))
        hidden, mask = self.text_encoder.encode(batch.inputs["token_ids"])
        images = gather_pairs(F.normalize(patches.mean(dim=1), dim=-1))
        texts = gather_pairs(F.normalize(self.text_projection(masked_mean(hidden, mask)), dim=-1))
        if config.global_weight:  # P-4
            terms["global"] = info_nce(images @ texts.t(), TEMPERATURE)
        if config.token_weight:  # P-8; words without [CLS]
            words = F.normalize(self.text_projection(hidden[:, 1:]), dim=-1)
            align = batch_token_alignment if config.tokens == "batch" else token_alignment
            terms["token"] = align(F.normalize(patches, dim=-1), words, mask[:, 1:])
        if config.prototype_weight:  # P-12
            terms["prototype"] = self._align_categories(images, texts, batch.stages)
        if config.label_weight:  # P-14, P-16
            terms["label"] = weighted_cross_entropy(self.head(pool_features(maps)), batch.stages)
        return LossTerms(terms, {name: getattr(config, f"{name}_weight") for name in terms})

    def _align_categories(self, images: torch.Tensor, texts: torch.Tensor, stages: torch.Tensor) -> torch.Tensor:
        if self.config.prototypes == "clusters":
            return self.prototypes(images, texts)
        stages = gather_pairs(stages.float().unsqueeze(1)).squeeze(1).long()
        if self.config.prototypes == "supervised":
            return pa.supervised_contrast(images @ texts.t(), pa.same_class(stages), TEMPERATURE)
        return self.prototypes(images, texts, stages)

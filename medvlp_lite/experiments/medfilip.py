"""MedFILIP's ablation, from whole reports to explained structured labels, and what its similarity model is made of.

Built in chapter 06_similarity_labels.
"""

from typing import Any

from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row
from medvlp_lite.experiments.zero_shot import DRAW
from medvlp_lite.phantom.patients import ENTITIES
from medvlp_lite.reports.structured_labels import explanation_of

# Half batches, at least 300 steps of the profile "read": without a contrast between images steps count, not the batch.
TRAINING = Training(2e-3, share=300 / 220, cap=1500, least=1.0, batch=0.5)
HARD = {"use_ssm": False, "use_iki": False}
ONTOLOGY = {"use_iki": False, "similarity_model": "ontology"}


def _row(name: str, value: int, *more: str, **options: Any) -> Row:
    return Row(
        name, "medfilip", DRAW, TRAINING, ("recognition", "explained", *more), options={"categories": ENTITIES, **options},
        words=tuple(map(explanation_of, ENTITIES)), validation="macro_auc",
        headline=("macro_auc/value", "multi/f1", "fine/f1"), value=value,
    )  # fmt: skip


ROWS = (
    # the paper's Table 6, from the bottom
    _row("medfilip_report", 3, "label probe", use_entities=False, **HARD),
    _row("medfilip_entity", 2, use_fg=False, **HARD),
    _row("medfilip_fine", 2, **HARD),
    _row("medfilip_ssm", 2, use_iki=False),
    _row("medfilip", 3, "label probe", "random probe"),
    # other ideas of which labels are alike, true triplets, and the released loss
    _row("medfilip_exact", 2, hard_labels="text", **HARD),
    _row("medfilip_words", 1, use_iki=False, similarity_model="words"),
    _row("medfilip_ontology", 2, **ONTOLOGY),
    _row("medfilip_gated", 1, use_iki=False, same_category_only=True),
    _row("medfilip_ontology_truth", 1, triplets="truth", **ONTOLOGY),
    _row("medfilip_scaled", 1, mse_on="scaled", **ONTOLOGY),
)

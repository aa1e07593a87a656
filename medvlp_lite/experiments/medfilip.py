"""MedFILIP's ablation, from whole reports to explained structured labels, and what its similarity model is made of.

Built in chapter 06_similarity_labels.
"""

from typing import Any

from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row, shuffled, whole
from medvlp_lite.experiments.zero_shot import DRAW, SHARED, longer
from medvlp_lite.phantom.patients import ENTITIES

TRAINING = Training(1e-3)
HARD = {"use_ssm": False, "use_iki": False}
SIMILARITY = {
    model: {"use_iki": False, "similarity_model": model} for model in ("reports", "words", "minilm", "ontology")
}
# The power at which the labels of training reports, differing in severity alone, are as alike as in the ontology: .47.
POWERS = {"reports": 80, "minilm": 16}
DIAL = {0: 0.0, 25: 0.25, 50: 0.5, 75: 0.75, 100: 1.0}  # similarity of mild and severe, in %


def _row(name: str, value: int, *more: str, train_set: Any = whole, **options: Any) -> Row:
    return Row(
        name, "medfilip", DRAW, TRAINING, ("recognition", "grounding", "explained", "text types", *more),
        options={"categories": ENTITIES, **options}, parents=SHARED, train_set=train_set, validation="macro_auc",
        headline=("macro_auc/value", "multi/f1", "fine/f1"), value=value,
        needs="text" if options.get("similarity_model") == "minilm" else "",
    )  # fmt: skip


MEDFILIP = _row("medfilip", 4, "prompts", "label probe", "random probe", "counterfactual")

ROWS = (
    # the paper's Table 6, from the bottom
    _row("medfilip_report", 4, "label probe", use_entities=False, **HARD),
    _row("medfilip_entity", 3, use_fg=False, **HARD),
    _row("medfilip_fine", 3, **HARD),
    _row("medfilip_ssm", 3, **SIMILARITY["reports"]),
    MEDFILIP,
    longer(MEDFILIP),
    # other ideas of which labels are alike
    _row("medfilip_exact", 2, hard_labels="text", **HARD),
    _row("medfilip_words", 1, **SIMILARITY["words"]),
    _row("medfilip_minilm", 2, **SIMILARITY["minilm"]),
    _row("medfilip_ontology", 3, **SIMILARITY["ontology"]),
    # none of them across categories
    _row("medfilip_gated", 1, same_category_only=True, **SIMILARITY["reports"]),
    *(
        _row(f"medfilip_{m}_gated", 1, same_category_only=True, **SIMILARITY[m])
        for m in ("words", "minilm", "ontology")
    ),
    # crowded cosines spread by a power
    _row("medfilip_sharp", 1, similarity_power=POWERS["reports"], **SIMILARITY["reports"]),
    _row("medfilip_minilm_sharp", 1, similarity_power=POWERS["minilm"], **SIMILARITY["minilm"]),
    # the dial: how alike mild and severe are
    *(_row(f"medfilip_severity_{p}", 2, severity_similarity=s, **SIMILARITY["ontology"]) for p, s in DIAL.items()),
    # the released loss, true triplets (positive control), and reports of other studies (negative control)
    _row("medfilip_scaled", 1, mse_on="scaled", **SIMILARITY["ontology"]),
    _row("medfilip_ontology_truth", 4, triplets="truth", **SIMILARITY["ontology"]),
    _row("medfilip_shuffled", 4, train_set=shuffled),
)

"""The shared starts, from phantoms of a draw that no other row uses: each encoder on its own modality, no labels, no pairs.

Built in chapter 03_contrastive_baseline.
"""

from dataclasses import replace

from medvlp_lite.experiments.draws import Draw
from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row
from medvlp_lite.phantom.patients import ENTITIES, SIGNS
from medvlp_lite.reports.knowledge import describe

APART = 1000  # far from the seeds of every other draw
DESCRIPTIONS = tuple(map(describe, (*ENTITIES, *SIGNS)))

DRAW = Draw(seed=APART)
TRAINING = Training(1e-3)

ROWS = (
    Row(
        "start", "unimodal", DRAW, TRAINING, ("label probe", "random probe"), options={"texts": DESCRIPTIONS},
        words=DESCRIPTIONS, validation="loss", headline=("probe/macro/value",), value=4, seeds=1,
    ),
    # a ViT that reconstructs hidden patches, as MaCo's starts from the weights of a masked autoencoder
    Row(
        "start_vit", "maco", DRAW, replace(TRAINING, weight_decay=0.05), ("token probe", "random token probe"),
        options={"contrastive": False, "hr": False, "affine": True},
        validation="reconstruction_error", headline=("probe/macro/value",), value=4, seeds=1,
    ),
)  # fmt: skip

"""The shared starts, from phantoms of a draw that no other row uses: each encoder on its own modality, no labels, no pairs.

Built in chapter 03_contrastive_baseline.
"""

from medvlp_lite.experiments.draws import Draw
from medvlp_lite.experiments.profiles import Training
from medvlp_lite.experiments.runner import Row
from medvlp_lite.phantom.patients import ENTITIES, SIGNS
from medvlp_lite.reports.knowledge import describe

APART = 1000  # far from the seeds of every other draw
DESCRIPTIONS = tuple(map(describe, (*ENTITIES, *SIGNS)))

ROWS = (
    Row(
        "start", "unimodal", Draw(cap=9000, seed=APART), Training(1e-3, cap=1000, least=0.5), ("label probe", "random probe"),
        options={"texts": DESCRIPTIONS}, words=DESCRIPTIONS, validation="loss", headline=("probe/macro/value",), value=3, seeds=1,
    ),
)  # fmt: skip

"""MSK-PT's second stage: fewer labels, wrong labels, and the baseline without pretraining. Built in chapter 08_uncertainty_staging."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medvlp_lite.experiments import mskpt
from medvlp_lite.experiments.draws import PhantomData, with_labels
from medvlp_lite.experiments.profiles import Profile, Training, build_system
from medvlp_lite.experiments.runner import Row, plain_start
from medvlp_lite.experiments.zero_shot import SHARED
from medvlp_lite.records.record import RunRecord
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import System

TRAINING = Training(1e-3)  # the same for every row
ALONE = {"text_weight": 0.0, "data_weight": 0.0}
PLAIN = {"weight": "none", "gate": False}
WEIGHTS = {"linear": {}, "gate": {"patience": 60}, "none": {}}
FEW = {
    30: 0.002,
    100: 0.0067,
    300: 0.02,
    1000: 0.067,
}  # labels, and the share of the long profile's 15,000 that they are
LAMBDAS = {0.0: "staging_no_distillation", 0.1: "staging_light", 0.3: "staging_lambda_30", 1.0: "staging"}
"""The rows that differ in the weight of both distillations."""
SUPERVISED = {"start": "supervised"}  # its encoder learned the twelve findings from labels, on other phantoms
BRIEF = 0.25  # share of the steps when so few labels are all that is learned from: the best state comes early
REPEATS = 128  # so many studies at least, of few labels each many times: a batch must fit in


def chosen_lambda(records: Mapping[str, RunRecord]) -> float:
    """The weight of distillation whose row ends highest on validation, on average over seeds; of equals the smaller.

    ``records`` by row. Raises ValueError naming the rows of ``LAMBDAS`` that are missing.
    """
    if missing := [row for row in LAMBDAS.values() if row not in records]:
        raise ValueError(f"no record of {', '.join(missing)}; run these rows first")
    ends = {
        weight: [run["curve"]["validation"]["values"][-1] for run in records[row].metrics["runs"]]
        for weight, row in LAMBDAS.items()
    }
    return max(ends, key=lambda weight: (np.mean(ends[weight]), -weight))


def labelled(row: Row, data: PhantomData, seed: int) -> StudyDataset:
    """The training studies with those stages that the row may see; -1 marks the others."""
    return with_labels(data.train, row.draw.labels, row.draw.noise, seed)


def train_set(row: Row, data: PhantomData, seed: int) -> StudyDataset:
    """Labelled studies, repeated until they are about half of what is drawn from; without a teacher the others are left out."""
    given = labelled(row, data, seed)
    known, others = np.flatnonzero(given.stages >= 0), np.flatnonzero(given.stages < 0)
    taught = row.parents and any(row.options.get(f"{kind}_weight", 1.0) for kind in ("text", "data"))
    if not taught or not len(others):
        return given.subset(np.tile(known, -(-REPEATS // len(known))))
    return given.subset(np.concatenate([np.tile(known, max(1, round(len(others) / len(known)))), others]))


def start(row: Row, data: PhantomData, profile: Profile, seed: int, parents: Mapping[str, System]) -> System:
    """A student with the encoder of its stage-1 teacher and the teacher's banks of the labelled studies; or with the encoder of
    another system (``parents`` "start"); or with random weights. Stages count inversely to their number of labels.
    """
    given, side = labelled(row, data, seed), data.train.size
    if "teacher" not in parents:
        return plain_start(row, data, profile, seed, parents).balance(given.stages)
    teacher = parents["teacher"]
    width = teacher.eval().embed_images(torch.zeros(1, 1, side, side, device=teacher.device)).shape[1]
    system = build_system(row.system, teacher.tokenizer, {**row.options, "width": width}, profile)
    return system.set_teacher(teacher, given.subset(np.flatnonzero(given.stages >= 0)))


def _row(
    name: str, value: int = 2, teacher: str = "mskpt", labels: float = 1.0, noise: float = 0.0, times: int = 1, share: float = 1.0,
    parents: Mapping[str, str] | None = None, **options: Any,
) -> Row:  # fmt: skip
    return Row(
        name, "staging", replace(mskpt.DRAW, labels=labels, noise=noise), replace(TRAINING, times=times, share=share), ("staging",),
        options=options, parents={"teacher": teacher} if parents is None else parents, start=start, train_set=train_set,
        validation="macro_f1", keep_best=True, headline=("scores/accuracy", "scores/mean", "kappa"), value=value,
    )  # fmt: skip


def _scratch(name: str, value: int = 2, **more: Any) -> Row:
    return _row(name, value, **{"parents": SHARED, **ALONE, **PLAIN, **more})


ROWS = (
    _row("staging", 4),
    _scratch("staging_scratch", 4),
    _scratch("staging_scratch_longer", times=3),
    _scratch("staging_random", parents={}),
    _row("staging_no_global", teacher="mskpt_no_global"),
    _row("staging_no_sma", teacher="mskpt_global"),
    _row("staging_no_token", teacher="mskpt_no_token"),
    _row("staging_no_prototype", teacher="mskpt_no_prototype"),
    _row("staging_no_data", data_weight=0.0),
    _row("staging_no_text", text_weight=0.0),
    _row("staging_light", 3, text_weight=0.1, data_weight=0.1),
    _row("staging_lambda_30", text_weight=0.3, data_weight=0.3),
    _row("staging_no_distillation", 3, **ALONE),
    _row("staging_labels", teacher="mskpt_labels"),
    _row("staging_shuffled", teacher="mskpt_shuffled"),
    _row("staging_no_gate", gate=False),
    _row("staging_no_weight", weight="none"),
    _row("staging_no_uncertainty", **PLAIN),
    *(_row(f"staging_{share}", labels=share / 100) for share in (25, 50, 75)),
    *(_scratch(f"staging_scratch_{share}", labels=share / 100) for share in (25, 50, 75)),
    *(_row(f"staging_n{count}", labels=labels, share=BRIEF) for count, labels in FEW.items()),
    *(_scratch(f"staging_scratch_n{count}", labels=labels, share=BRIEF) for count, labels in FEW.items()),
    _scratch("staging_supervised", parents=SUPERVISED),
    *(
        _scratch(f"staging_supervised_n{count}", labels=labels, share=BRIEF, parents=SUPERVISED)
        for count, labels in FEW.items()
    ),
    *(
        _scratch(f"staging_{name}_{size}", image_encoder=encoder, image_size=size, parents={})
        for name, encoder in (("resnet", "resnet_lite"), ("vit", "vit_lite"))
        for size in (112, 224)
    ),
    _scratch("staging_mean_pooling", 1, pooling="mean"),
    *(
        _row(f"staging_noise_{share}_{weight}", 1, noise=share / 100, weight=weight, **ALONE, **options)
        for weight, options in WEIGHTS.items()
        for share in (0, 20, 40)
    ),
)

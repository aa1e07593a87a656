"""Staging with few labels and with doubt: MSK-PT's second stage, its ablations, its baseline, and what is measured of each.

Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from medvlp_lite.components.uncertainty_staging import SCORES, choose_theta, uncertainty
from medvlp_lite.evaluation import staging as st
from medvlp_lite.evaluation.activation import energy_inside, grad_cam
from medvlp_lite.evaluation.classification import auc
from medvlp_lite.experiments.base import (
    EXPERIMENTS,
    IMAGE_SIZE,
    SPLIT_FRACTIONS,
    Experiment,
    Log,
    PhantomData,
    Profile,
    train_system,
)
from medvlp_lite.experiments.prototypes import stage_one_measures, stage_one_plan
from medvlp_lite.experiments.stages import stage_data, stages
from medvlp_lite.studies import SPLITS, Study, StudyDataset, split_by_patient
from medvlp_lite.systems.base import System
from medvlp_lite.systems.mskpt import MSKPT
from medvlp_lite.systems.mskpt_staging import DISEASE, MSKPTStaging
from medvlp_lite.training import History, TrainingConfig, train_or_load

TARGET = 0.8  # share of kept answers that shall be right
MAX_STEPS = 150
ALONE = {"text_weight": 0.0, "data_weight": 0.0}
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class Recipe:
    """One row of the staging table: the stage-1 experiment it starts from (None: random weights), the share of labels it may see,
    the share of those that are wrong, how many times as long it trains, and options of ``MSKPTStaging``."""

    pretrained: str | None = "mskpt"
    fraction: float = 1.0
    noise: float = 0.0
    longer: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def taught(self) -> bool:
        """Whether unlabelled images serve for anything."""
        return self.pretrained is not None and any(self.options.get(f"{kind}_weight", 1.0) for kind in ("text", "data"))


def with_labels(dataset: StudyDataset, fraction: float = 1.0, noise: float = 0.0, seed: int = 0) -> StudyDataset:
    """The same studies, of which only a share of each stage keeps its label, and of those a share ``noise`` a neighbour's.

    A smaller fraction is a part of a larger one of the same seed. Stage -1 marks no label. Raises ValueError for a fraction
    outside (0, 1] or noise outside [0, 1].
    """
    if not 0 < fraction <= 1 or not 0 <= noise <= 1:
        raise ValueError(f"need 0 < fraction <= 1 and 0 <= noise <= 1, got {fraction} and {noise}")
    rng, truth = np.random.default_rng(seed), stages(dataset)
    order = [rng.permutation(np.flatnonzero(truth == k)) for k in np.unique(truth[truth >= 0])]
    given = np.full(len(truth), -1)
    for rows in order:
        rows = rows[: int(np.ceil(fraction * len(rows)))]
        given[rows] = truth[rows]
    wrong, step = rng.random(len(truth)) < noise, rng.choice([-1, 1], len(truth))
    moved = np.where(given == 0, 1, np.where(given == truth.max(), given - 1, given + step))
    given = np.where((given >= 0) & wrong, moved, given)
    studies = [replace(study, stage=None if k < 0 else int(k)) for study, k in zip(dataset.studies, given)]
    return StudyDataset(studies, size=dataset.size, entities=dataset.entities, label_from=dataset.label_from)


def split_custom(studies: Sequence[Study], seed: int = 0) -> PhantomData:
    """One's own studies, as ``sources.pneumocxr`` loads them, in the three parts that training and measuring take.

    The parts are those that every study's ``meta["split"]`` names, else a split by patient. Studies without stage serve in training only.
    Raises ValueError when a part is empty, a patient stands in two, or a stage is missing in training.
    """
    named = [study.meta.get("split") for study in studies]
    splits = split_by_patient(studies, SPLIT_FRACTIONS, seed)
    parts = {part: list(getattr(splits, part)) for part in SPLITS}
    if all(named):
        parts = {part: [i for i, name in enumerate(named) if name == part] for part in SPLITS}
    parts |= {part: [i for i in parts[part] if studies[i].stage is not None] for part in ("val", "test")}
    owners = [{studies[i].patient_id for i in rows} for rows in parts.values()]
    if not all(owners) or len(set.union(*owners)) < sum(map(len, owners)):
        raise ValueError(
            "train, val and test must each have studies, and no patient of another; correct the column split"
        )
    if missing := {0, 1, 2, 3} - {studies[i].stage for i in parts["train"]}:
        raise ValueError(f"training has no study of stage {min(missing)}; add one, or move one there")
    whole = StudyDataset(studies, size=IMAGE_SIZE, entities=(DISEASE,))
    return PhantomData(*(whole.subset(parts[part]) for part in SPLITS), split=splits.fingerprint)


def staging_plan(scale: Profile, seed: int, longer: int = 1) -> TrainingConfig:
    """Half of the scale's steps up to 150, or a tenth of them, for every row alike: the encoder has learned already.

    ``longer`` multiplies.
    """
    steps = longer * max(1, min(scale.steps // 2, MAX_STEPS), scale.steps // 10)
    return TrainingConfig(steps, scale.batch_size, 1e-3, precision=scale.precision, seed=seed)


def train_staging(
    recipe: Recipe,
    data: PhantomData,
    scale: Profile,
    seed: int = 0,
    log: Log | None = print,
    *,
    teacher: System | None = None,
) -> tuple[MSKPTStaging, History]:
    """Train a row of the staging table, or load it from the cache.

    Stage 1 comes first where the recipe needs it and no ``teacher`` is given.
    Labelled studies are repeated until they are about half of what training draws from; without a teacher the others are left out.
    """
    given = with_labels(data.train, recipe.fraction, recipe.noise, seed)
    labelled, others = np.flatnonzero(stages(given) >= 0), np.flatnonzero(stages(given) < 0)
    known = given.subset(labelled)
    drawn = labelled
    if recipe.taught and len(others):
        drawn = np.concatenate([np.tile(labelled, max(1, round(len(others) / len(labelled)))), others])
    options = {"labels": f"{recipe.fraction:.0%}, {recipe.noise:.0%} of them wrong", **recipe.options}
    if recipe.pretrained and teacher is None:
        teacher, _ = train_system(recipe.pretrained, data, scale, seed, log)

    def build() -> MSKPTStaging:
        if not recipe.pretrained:
            return MSKPTStaging(data.tokenizer(), image_size=IMAGE_SIZE, **{**options, **ALONE})
        size = {
            "width": teacher.embed_images(torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE, device=teacher.device)).shape[1]
        }
        encoder = teacher.config.get("image_encoder_name", "resnet_lite")
        system = MSKPTStaging(teacher.tokenizer, image_encoder_name=encoder, image_size=IMAGE_SIZE, **size, **options)
        return system.prepare(teacher, known)

    return train_or_load(build, given.subset(drawn), staging_plan(scale, seed, recipe.longer), log=log)


def doubts(val: tuple[np.ndarray, np.ndarray], probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Every score of doubt (N,) of probabilities (N, K), by name: those of P-15, and the conformal one calibrated on ``val``."""
    scores = {kind: uncertainty(torch.as_tensor(probabilities), kind).numpy() for kind in SCORES}
    return {**scores, "conformal": np.sort(st.conformal_p_values(val, probabilities), axis=1)[:, -2]}


def measure_staging(system: System, data: PhantomData) -> dict[str, Any]:
    """What is recorded of one seed: the five metrics, confusion, agreement, calibration, doubt, triage, conformal sets, Grad-CAM."""
    truth, answers = stages(data.test), st.stage_probabilities(system, data.test)
    val = stages(data.val), st.stage_probabilities(system, data.val)
    scores = st.stage_scores(truth, answers)
    counts = st.confusion(truth, answers.argmax(1), answers.shape[1])
    pair = st.most_confused(counts)
    sets = st.conformal_sets(val, answers, alpha=0.1)
    return {
        "scores": {**asdict(scores), "mean": scores.mean},
        "auc_by_stage": [auc((truth == k).astype(float), answers[:, k]) for k in range(answers.shape[1])],
        "confusion": counts.tolist(),
        "most_confused": pair and list(pair),
        "kappa": st.quadratic_kappa(truth, answers.argmax(1), answers.shape[1]),
        "calibration_error": st.calibration_error(truth, answers),
        "doubt": measure_doubt(truth, answers, val),
        "theta": measure_theta(truth, answers, val),
        "conformal": {
            "promised": 0.9,
            "held": float(sets[np.arange(len(truth)), truth].mean()),
            "size": float(sets.sum(axis=1).mean()),
            "single": float((sets.sum(axis=1) == 1).mean()),
        },
        "grad_cam": measure_grad_cam(system, data.test),
    }


def measure_doubt(truth: np.ndarray, answers: np.ndarray, val: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """For each score of doubt: area under risk-coverage, AUC for "the answer is wrong", accuracy of the kept at each coverage."""
    correct, found = answers.argmax(1) == truth, {}
    for kind, unsure in doubts(val, answers).items():
        coverage, risk = st.risk_coverage(unsure, correct)
        kept = {f"{share:.0%}": 1 - float(risk[np.searchsorted(coverage, share - 1e-9)]) for share in COVERAGES}
        found[kind] = {"aurc": float(risk.mean()), "auc": auc(1.0 - correct, unsure), "accuracy_kept": kept}
    return found


def measure_theta(truth: np.ndarray, answers: np.ndarray, val: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Each rule for theta, chosen on validation answers, and what it keeps of the test part."""
    rules = {
        "accuracy": {"target": TARGET},
        "accuracy, 90 % sure": {"target": TARGET, "confidence": 0.9},
        "coverage": {"target": 0.8},
        "youden": {},
    }
    unsure = [uncertainty(torch.as_tensor(p)).numpy() for p in (val[1], answers)]
    correct = [p.argmax(1) == y for y, p in (val, (truth, answers))]
    found = {}
    for name, options in rules.items():
        theta = choose_theta(unsure[0], correct[0], name.split(",")[0], **options)
        found[name] = {"theta": theta, "target": options.get("target")}
        for part, u, c in zip(("val", "test"), unsure, correct):
            found[name][part] = asdict(st.select(u, c, theta))
    return found


def stage_maps(system: MSKPTStaging, dataset: StudyDataset, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM (C-6) of the given stage of every image: (N, h, w)."""
    found = []
    for start in range(0, len(dataset), 64):
        images = torch.from_numpy(dataset.images[start : start + 64]).unsqueeze(1).to(system.device).float() / 255
        chosen = torch.as_tensor(classes[start : start + 64])
        maps = grad_cam(system.image_encoder, lambda a: system.head(a.mean(dim=(2, 3))), images, chosen)
        found.append(maps.cpu())
    return torch.cat(found).numpy()


def measure_grad_cam(system: MSKPTStaging, dataset: StudyDataset, limit: int = 300) -> dict[str, float]:
    """Energy of the true stage's map inside the true opacity mask, on diseased studies, beside what a uniform map would score."""
    rows = [i for i in np.flatnonzero(stages(dataset) > 0) if _mask(dataset, i) is not None][:limit]
    if not rows:
        return {"energy": float("nan"), "uniform": float("nan"), "count": 0}
    maps = stage_maps(system, dataset.subset(rows), stages(dataset)[rows])
    inside = [energy_inside(heat, _mask(dataset, i)) for heat, i in zip(maps, rows)]
    uniform = float(np.mean([_mask(dataset, i).mean() for i in rows]))
    return {"energy": float(np.nanmean(inside)), "uniform": uniform, "count": len(rows)}


def _mask(dataset: StudyDataset, index: int) -> np.ndarray | None:
    region = dataset.studies[index].region(DISEASE, dataset.size, dataset.size)
    return region if region is not None and region.any() else None


PLAIN = {"weight": "none", "gate": False}
RECIPES: dict[str, Recipe] = {
    "staging": Recipe(),
    "staging_scratch": Recipe(None, options=PLAIN),
    "staging_scratch_longer": Recipe(None, longer=3, options=PLAIN),
    "staging_no_global": Recipe("mskpt_no_global"),
    "staging_no_sma": Recipe("mskpt_global"),
    "staging_no_token": Recipe("mskpt_no_token"),
    "staging_no_prototype": Recipe("mskpt_no_prototype"),
    "staging_no_data": Recipe(options={"data_weight": 0.0}),
    "staging_no_text": Recipe(options={"text_weight": 0.0}),
    "staging_light": Recipe(options={"text_weight": 0.1, "data_weight": 0.1}),
    "staging_no_distillation": Recipe(options=ALONE),
    "staging_no_uncertainty": Recipe(options=PLAIN),
}
for _share in (25, 50, 75):
    RECIPES[f"staging_{_share}"] = Recipe(fraction=_share / 100)
    RECIPES[f"staging_scratch_{_share}"] = Recipe(None, fraction=_share / 100, options=PLAIN)
for _weight, _options in {"linear": {}, "gate": {"patience": 60}, "none": {}}.items():
    for _share in (0, 20, 40):
        RECIPES[f"staging_noise_{_share}_{_weight}"] = Recipe(
            noise=_share / 100, options={**ALONE, **_options, "weight": _weight}
        )


def _experiment(recipe: Recipe) -> Experiment:
    return Experiment(
        lambda data: MSKPTStaging(data.tokenizer(), image_size=IMAGE_SIZE, text_weight=0.0, data_weight=0.0),
        lambda scale, seed: staging_plan(scale, seed, recipe.longer),
        measure_staging,
        lambda data, scale, seed, log: train_staging(recipe, data, scale, seed, log),
        stage_data,
    )


EXPERIMENTS["mskpt_no_global"] = Experiment(
    lambda data: MSKPT(data.tokenizer(), image_size=IMAGE_SIZE, global_weight=0.0),
    stage_one_plan,
    stage_one_measures,
    data=stage_data,
)
for _name, _recipe in RECIPES.items():
    EXPERIMENTS[_name] = _experiment(_recipe)

"""What a row can ask to be measured, by name: a table of what stands in ``evaluation``.

A measure takes a trained system, its data and the seed, and gives a part of that seed's entry in the record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from medvlp_lite.evaluation.clusters import nearest_neighbour_purity, stage_one_measures
from medvlp_lite.evaluation.counterfactual import counterfactual
from medvlp_lite.evaluation.fine_grained import label_probe, recognition, text_type_means, unseen_by_explanation
from medvlp_lite.evaluation.grounding import by_size, grounding, phrase_grounding, sentence_grounding
from medvlp_lite.evaluation.importance import map_controls, reconstruction_errors, token_probe, weight_measures
from medvlp_lite.evaluation.inference import Parts, embed_dataset
from medvlp_lite.evaluation.staging import macro_f1_on_val, staging_measures
from medvlp_lite.evaluation.zero_shot import (
    chosen_prompts,
    held_out,
    macro_auc_on_val,
    unseen_disease,
    unseen_grounding,
    unseen_studies,
    zero_shot,
)
from medvlp_lite.experiments.profiles import untrained_twin
from medvlp_lite.studies import collate
from medvlp_lite.systems.base import System

BATCH = 32
Measure = Callable[[System, Parts, int], dict[str, Any]]


def _grounding(limit: int) -> Measure:
    def measure(system: System, data: Parts, seed: int) -> dict[str, Any]:
        found = grounding(system, data, limit=limit)
        return {"grounding": found, "pointing": by_size(found.items())}

    return measure


def _reconstruction(system: System, data: Parts, part: str = "test", limit: int = 512) -> dict[str, float]:
    whole = getattr(data, part)
    return reconstruction_errors(system, whole.subset(range(min(limit, len(whole)))))


MEASURES: dict[str, Measure] = {
    "zero_shot": lambda system, data, seed: zero_shot(system, data),
    "prompts": lambda system, data, seed: {"prompts": chosen_prompts(system, data)},
    "grounding": _grounding(150),
    "grounding of 60": _grounding(60),
    "unseen": lambda system, data, seed: {"unseen": unseen_disease(system, unseen_studies(size=data.test.size))},
    "phrases": lambda system, data, seed: {"phrase_grounding": phrase_grounding(system, data)},
    "phrases on val": lambda system, data, seed: {"phrase_grounding_val": phrase_grounding(system, data, part="val")},
    "sentences": lambda system, data, seed: {"sentence_grounding": sentence_grounding(system, data)},
    "map controls": lambda system, data, seed: {"map_controls": map_controls(system, data, seed=seed)},
    "token probe": lambda system, data, seed: {
        "probe": {**label_probe(system, data, seed), **token_probe(system, data, seed=seed)}
    },
    "random token probe": lambda system, data, seed: {
        "probe_random": token_probe(untrained_twin(system), data, seed=seed)
    },
    "reconstruction": lambda system, data, seed: {"reconstruction": _reconstruction(system, data)},
    "weights": lambda system, data, seed: weight_measures(system, data, system.config.block),
    "recognition": lambda system, data, seed: recognition(system, data),
    "explained": lambda system, data, seed: {"unseen": unseen_by_explanation(system, size=data.test.size)},
    "text types": lambda system, data, seed: {"text_types": text_type_means(system, data.test)},
    "label probe": lambda system, data, seed: {"probe": label_probe(system, data, seed)},
    "random probe": lambda system, data, seed: {"probe_random": label_probe(untrained_twin(system), data, seed)},
    "stage one": lambda system, data, seed: stage_one_measures(system, data),
    "staging": lambda system, data, seed: staging_measures(system, data),
    "unseen grounding": lambda system, data, seed: {"unseen_grounding": unseen_grounding(system, data.test.size)},
    "held out": lambda system, data, seed: {"held_out": held_out(system, data)},
    "counterfactual": lambda system, data, seed: {"counterfactual": counterfactual(system, data.test)},
}


def _loss_on_val(system: System, data: Parts, limit: int = 512) -> float:
    """The mean training loss of whole validation batches, with the same draws each time."""
    count = min(limit, len(data.val))
    size = min(BATCH, count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batches = (collate([data.val[j] for j in range(i, i + size)]) for i in range(0, count - size + 1, size))
        return float(torch.stack([system.loss(batch.to(system.device)).total for batch in batches]).mean())


VALIDATION: dict[str, Callable[[System, Parts], float]] = {
    "macro_auc": macro_auc_on_val,
    "reconstruction_error": lambda system, data: _reconstruction(system, data, "val", 256)["0.75"],
    "purity": lambda system, data: nearest_neighbour_purity(
        embed_dataset(system, data.val), data.val.stages, min(10, len(data.val) - 1)
    ),
    "macro_f1": macro_f1_on_val,
    "loss": _loss_on_val,
}
"""What a validation curve can show: one number from the validation part."""

"""The linear probe: how much of the labels a straight line can read from frozen features (F-11).

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medvlp_lite.evaluation.classification import auc, image_batches, max_f1
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import System

SHARES = (0.01, 0.1, 1.0)
STRENGTHS = (0.01, 0.1, 1.0)  # inverse regularisation, chosen on validation
Part = tuple[np.ndarray, np.ndarray]


@torch.no_grad()
def pooled_features(system: System, dataset: StudyDataset) -> np.ndarray:
    """The mean local feature of every study, before any projection (``System.image_features``): float (N, width)."""
    system.eval()
    pooled = [system.image_features(images).mean(dim=(2, 3)).float().cpu() for images in image_batches(dataset, system.device)]  # fmt: skip
    return torch.cat(pooled).numpy()


def linear_probe(
    train: Part, val: Part, test: Part, shares: Sequence[float] = SHARES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Logistic regression per class on a share of the training rows, judged on the test rows (F-11).

    Each part is (features (N, d), labels (N, C) of 1, 0 or NaN). Features are standardised with the training rows used;
    regularisation and thresholds (C-3) come from ``val``. Returns per share, as "1 %", the means over the classes that can be
    learned and scored: macro "auc", "accuracy", "f1", and "studies" and "classes" counted. Smaller shares are subsets of larger ones.
    Raises ValueError, naming the parts at fault, when no class can be learned and scored at some share.
    """
    order = np.random.default_rng(seed).permutation(len(train[0]))
    results = {}
    for share in shares:
        rows = order[: max(2, round(share * len(order)))]
        scored = [
            _probe_class((train[0][rows], train[1][rows, c]), (val[0], val[1][:, c]), (test[0], test[1][:, c]))
            for c in range(train[1].shape[1])
        ]
        scored = [one for one in scored if one is not None]
        if not scored:
            parts = {f"training ({len(rows)} studies)": train[1][rows], "validation": val[1], "test": test[1]}
            lacking = [name for name, labels in parts.items() if not all(map(_both_kinds, labels.T))]
            raise ValueError(f"no class can be probed: positives or negatives are missing in {' and '.join(lacking)}")
        means = {name: float(np.mean([one[name] for one in scored])) for name in ("auc", "accuracy", "f1")}
        results[f"{100 * share:g} %"] = {**means, "studies": len(rows), "classes": len(scored)}
    return results


def _both_kinds(labels: np.ndarray) -> bool:
    return len(np.unique(labels[~np.isnan(labels)])) > 1


def _probe_class(train: Part, val: Part, test: Part) -> dict[str, float] | None:
    from sklearn.linear_model import LogisticRegression

    known = ~np.isnan(train[1])
    features, labels = train[0][known], train[1][known]
    if not all(_both_kinds(part[1]) for part in (train, val, test)):
        return None
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    scores = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=300).fit((features - mean) / spread, labels)
        scores.append([model.decision_function((part[0] - mean) / spread) for part in (val, test)])
    on_val, on_test = max(scores, key=lambda pair: auc(val[1], pair[0]))
    decision = max_f1((test[1], on_test), (val[1], on_val), "val")
    return {"auc": auc(test[1], on_test), "accuracy": decision.accuracy, "f1": decision.f1}

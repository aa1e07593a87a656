"""The linear probe: how much of the labels a straight line can read from frozen features (F-11).

Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvlp_lite.evaluation.classification import auc, mean_max_f1

SHARES = (0.01, 0.1, 1.0)
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # inverse regularisation, chosen on validation
Part = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Probe:
    """Standardisation (C,), logistic regression on it, and the strength of its regularisation."""

    mean: np.ndarray
    spread: np.ndarray
    model: Any
    strength: float

    @property
    def classes(self) -> np.ndarray:
        """The classes it can answer (K,)."""
        return self.model.classes_

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """The probability of each of ``classes`` for features (N, C): (N, K)."""
        return self.model.predict_proba((features - self.mean) / self.spread)


def fit_probe(train: Part, val: Part, strengths: Sequence[float] = STRENGTHS) -> Probe:
    """Logistic regression on standardised features; the strength with the smallest log-loss on ``val`` is kept.

    Each part is (features (N, C), classes (N,)); NaN classes are left out, and so are validation rows of a class that
    training does not show. Raises ValueError when training shows fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression

    (features, labels), (checked, truth) = _known(train), _known(val)
    if len(np.unique(labels)) < 2:
        raise ValueError("a probe needs at least two classes to tell apart in training")
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    seen = np.isin(truth, labels)
    checked, truth = checked[seen], truth[seen]
    probes = [
        Probe(mean, spread, LogisticRegression(C=c, max_iter=500).fit((features - mean) / spread, labels), c)
        for c in strengths
    ]
    return min(probes, key=lambda probe: _log_loss(probe, checked, truth))


def _known(part: Part) -> Part:
    rows = ~np.isnan(np.asarray(part[1], dtype=float))
    return part[0][rows], part[1][rows]


def _log_loss(probe: Probe, features: np.ndarray, truth: np.ndarray) -> float:
    if not len(truth):
        return 0.0
    chosen = probe.probabilities(features)[np.arange(len(truth)), np.searchsorted(probe.classes, truth)]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def probe_scores(train: Part, *parts: Part) -> list[np.ndarray]:
    """Scores of one probe per label column, in [0, 1]: (N, Q) for each part, of which the first chooses the strength.

    Labels (N, Q) are 1, 0 or NaN. A column is NaN where training or the first part has only one kind of label.
    """
    scores = [np.full(labels.shape, np.nan) for _, labels in parts]
    for column in range(train[1].shape[1]):
        if _both_kinds(train[1][:, column]) and _both_kinds(parts[0][1][:, column]):
            own = [(features, labels[:, column]) for features, labels in (train, parts[0])]
            probe = fit_probe(*own)
            for found, (features, _) in zip(scores, parts):
                found[:, column] = probe.probabilities(features)[:, 1]
    return scores


def _both_kinds(labels: np.ndarray) -> bool:
    return len(np.unique(labels[~np.isnan(labels)])) > 1


def linear_probe(
    train: Part, val: Part, test: Part, shares: Sequence[float] = SHARES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """One probe per class on a share of the training rows, judged on the test rows (F-11).

    Each part is (features (N, C), labels (N, Q) of 1, 0 or NaN). Strengths and thresholds (C-3) come from ``val``; ``seed`` draws
    the rows. Returns per share, as "1 %", the means over the classes that can be learned and scored: macro "auc", "accuracy",
    "f1", and "studies" and "classes" counted. Smaller shares are subsets of larger ones of the same seed.
    Raises ValueError, naming the parts at fault, when no class can be learned and scored at some share.
    """
    order, results = np.random.default_rng(seed).permutation(len(train[0])), {}
    for share in shares:
        rows = order[: max(2, round(share * len(order)))]
        given = train[0][rows], train[1][rows]
        scores = dict(zip(("val", "test"), probe_scores(given, val, test)))
        columns = [
            c for c in range(test[1].shape[1]) if _both_kinds(test[1][:, c]) and not np.isnan(scores["test"][0, c])
        ]
        if not columns:
            parts = {f"training ({len(rows)} studies)": given[1], "validation": val[1], "test": test[1]}
            lacking = [name for name, labels in parts.items() if not all(map(_both_kinds, labels.T))]
            raise ValueError(f"no class can be probed: positives or negatives are missing in {' and '.join(lacking)}")
        labels = {"val": val[1][:, columns], "test": test[1][:, columns]}
        scores = {part: values[:, columns] for part, values in scores.items()}
        area = float(np.mean([auc(labels["test"][:, c], scores["test"][:, c]) for c in range(len(columns))]))
        results[f"{100 * share:g} %"] = {"auc": area, **mean_max_f1(labels, scores), "studies": len(rows)}
    return results


def class_probe(train: Part, val: Part, test: Part) -> dict[str, Any]:
    """One probe of several classes, 0 to K - 1, on all training rows: what the features know of a stage.

    Returns "accuracy" and one-vs-rest "macro_auc" on test, the "confusion" counts (K, K) and the "strength" from val.
    """
    from sklearn.metrics import confusion_matrix

    probe = fit_probe(train, val)
    probabilities, truth = probe.probabilities(test[0]), test[1]
    answers = probe.classes[probabilities.argmax(axis=1)]
    areas = [auc((truth == k).astype(float), probabilities[:, column]) for column, k in enumerate(probe.classes)]
    known = [area for area in areas if not np.isnan(area)]
    classes = 1 + int(max(train[1].max(), truth.max()))
    return {
        "accuracy": float((answers == truth).mean()),
        "macro_auc": float(np.mean(known)) if known else float("nan"),
        "confusion": confusion_matrix(truth, answers, labels=range(classes)).tolist(),
        "strength": float(probe.strength),
    }


def cross_validated(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int, folds: int = 5
) -> np.ndarray:
    """Probabilities (N, classes) of every row from a probe that never saw a row of the same group.

    Each fold is judged once; the fold after it chooses the strength, the rest is trained on. Raises ValueError for fewer than
    two groups per fold.
    """
    from sklearn.model_selection import GroupKFold

    if len(np.unique(groups)) < 2 * folds:
        raise ValueError(f"{len(np.unique(groups))} patients are too few for {folds} folds; lower folds")
    tested = [rows for _, rows in GroupKFold(folds).split(features, labels, groups)]
    answers = np.zeros((len(labels), classes))
    for fold, rows in enumerate(tested):
        checked = tested[(fold + 1) % folds]
        given = np.setdiff1d(np.arange(len(labels)), np.concatenate([rows, checked]))
        probe = fit_probe((features[given], labels[given]), (features[checked], labels[checked]))
        answers[np.ix_(rows, probe.classes.astype(int))] = probe.probabilities(features[rows])
    return answers

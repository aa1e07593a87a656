"""Checkers of the exercises of chapter 06_similarity_labels."""

from collections.abc import Callable

import numpy as np
import torch

from medvlp_lite.notebook import exercise, require
from medvlp_lite.reports.structured_labels import Label, ontology_similarity_matrix
from medvlp_lite.studies import SEVERITIES
from medvlp_lite.systems.medfilip import MedFILIP
from medvlp_lite.training import History

ALIKE = torch.tensor(
    [
        [1.0, 0.6, 0.1, 0.8, 0.3],
        [0.6, 1.0, 0.1, 0.8, 0.3],
        [0.1, 0.1, 1.0, 0.1, 0.2],
        [0.8, 0.8, 0.1, 1.0, 0.3],
        [0.3, 0.3, 0.2, 0.3, 1.0],
    ]
)
OWNERS = torch.tensor([0, 1, 1, 2, 2])


@exercise(Callable, "a function of (similarity, owners, images) that gives a matrix with one row per image")
def check_mean_labels(answer: Callable) -> None:
    """The mean, not the maximum, over an image's own labels."""
    out = torch.as_tensor(answer(ALIKE, OWNERS, 3))
    require(tuple(out.shape) == (3, 5), "One row per image, one column per label.")
    require(torch.allclose(out[0].float(), ALIKE[0]), "Image 1 owns one label; its row is that label's row.")
    for image in (1, 2):
        mean = ALIKE[image == OWNERS].mean(dim=0)
        require(torch.allclose(out[image].float(), mean), f"Image {image + 1} owns two labels; average their rows.")


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of the ranks of two arrays (N,)."""
    ranks = (np.argsort(np.argsort(values, kind="stable")) for values in (one, other))
    return float(np.corrcoef(*ranks)[0, 1])


@exercise(Callable, "a function of two Labels that gives a number between 0 and 1")
def check_nearness(answer: Callable) -> None:
    """A similarity of labels that knows grades."""
    some = [
        Label(severity, place, category)
        for category in ("effusion", "nodule", "edema")
        for severity in SEVERITIES
        for place in (None, "left", "right lower")
    ]
    own = np.asarray([[answer(a, b) for b in some] for a in some], dtype=float)
    require(own.shape == (len(some),) * 2, "One number for two labels.")
    require(np.allclose(np.diag(own), 1), "Equal labels have similarity 1.")
    require(bool(own.min() >= 0 and own.max() <= 1), "All similarities lie in [0, 1].")
    rows, columns = zip(*((a, b) for a in range(len(some)) for b in range(a) if some[a].category == some[b].category))
    rank = rank_correlation(own[rows, columns], ontology_similarity_matrix(some)[rows, columns])
    require(rank > 0.5, f"The rank correlation within categories is {rank:.2f} so far.")


@exercise(tuple, "the pair (system, history)")
def check_ontology_training(answer: tuple) -> None:
    """A MedFILIP trained with the ontology's similarity labels."""
    require(len(answer) == 2, "Two things: the trained system and what fit returned.")
    system, history = answer
    require(isinstance(system, MedFILIP), "The first is a MedFILIP.")
    require(isinstance(history, History) and len(history.losses) > 1, "The second is the history of a training.")
    mild, severe = (Label(severity, None, "effusion") for severity in ("mild", "severe"))
    grade = float(system.label_similarity([mild, severe])[0, 1])
    expected = float(ontology_similarity_matrix([mild, severe])[0, 1])
    require(abs(grade - expected) < 1e-6, "Its idea of alike is not the ontology's.")
    require(history.losses[-1] < history.losses[0], "Its loss did not fall.")

"""Checkers of the exercises of chapter 03_contrastive_baseline."""

import math

import numpy as np
import torch

from medvlp_lite.components.contrastive import cosine_matrix, info_nce
from medvlp_lite.evaluation.classification import auc
from medvlp_lite.notebook import exercise, require


@exercise((list, tuple), "two numbers: (share of the colleague, yours)")
def check_shares(answer: tuple) -> None:
    """How far losses of 3.0 (batch 32) and 4.2 (batch 256) lie below log B, as shares of log B."""
    require(len(answer) == 2, "Two shares are asked for: the colleague's, then yours.")
    require(
        all(0 < share < 1 for share in answer), "A share is 0 at the level of nothing learned and 1 at a loss of zero."
    )
    close = [abs(share - (1 - loss / math.log(b))) < 0.02 for share, loss, b in zip(answer, (3.0, 4.2), (32, 256))]
    require(
        all(close), "Compare each run with its own level of nothing learned: the natural logarithm of its batch size."
    )


@exercise((list, tuple), "two arrays of equal length: (labels, scores)")
def check_unknown(answer: tuple) -> None:
    """Labels with unknowns and scores that look worse once an unknown is stored as 0."""
    require(len(answer) == 2, "Give the labels first, then the scores.")
    labels, scores = (np.asarray(part, dtype=float) for part in answer)
    require(labels.ndim == 1 and labels.shape == scores.shape, "Labels and scores need the same length.")
    require(bool(np.isnan(labels).any()), "Without an unknown label nothing can go wrong.")
    require(auc(labels, scores) == 1.0, "On the known labels the scores must be perfect.")
    require(
        auc(np.nan_to_num(labels), scores) <= 0.7, "Stored as 0, the unknown ones must cost more: who do they outscore?"
    )


def _gap(temperature: float) -> float:
    """Mean similarity of true pairs less that of wrong ones, after the training of the chapter's small encoders."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 4), torch.randn(6, 4)
    image_encoder, text_encoder = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam([*image_encoder.parameters(), *text_encoder.parameters()], lr=0.03)
    for _ in range(400):
        optimizer.zero_grad()
        info_nce(cosine_matrix(image_encoder(x), text_encoder(y)), temperature).backward()
        optimizer.step()
    similarity = cosine_matrix(image_encoder(x), text_encoder(y)).detach()
    wrong = similarity[~torch.eye(6, dtype=torch.bool)]
    return float(similarity.diagonal().mean() - wrong.mean())


@exercise(dict, "a dictionary from temperature to gap")
def check_temperatures(answer: dict) -> None:
    """The gap between true and wrong pairs that trainings at three temperatures leave."""
    require(set(answer) == {0.02, 0.2, 2.0}, "Train at the temperatures 0.02, 0.2 and 2.0.")
    for temperature, gap in answer.items():
        hint = f"At temperature {temperature} the gap differs: the diagonal's mean less the mean of all other entries?"
        require(abs(float(gap) - _gap(temperature)) < 0.02, hint)

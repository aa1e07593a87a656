"""Checkers of the exercises of chapter 04_entity_fusion."""

from collections.abc import Callable

import torch

from medvlp_lite.notebook import exercise, require
from medvlp_lite.phantom import ENTITIES, make_studies
from medvlp_lite.reports import adjacency, entity_labels, extract
from medvlp_lite.reports.vocabulary import vocabulary
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems.medklip import MedKLIP, MedKLIPConfig

REPORT = "Small left effusion. No pneumothorax. Possible consolidation."
LEARNED = 0.6  # an existence loss; equal odds for every entity cost log 2 = .69


@exercise(dict, "a dictionary from entity to label")
def check_taking_part(answer: dict) -> None:
    """Which of four entities take part in the existence loss of ``REPORT``, and with which label."""
    require("nodule" not in answer, "What the report does not mention is unknown, and unknown is left out.")
    require("consolidation" not in answer, "A hedge is neither yes nor no.")
    labels = entity_labels(adjacency(extract(REPORT), ENTITIES))
    known = {name: int(label) for name, label in zip(ENTITIES, labels) if label == label}
    require(
        answer == {name: known[name] for name in ("effusion", "pneumothorax")}, "Two entities remain: what of each?"
    )


@exercise(Callable, "a function from a position name to a name")
def check_mirror_name(answer: Callable) -> None:
    """The name of each of the 51 positions in a mirrored image."""
    names = vocabulary()["positions"]
    swapped = answer("left_pleural") == "right_pleural" and answer("upper_right_lobe") == "upper_left_lobe"
    require(swapped, "Swap left and right, wherever in the name they stand.")
    require(all(answer(name) in names for name in names), "Every answer must be one of the 51 names.")
    require(all(answer(answer(name)) == name for name in names), "Mirroring twice must change nothing.")
    require(answer("heart_size") == "heart_size", "A structure without a side stays.")


@exercise(MedKLIP, "a trained MedKLIP")
@torch.no_grad()
def check_trained(answer: MedKLIP) -> None:
    """A model that asks with names alone, without position loss, and has learned from reports it was trained on."""
    dataset = StudyDataset(make_studies(96, seed=404, size=112), size=112, entities=ENTITIES)
    batch = collate([dataset[index] for index in range(len(dataset))]).to(answer.device)
    losses = answer.eval().loss(batch).terms
    require("position" not in losses, "Its loss still asks for positions.")
    with_descriptions = MedKLIP(answer.tokenizer, MedKLIPConfig(entities=answer.config.entities))
    same = answer.entity_vectors.shape == with_descriptions.entity_vectors.shape and torch.allclose(
        answer.entity_vectors.cpu(), with_descriptions.entity_vectors
    )
    require(not same, "Its queries are still the descriptions.")
    loss = float(losses["existence"])
    require(
        loss < LEARNED, f"Its existence loss on new phantoms is {loss:.2f}; {LEARNED} would show that it has learned."
    )

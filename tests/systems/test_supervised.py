"""Plain networks that are told labels: where the labels come from, and the two heads against slow loops."""

import numpy as np
import pytest
import torch
from small_systems import build, queries

from medvlp_lite.reports.filter import adjacency, extract
from medvlp_lite.studies import collate
from medvlp_lite.systems.medklip import MedKLIP
from medvlp_lite.systems.supervised import Supervised


@pytest.fixture
def batch(dataset):
    return collate([dataset[i] for i in range(6)])


def test_filter_labels_are_what_medklip_is_told(dataset):
    system: Supervised = build("supervised", dataset, labels="filter")
    reports = ["Small left effusion. No nodule.", "Possible edema.", *dataset.reports]
    labels = system.text_inputs(reports, ())["labels"]
    for row, report in zip(labels, reports):
        matrix = adjacency(extract(report), system.config.entities)
        for value, column in zip(row.tolist(), matrix.T):
            stated = column[~np.isnan(column)]
            assert value == stated.max() if len(stated) else np.isnan(value)
    medklip: MedKLIP = build("medklip", dataset, entities=system.config.entities)
    told = medklip.targets(reports).nan_to_num(-1).amax(dim=1)
    assert torch.equal(told == 1, labels == 1) and torch.equal(told == -1, labels.isnan())
    assert build("supervised", dataset).text_inputs(reports, ()) == {}


def test_only_filter_labels_follow_the_report(dataset, batch):
    for labels, follows in (("filter", True), ("truth", False)):
        system = build("supervised", dataset, labels=labels)
        before = system.loss(batch).total
        other = batch.to("cpu")
        other.reports = [f"No {name}." for name in ("effusion", "nodule", "edema", "effusion", "nodule", "edema")]
        assert (system.loss(other).total != before) == follows
        other.reports = ["Rotated patient."] * 6
        assert (system.loss(other).total.item() == 0) == follows, "a report that says nothing teaches nothing"


def test_attention_pooling_equals_the_loop(dataset, batch):
    system: Supervised = build("supervised", dataset, head="attention").double()
    images, asked = batch.images.double(), queries("supervised")
    local = system.image_features(images).flatten(2).detach()
    scores, maps = system.score(images, asked), system.heatmap(images, asked)
    assert torch.allclose(maps.sum(dim=(2, 3)), torch.ones_like(scores))
    for b in range(len(images)):
        for column, query in enumerate(asked):
            e = system.config.entities.index(query.name)
            raw = [(system.attention.weight[e, :, 0, 0] @ cell).item() for cell in local[b].T]
            shares = np.exp(raw) / np.exp(raw).sum()
            pooled = sum(share * cell for share, cell in zip(shares, local[b].T))
            expected = (system.head.weight[e] @ pooled + system.head.bias[e]).item()
            assert scores[b, column].item() == pytest.approx(expected, abs=1e-9)
            assert np.allclose(maps[b, column].detach().flatten(), shares, atol=1e-9)


def test_class_activation_averages_to_the_score(dataset, batch):
    system: Supervised = build("supervised", dataset)
    asked = queries("supervised")
    places = [system.config.entities.index(query.name) for query in asked]
    means = system.heatmap(batch.images, asked).mean(dim=(2, 3)) + system.head.bias[places]
    assert torch.allclose(means, system.score(batch.images, asked), atol=1e-5)


@pytest.mark.parametrize("options", [{"labels": "guess"}, {"head": "queries"}])
def test_unknown_labels_and_heads_are_refused(dataset, options):
    with pytest.raises(ValueError, match="labels are of 'truth' or 'filter', the head is 'linear' or 'attention'"):
        build("supervised", dataset, **options)

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import made_up_studies
from processes import run_two_processes

from medvlp_lite.components import prototype_alignment as pa
from medvlp_lite.components import token_alignment as ta
from medvlp_lite.components.contrastive import info_nce
from medvlp_lite.components.uncertainty_staging import weighted_cross_entropy
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.mskpt import MSKPT, MSKPTConfig
from medvlp_lite.training import TrainingConfig, fit


def staged(count=24, known=True) -> StudyDataset:
    studies = [replace(s, stage=i % 4 if known else None) for i, s in enumerate(made_up_studies(count))]
    return StudyDataset(studies, size=32)


def build(**options) -> MSKPT:
    torch.manual_seed(0)
    tokenizer = ReportTokenizer.train([study.report for study in made_up_studies(24)], 120)
    return MSKPT(tokenizer, MSKPTConfig(**{"image_size": 32, "max_length": 24, "dim": 16, **options})).eval()


@pytest.fixture(scope="module")
def batch():
    data = staged()
    return collate([data[i] for i in range(8)])


def features(system, batch):
    patches = system.local_features(batch.images).flatten(1, 2)
    hidden, mask = system.text_encoder(batch.reports)
    words = F.normalize(system.text_projection(hidden), dim=-1)
    return F.normalize(patches, dim=-1), words[:, 1:], mask[:, 1:]


def test_default_loss_is_the_sum_of_three_alignments(batch):
    system = build()
    losses = system.loss(batch)
    assert set(losses.terms) == {"global", "token", "prototype"}
    images, texts = system.embed_images(batch.images), system.embed_texts(batch.reports)
    expected = {
        "global": info_nce(images @ texts.t(), 0.07),
        "token": ta.token_alignment(*features(system, batch)),
        "prototype": pa.swapped_prediction(images, texts, system.prototypes.vectors),
    }
    for name, value in expected.items():
        assert losses.terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert losses.total.item() == pytest.approx(sum(value.item() for value in expected.values()), rel=1e-5)


def test_weights_scale_their_part_and_zero_leaves_it_out(batch):
    weighted = build(global_weight=2.0, token_weight=0.7, prototype_weight=0.5).loss(batch)
    plain = {name: value.item() for name, value in weighted.terms.items()}
    assert weighted.total.item() == pytest.approx(
        2 * plain["global"] + 0.7 * plain["token"] + 0.5 * plain["prototype"], rel=1e-6
    )
    for name in ("global", "token", "prototype"):
        assert name not in build(**{f"{name}_weight": 0.0}).loss(batch).terms
    assert build(prototype_weight=0.0).prototypes is None


def test_one_prototype_per_stage_is_its_formula(batch):
    system = build(prototypes="class")
    images, texts = system.embed_images(batch.images), system.embed_texts(batch.reports)
    expected = system.prototypes(images, texts, batch.stages).item()
    assert system.loss(batch).terms["prototype"].item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="prototypes must be one of clusters, class, supervised, got 'other'"):
        build(prototypes="other")
    with pytest.raises(ValueError, match="tokens must be one of pair, batch, got 'all'"):
        build(tokens="all")
    with pytest.raises(ValueError, match="nothing aligns images with reports: set global_weight"):
        build(global_weight=0.0, token_weight=0.0, prototype_weight=0.0)


def test_supervised_contrast_and_words_against_other_patients_are_their_formulas(batch):
    system = build(prototypes="supervised", tokens="batch")
    images, texts = system.embed_images(batch.images), system.embed_texts(batch.reports)
    terms = system.loss(batch).terms
    expected = pa.supervised_contrast(images @ texts.t(), pa.same_class(batch.stages), 0.07)
    assert terms["prototype"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["token"].item() == pytest.approx(ta.batch_token_alignment(*features(system, batch)).item(), rel=1e-4)


def test_the_third_loss_is_cross_entropy_weighted_by_certainty(batch):
    system = build(label_weight=0.5)
    maps = system.image_encoder(batch.images)
    logits = system.head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))
    expected = weighted_cross_entropy(logits, batch.stages)
    losses = system.loss(batch)
    assert losses.terms["label"].item() == pytest.approx(expected.item(), rel=1e-5)
    others = sum(value.item() for name, value in losses.terms.items() if name != "label")
    assert losses.total.item() == pytest.approx(others + expected.item() / 2, rel=1e-5)
    assert build().head is None


@pytest.mark.parametrize(
    "options", [{}, {"prototypes": "class"}, {"label_weight": 1.0}, {"global_weight": 0.0, "token_weight": 0.0}]
)
def test_every_trained_parameter_has_a_gradient_even_without_a_stage(batch, options):
    system = build(**options).train()
    system.loss(replace(batch, stages=batch.stages * 0 - 1)).total.backward()
    assert [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_default_first_stage_never_sees_a_stage(batch):
    told, untold = (build().loss(b).total.item() for b in (batch, replace(batch, stages=batch.stages * 0 - 1)))
    assert told == untold


def test_class_prototypes_use_the_labelled_part_only(batch):
    system = build(prototypes="class").train()
    nobody = replace(batch, stages=batch.stages * 0 - 1)
    assert system.loss(nobody).total.isfinite()
    some, other = batch.stages.clone(), batch.stages.clone()
    some[4:], other[4:] = -1, -1
    other[0] = 3
    first, second, everyone = (
        build(prototypes="class").train().loss(replace(batch, stages=chosen)).total.item()
        for chosen in (some, other, batch.stages)
    )
    assert first != pytest.approx(second) and first != pytest.approx(everyone)


def test_asking_and_saving_work_as_for_the_baseline(batch, tmp_path):
    system = build(prototypes="class", token_weight=0.5)
    query = [Query.about("effusion")]
    assert system.local_features(batch.images).shape == (8, 4, 4, 16)
    assert system.heatmap(batch.images, query).shape == (8, 1, 4, 4)
    system.train().loss(batch)
    system.eval().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["system"] == "mskpt"
    again = System.from_pretrained(tmp_path)
    assert isinstance(again, MSKPT) and again.config == system.config
    assert torch.equal(again.prototypes.texts, system.prototypes.texts) and again.prototypes.texts.any()
    assert torch.equal(again.score(batch.images, query), system.score(batch.images, query))


def test_it_learns_and_prototypes_keep_length_one():
    system = build()
    history = fit(system, staged(24), TrainingConfig(25, 12, 2e-3, augment=False), log=None)
    assert np.mean(history.losses[-5:]) < 0.85 * np.mean(history.losses[:5])
    assert system.log_temperature.item() == pytest.approx(np.log(0.07)), "the temperature is fixed"
    assert torch.allclose(system.prototypes.vectors.norm(dim=1), torch.ones(16), atol=1e-2)


TWO_PROCESSES = """
import torch, torch.distributed as dist
from test_mskpt import build, collate, staged
data, ways = staged(), ({}, {"prototypes": "class"})

def run(options, rows):
    system = build(**options)  # in evaluation mode: batch norm differs between processes
    if options:
        system.prototypes.train()
    terms = system.loss(collate([data[i] for i in rows]))
    terms.total.backward()
    return terms.total.detach(), torch.cat([p.grad.flatten() for p in system.parameters() if p.grad is not None])

alone = [run(options, range(8)) for options in ways]
dist.init_process_group("gloo")
rank = dist.get_rank()
for options, (whole, expected) in zip(ways, alone):
    total, gradient = run(options, range(4 * rank, 4 * rank + 4))
    dist.all_reduce(total), dist.all_reduce(gradient)
    say(torch.allclose(total / 2, whole, atol=1e-5), torch.allclose(gradient / 2, expected, atol=1e-4))
dist.destroy_process_group()
"""


def test_two_processes_learn_as_one_with_the_whole_batch(tmp_path):
    assert run_two_processes(TWO_PROCESSES, tmp_path) == ["True True\nTrue True"] * 2

from dataclasses import replace

import numpy as np
import pytest
import torch

from medvlp_lite import experiments
from medvlp_lite.components.uncertainty_staging import (
    bank_logits,
    distillation_loss,
    uncertainty,
    weighted_cross_entropy,
)
from medvlp_lite.evaluation.activation import stage_maps
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems import mskpt_staging
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.convirt import ConVIRT
from medvlp_lite.systems.mskpt_staging import MSKPTStaging, MSKPTStagingConfig
from medvlp_lite.training import TrainingConfig, fit

ALONE = {"text_weight": 0.0, "data_weight": 0.0}


@pytest.fixture(scope="module")
def data():
    return experiments.screening_data(160)


@pytest.fixture(scope="module")
def teacher(data):
    """Any stage-1 system serves; this one aligns whole reports only."""
    torch.manual_seed(0)
    return ConVIRT(data.tokenizer())


def build(teacher, screening, **options):
    torch.manual_seed(1)
    width = teacher.embed_images(torch.zeros(1, 1, 112, 112)).shape[1]
    config = MSKPTStagingConfig(width=width, **options)
    return MSKPTStaging(teacher.tokenizer, config).set_teacher(teacher, screening.train)


def test_half_of_the_images_that_the_student_sees_are_mirrored(teacher, data, monkeypatch):
    monkeypatch.setattr(mskpt_staging, "strong_augment", lambda images: images)
    system, batch = build(teacher, data, **ALONE).train(), batch_of(data.train)
    seen = []
    system.image_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for _ in range(20):
        system.loss(batch)
    mirrored = [torch.equal(one, own.flip(-1)) for part in seen for one, own in zip(part, batch.images)]
    kept = [torch.equal(one, own) for part in seen for one, own in zip(part, batch.images)]
    assert 0.35 < np.mean(mirrored) < 0.65 and np.mean(mirrored) + np.mean(kept) == 1
    system.eval().loss(batch)
    assert torch.equal(seen[-1], batch.images)


def batch_of(dataset, count=12):
    return collate([dataset[i] for i in range(count)])


def test_it_starts_as_a_copy_of_its_teacher_that_learns_alone(teacher, data):
    system = build(teacher, data)
    before = [p.clone() for p in teacher.parameters()]
    for own, other in zip(system.image_encoder.parameters(), teacher.image_encoder.parameters()):
        assert torch.equal(own, other) and own is not other
    fit(system, data.train, TrainingConfig(steps=2, batch_size=8), log=None)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters()))
    assert not [name for name in system.state_dict() if "teacher" in name]


@pytest.mark.parametrize("pooling", ["mean", "mean_max"])
def test_loss_terms_are_the_equations(teacher, data, pooling):
    system, batch = build(teacher, data, gate=False, pooling=pooling).eval(), batch_of(data.train)
    losses = system.loss(batch)
    maps = system.image_encoder(batch.images)
    features = maps.mean((2, 3)) if pooling == "mean" else torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)
    assert torch.allclose(system.stage_logits(maps), system.head(features), atol=1e-6)
    often = torch.bincount(torch.from_numpy(data.train.stages), minlength=4)
    assert torch.allclose(system.class_weights, len(data.train) / (4 * often))
    expected = weighted_cross_entropy(system.head(features), batch.stages, class_weights=system.class_weights)
    assert torch.allclose(losses.terms["labels"], expected)
    for kind, bank in (("text", system.text_bank), ("data", system.data_bank)):
        student = bank_logits(system.projector(features), bank)
        assert torch.allclose(
            losses.terms[kind],
            distillation_loss(student, bank_logits(teacher.embed_images(batch.images), bank)),
            atol=1e-6,
        )
    assert losses.total.item() == pytest.approx(sum(term.item() for term in losses.terms.values()), rel=1e-6)


def test_switches_take_terms_away_or_change_them(teacher, data):
    batch = batch_of(data.train)
    assert set(build(teacher, data, text_weight=0).loss(batch).terms) == {"labels", "data"}
    alone = build(teacher, data, text_weight=0, data_weight=0)
    assert set(alone.loss(batch).terms) == {"labels"} and alone.projector is None
    with pytest.raises(ValueError, match=r"weight must be one of .* got 'mode'"):
        MSKPTStagingConfig(weight="mode")
    with pytest.raises(ValueError, match="pooling must be one of mean, mean_max, got 'max'"):
        MSKPTStagingConfig(pooling="max")
    with pytest.raises(ValueError, match="needs a teacher"):
        MSKPTStaging(teacher.tokenizer).loss(batch)
    with pytest.raises(ValueError, match="set width"):
        MSKPTStaging(teacher.tokenizer, MSKPTStagingConfig(width=7)).set_teacher(teacher, data.train)


def test_the_gate_keeps_what_the_teacher_is_certain_of(teacher, data, monkeypatch):
    batch, system = batch_of(data.train), build(teacher, data).eval()
    seen = teacher.embed_images(batch.images)
    unsure = uncertainty(bank_logits(seen, system.text_bank).softmax(-1))
    theta = unsure.median().item()
    monkeypatch.setattr(mskpt_staging, "THETA", theta)
    assert 0 < (unsure < theta).sum() < len(seen)
    terms, student = system.loss(batch).terms, system.embed_images(batch.images)
    for kind, bank in (("text", system.text_bank), ("data", system.data_bank)):
        answers = [bank_logits(vectors, bank) for vectors in (student, seen)]
        expected = distillation_loss(*answers, keep=unsure < theta)
        assert terms[kind].item() == pytest.approx(expected.item(), rel=1e-4)
    monkeypatch.setattr(mskpt_staging, "THETA", 0.0)
    shut = system.loss(batch).terms
    assert shut["text"].item() == 0 and shut["data"].item() == 0 and shut["labels"].item() > 0


@pytest.mark.parametrize("options", [{}, {"text_weight": 0}, {"text_weight": 0, "data_weight": 0}])
def test_every_parameter_has_a_gradient_though_nothing_is_labelled_or_certain(teacher, data, monkeypatch, options):
    monkeypatch.setattr(mskpt_staging, "THETA", 0.0)
    system, batch = build(teacher, data, **options).train(), batch_of(data.train)
    system.loss(replace(batch, stages=batch.stages * 0 - 1)).total.backward()
    assert [name for name, p in system.named_parameters() if p.grad is None] == []


def test_a_stage_without_a_labelled_study_is_named_before_anything_is_touched(teacher, data):
    fresh = ConVIRT(teacher.tokenizer)
    few = data.train.subset(np.flatnonzero(np.isin(data.train.stages, (0, 2))))
    unknown = StudyDataset([replace(study, stage=None) for study in data.train.studies[:4]], size=112)
    with pytest.raises(ValueError, match="no labelled study of stage I, stage III"):
        MSKPTStaging(teacher.tokenizer).set_teacher(fresh, few)
    with pytest.raises(ValueError, match="no labelled study of stage 0, stage I, stage II, stage III"):
        MSKPTStaging(teacher.tokenizer).set_teacher(fresh, unknown, ["a"] * 4)
    assert fresh.training and all(p.requires_grad for p in fresh.parameters())


def test_the_banks_hold_the_mean_directions_of_reports_and_images(teacher, data):
    system = build(teacher, data)
    rows = np.flatnonzero(data.train.stages == 2)
    with torch.no_grad():
        said = teacher.embed_texts([findings_text(data.train.reports[i]) for i in rows]).mean(0)
        seen = teacher.embed_images(torch.from_numpy(data.train.images[rows]).unsqueeze(1).float() / 255).mean(0)
    assert torch.allclose(system.text_bank[2], said / said.norm(), atol=1e-5)
    assert torch.allclose(system.data_bank[2], seen / seen.norm(), atol=1e-5)
    words = ("No dust disease.", "A few small opacities.", "Many small opacities.", "Large opacities.")
    described = MSKPTStaging(teacher.tokenizer, MSKPTStagingConfig(width=len(said))).set_teacher(
        teacher, data.train, words
    )
    assert torch.allclose(described.text_bank, teacher.embed_texts(words), atol=1e-6)


def test_it_answers_the_common_questions(teacher, data, tmp_path):
    system, images = build(teacher, data).eval(), batch_of(data.test).images
    queries = [Query.about("pneumoconiosis"), Query.about("stage II")]
    scores, p = system.score(images, queries), system.probabilities(images)
    assert torch.allclose(scores[:, 0].sigmoid(), 1 - p[:, 0], atol=1e-5)
    assert torch.allclose(scores[:, 1].exp(), p[:, 2], atol=1e-5)
    head = system.head.weight[:, :128] + system.head.weight[:, 128:]  # of the mean and of the maximum
    weights = torch.stack([head[1:].mean(0) - head[0], head[2]])
    expected = torch.einsum("bchw,qc->bqhw", system.image_encoder(images), weights).relu()
    assert torch.allclose(system.heatmap(images, queries), expected, atol=1e-6)
    assert torch.allclose(system.embed_images(images).norm(dim=1), torch.ones(12), atol=1e-5)
    with pytest.raises(ValueError, match="not 'nodule'"):
        system.score(images, [Query.about("nodule")])
    with pytest.raises(NotImplementedError):
        system.embed_texts(["a"])
    system.save_pretrained(tmp_path)
    again = System.from_pretrained(tmp_path)
    assert torch.equal(again.probabilities(images), p) and again.config == system.config


def test_grad_cam_of_a_pooled_linear_head_is_its_class_activation_map(teacher, data):
    system, part = build(teacher, data).eval(), data.test.subset(range(8))
    maps = stage_maps(system, part, np.full(8, 2))
    images = torch.from_numpy(part.images).unsqueeze(1).float() / 255
    plain = system.heatmap(images, [Query.about("stage II")])[:, 0].detach().numpy()
    assert np.allclose(maps, plain / (14 * 14), atol=1e-6)


def test_a_gate_that_nothing_passes_never_opens_unless_it_waits(teacher, data):
    alone = {"weight": "gate", "text_weight": 0, "data_weight": 0}
    batch = batch_of(data.train)
    shut = build(teacher, data, **alone).train()
    shut.head.weight.data.zero_()  # every answer is uniform: u = 0.75
    assert shut.loss(batch).total.item() == 0
    patient = build(teacher, data, patience=1, **alone).train()
    patient.head.weight.data.zero_()
    assert [patient.loss(batch).total.item() > 0 for _ in range(2)] == [True, False]

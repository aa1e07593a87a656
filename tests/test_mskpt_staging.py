from dataclasses import replace

import numpy as np
import pytest
import torch
from medvlp_lite.experiments.stages import stage_data, stages

from medvlp_lite import experiments
from medvlp_lite.components.uncertainty_staging import (
    bank_logits,
    distillation_loss,
    uncertainty,
    weighted_cross_entropy,
)
from medvlp_lite.evaluation.staging import conformal_p_values, stage_probabilities
from medvlp_lite.experiments import staging
from medvlp_lite.reports.sections import findings_text
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.convirt import ConVIRT
from medvlp_lite.systems.mskpt_staging import MSKPTStaging
from medvlp_lite.training import TrainingConfig, fit

TINY = experiments.Profile(studies=160, steps=10, batch_size=16, seeds=1)


@pytest.fixture(scope="module")
def data():
    return stage_data(TINY)


@pytest.fixture(scope="module")
def teacher(data):
    """Any stage-1 system serves; this one aligns whole reports only."""
    torch.manual_seed(0)
    return ConVIRT(data.tokenizer(), image_size=112)


def build(teacher, screening, **options):
    torch.manual_seed(1)
    width = teacher.embed_images(torch.zeros(1, 1, 112, 112)).shape[1]
    return MSKPTStaging(teacher.tokenizer, width=width, **options).prepare(teacher, screening.train)


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
    assert system.config["start"].startswith("convirt ")


def test_loss_terms_are_the_equations(teacher, data):
    system, batch = build(teacher, data, gate=False).eval(), batch_of(data.train)
    losses = system.loss(batch)
    features = system.image_encoder(batch.images).mean((2, 3))
    expected = weighted_cross_entropy(system.head(features), batch.stages)
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
    hint = build(teacher, data, data="hint").eval().loss(batch).terms["data"]
    assert 0 <= hint.item() <= 2
    for kind in ("bank", "hint"):
        shut = build(teacher, data, theta=0.0, data=kind).eval().loss(batch).terms
        assert shut["text"].item() == 0 and shut["data"].item() == 0 and shut["labels"].item() > 0
    for option in ("weight", "score", "data", "decide"):
        with pytest.raises(ValueError, match=f"{option} must be one of .* got 'mode'"):
            MSKPTStaging(teacher.tokenizer, **{option: "mode"})
    for decide in ("bank", "mean"):
        with pytest.raises(ValueError, match="set text_weight or data_weight above 0, or decide='head'"):
            MSKPTStaging(teacher.tokenizer, text_weight=0, data_weight=0, decide=decide)
    with pytest.raises(ValueError, match="needs a teacher"):
        MSKPTStaging(teacher.tokenizer).loss(batch)
    with pytest.raises(ValueError, match="set width"):
        MSKPTStaging(teacher.tokenizer, width=7).prepare(teacher, data.train)


def test_the_gate_asks_the_doubt_that_score_names(teacher, data):
    batch = batch_of(data.train)
    seen = teacher.embed_images(batch.images)
    for score in ("max", "entropy"):
        system = build(teacher, data, score=score, data="hint").eval()
        unsure = uncertainty(bank_logits(seen, system.text_bank).softmax(-1), score)
        system.config["theta"] = theta = unsure.median().item()
        student = system.embed_images(batch.images)
        hints = [1 - (a @ b).item() for a, b, u in zip(student, seen, unsure) if u < theta]
        assert 0 < len(hints) < len(seen)
        terms = system.loss(batch).terms
        assert terms["data"].item() == pytest.approx(np.mean(hints), abs=1e-5)
        answers = [bank_logits(vectors, system.text_bank) for vectors in (student, seen)]
        expected = distillation_loss(*answers, keep=unsure < theta)
        assert terms["text"].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"data": "hint", "text_weight": 0}, {"text_weight": 0, "data_weight": 0}])
def test_every_parameter_has_a_gradient_though_nothing_is_labelled_or_sure(teacher, data, options):
    system, batch = build(teacher, data, theta=0.0, **options).train(), batch_of(data.train)
    system.loss(replace(batch, stages=batch.stages * 0 - 1)).total.backward()
    assert [name for name, p in system.named_parameters() if p.grad is None] == []


def test_a_stage_without_a_labelled_study_is_named_before_anything_is_touched(teacher, data):
    fresh = ConVIRT(teacher.tokenizer, image_size=112)
    few = data.train.subset(np.flatnonzero(np.isin(stages(data.train), (0, 2))))
    unknown = StudyDataset([replace(study, stage=None) for study in data.train.studies[:4]], size=112)
    with pytest.raises(ValueError, match="no labelled study of stage I, stage III"):
        MSKPTStaging(teacher.tokenizer).prepare(fresh, few)
    with pytest.raises(ValueError, match="no labelled study of stage 0, stage I, stage II, stage III"):
        MSKPTStaging(teacher.tokenizer).prepare(fresh, unknown, ["a"] * 4)
    assert fresh.training and all(p.requires_grad for p in fresh.parameters())


def test_the_banks_hold_the_mean_directions_of_reports_and_images(teacher, data):
    system = build(teacher, data)
    rows = np.flatnonzero(stages(data.train) == 2)
    with torch.no_grad():
        said = teacher.embed_texts([findings_text(data.train.reports[i]) for i in rows]).mean(0)
        seen = teacher.embed_images(torch.from_numpy(data.train.images[rows]).unsqueeze(1).float() / 255).mean(0)
    assert torch.allclose(system.text_bank[2], said / said.norm(), atol=1e-5)
    assert torch.allclose(system.data_bank[2], seen / seen.norm(), atol=1e-5)
    words = ("No dust disease.", "A few small opacities.", "Many small opacities.", "Large opacities.")
    described = MSKPTStaging(teacher.tokenizer, width=len(said)).prepare(teacher, data.train, words)
    assert torch.allclose(described.text_bank, teacher.embed_texts(words), atol=1e-6)


def test_answers_by_head_bank_and_mean(teacher, data):
    images = batch_of(data.test).images
    found = {
        decide: build(teacher, data, decide=decide).eval().probabilities(images) for decide in ("head", "bank", "mean")
    }
    assert torch.allclose(found["mean"], (found["head"] + found["bank"]) / 2)
    for probabilities in found.values():
        assert torch.allclose(probabilities.sum(1), torch.ones(12), atol=1e-5)


def test_it_answers_the_common_questions(teacher, data, tmp_path):
    system, images = build(teacher, data).eval(), batch_of(data.test).images
    queries = [Query.about("pneumoconiosis"), Query.about("stage II")]
    scores, p = system.score(images, queries), system.probabilities(images)
    assert torch.allclose(scores[:, 0].sigmoid(), 1 - p[:, 0], atol=1e-5)
    assert torch.allclose(scores[:, 1].exp(), p[:, 2], atol=1e-5)
    weights = torch.stack([system.head.weight[1:].mean(0) - system.head.weight[0], system.head.weight[2]])
    expected = torch.einsum("bchw,qc->bqhw", system.image_encoder(images), weights).relu()
    assert torch.allclose(system.heatmap(images, queries), expected, atol=1e-6)
    assert torch.allclose(system.embed_images(images).norm(dim=1), torch.ones(12), atol=1e-5)
    with pytest.raises(ValueError, match="not 'nodule'"):
        system.score(images, [Query.about("nodule")])
    with pytest.raises(NotImplementedError):
        system.embed_texts(["a"])
    system.save_pretrained(tmp_path)
    again = System.from_pretrained(tmp_path)
    assert torch.equal(again.probabilities(images), p) and again.config["start"] == system.config["start"]


def test_grad_cam_of_a_pooled_linear_head_is_its_class_activation_map(teacher, data):
    system, part = build(teacher, data).eval(), data.test.subset(range(8))
    maps = staging.stage_maps(system, part, np.full(8, 2))
    images = torch.from_numpy(part.images).unsqueeze(1).float() / 255
    plain = system.heatmap(images, [Query.about("stage II")])[:, 0].detach().numpy()
    assert np.allclose(maps, plain / (14 * 14), atol=1e-6)


def test_fewer_labels_are_a_part_of_more_and_every_stage_keeps_some(data):
    truth = stages(data.train)
    shares = {f: stages(staging.with_labels(data.train, f, seed=3)) for f in (0.05, 0.25, 0.5, 1.0)}
    for fraction, given in shares.items():
        assert ((given == truth) | (given == -1)).all() and set(given) >= {0, 1, 2, 3}
        assert np.mean(given >= 0) == pytest.approx(fraction, abs=0.03)
    assert (shares[0.5][shares[0.25] >= 0] >= 0).all() and (shares[1.0] == truth).all()
    with pytest.raises(ValueError, match="need 0 < fraction"):
        staging.with_labels(data.train, 0)


def test_noise_moves_labels_to_a_neighbour(data):
    truth = stages(data.train)
    noisy = stages(staging.with_labels(data.train, 1.0, 0.4, seed=0))
    assert np.mean(noisy != truth) == pytest.approx(0.4, abs=0.12)
    assert np.abs(noisy - truth).max() == 1 and noisy.min() >= 0 and noisy.max() <= 3
    assert {(a, b) for a, b in zip(truth, noisy) if a != b} == {(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)}


def test_the_staging_table_runs_and_measures_on_the_test_part(data, teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path))
    seen = []

    def stage_one(name, *_):
        seen.append(name)
        return teacher, None

    monkeypatch.setattr(staging, "train_system", stage_one)
    labels = []
    for recipe in (staging.Recipe(fraction=0.25), staging.Recipe(None, options=staging.PLAIN)):
        system, history = staging.train_staging(recipe, data, TINY, 0, None)
        assert history.source == "trained" and len(history.losses) == 5
        assert staging.train_staging(recipe, data, TINY, 0, None)[1].source == "cached"
        labels.append(system.config["labels"])
    assert seen == ["mskpt", "mskpt"]
    assert labels == ["25%, 0% of them wrong", "100%, 0% of them wrong"], "part of what names a system in the cache"
    found = staging.measure_staging(system, data)
    assert 0 <= found["scores"]["mean"] <= 1 and sum(map(sum, found["confusion"])) == len(data.test)
    assert set(found["doubt"]) == {"max", "normalised", "entropy", "margin", "conformal"}
    kept = found["doubt"]["max"]["accuracy_kept"]
    assert kept["100%"] == pytest.approx(found["scores"]["accuracy"])
    assert found["doubt"]["max"]["aurc"] == pytest.approx(found["doubt"]["normalised"]["aurc"])
    assert found["theta"]["coverage"]["val"]["coverage"] == pytest.approx(0.8, abs=0.1)
    val = stages(data.val), stage_probabilities(system, data.val)
    answers = stage_probabilities(system, data.test)
    second = np.sort(conformal_p_values(val, answers), axis=1)[:, -2]
    assert np.array_equal(staging.doubts(val, answers)["conformal"], second)
    assert found["grad_cam"]["count"] > 0 and 0 < found["grad_cam"]["uniform"] < 0.6
    assert stage_probabilities(system, data.test).shape == (len(data.test), 4)
    monkeypatch.setattr(staging.st, "most_confused", lambda counts: None)
    assert staging.measure_staging(system, data)["most_confused"] is None, "every answer was right"


def test_a_gate_that_nothing_passes_never_opens_unless_it_waits(teacher, data):
    alone = {"weight": "gate", "text_weight": 0, "data_weight": 0}
    batch = batch_of(data.train)
    shut = build(teacher, data, **alone).train()
    shut.head.weight.data.zero_()  # every answer is uniform: u = 0.75
    assert shut.loss(batch).total.item() == 0
    patient = build(teacher, data, patience=1, **alone).train()
    patient.head.weight.data.zero_()
    assert [patient.loss(batch).total.item() > 0 for _ in range(2)] == [True, False]


def test_ones_own_studies_become_the_three_parts(data):
    studies = [replace(study, meta={}) for study in (*data.train.studies[:60], *data.val.studies, *data.test.studies)]
    own = staging.split_custom(studies)
    assert len(own.train) + len(own.val) + len(own.test) == len(studies) and own.train.entities == ("pneumoconiosis",)
    names = ["train"] * 60 + ["val"] * len(data.val) + ["test"] * len(data.test)
    named = [replace(study, meta={"split": name}) for study, name in zip(studies, names)]
    named[-1], named[0] = replace(named[-1], stage=None), replace(named[0], stage=None)
    parts = staging.split_custom(named)
    assert len(parts.train) == 60 and len(parts.test) == len(data.test) - 1, "without stage: in training only"
    with pytest.raises(ValueError, match="no patient of another"):
        staging.split_custom([*named, replace(named[1], study_id="again", meta={"split": "test"})])
    with pytest.raises(ValueError, match="no study of stage 3"):
        staging.split_custom([study for study in named if study.stage != 3])


REFERENCES = [name for name in experiments.RECIPES if (experiments.WEIGHTS / name).is_dir()]


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_weights_stage_new_phantoms_better_than_the_most_frequent_stage(name):
    from medvlp_lite.experiments.stages import STAGE_SHARES

    from medvlp_lite.evaluation.staging import stage_scores
    from medvlp_lite.phantom import make_studies

    fresh = StudyDataset(make_studies(160, seed=12, size=112, prevalence=0.08, stage_prevalence=STAGE_SHARES), size=112)
    scores = stage_scores(stages(fresh), stage_probabilities(experiments.load_pretrained(name), fresh))
    assert scores.accuracy > np.bincount(stages(fresh)).max() / len(fresh) and scores.auc > 0.65

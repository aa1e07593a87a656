import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import made_up_studies

from medvlp_lite.components import prototype_alignment as pa
from medvlp_lite.components import token_alignment as ta
from medvlp_lite.components.contrastive import info_nce, nt_xent
from medvlp_lite.components.uncertainty_staging import weighted_cross_entropy
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.mskpt import MSKPT
from medvlp_lite.training import TrainingConfig, fit


def staged(count=24, known=True) -> StudyDataset:
    studies = [replace(s, stage=i % 4 if known else None) for i, s in enumerate(made_up_studies(count))]
    return StudyDataset(studies, size=32)


def build(**options) -> MSKPT:
    torch.manual_seed(0)
    tokenizer = ReportTokenizer.train([study.report for study in made_up_studies(24)], 120)
    return MSKPT(tokenizer, **{"image_size": 32, "max_length": 24, "dim": 16, "n_proto": 4, **options}).eval()


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


def test_every_switch_is_its_formula(batch):
    images, texts = (lambda s: (s.embed_images(batch.images), s.embed_texts(batch.reports)))(build())
    positives = pa.same_class(batch.stages)

    def term(name, **options):
        return build(**options).loss(batch).terms[name].item()

    assert term("global", gra="ntxent") == pytest.approx(nt_xent(images, texts).item(), rel=1e-5)
    supcon = pa.supervised_contrast(images @ texts.t(), positives).item()
    assert term("global", gra="supcon") == pytest.approx(supcon, rel=1e-5)
    supcon = pa.supervised_contrast(images @ texts.t(), positives, 0.2).item()
    assert term("prototype", pa="supcon") == pytest.approx(supcon, rel=1e-5)
    tokens = features(build(), batch)
    sparse = ta.token_alignment(*tokens, grouping="sparse").item()
    assert term("token", grouping="sparse") == pytest.approx(sparse, rel=1e-5)
    across = ta.batch_token_alignment(*tokens).item()
    assert term("token", ta="batch") == pytest.approx(across, rel=1e-5)
    labelled = ta.batch_token_alignment(*tokens, positives=positives).item()
    assert term("token", ta="batch_labels") == pytest.approx(labelled, rel=1e-5)
    pooled = F.normalize(tokens[0].mean(1), dim=-1), F.normalize((tokens[1] * tokens[2][..., None]).sum(1), dim=-1)
    intra = ta.intra_modal_loss(*pooled).item()
    assert term("intra", intra_weight=1.0) == pytest.approx(intra, rel=1e-4)
    assert term("intra", intra_weight=1.0, token_temperature=0.2) == pytest.approx(
        ta.intra_modal_loss(*pooled, temperature=0.2).item(), rel=1e-4
    )
    assert term("token", word_weights="attention") != pytest.approx(term("token"), rel=1e-6)
    system = build(staging_weight=1.0)
    logits = system.head(system.image_encoder(batch.images).mean(dim=(2, 3)))
    assert system.loss(batch).terms["staging"].item() == pytest.approx(
        weighted_cross_entropy(logits, batch.stages).item(), rel=1e-5
    )
    for option in ("gra", "ta", "word_weights", "pa", "grouping"):
        with pytest.raises(ValueError, match=f"{option} must be one of"):
            build(**{option: "other"})
    nothing = {"global_weight": 0.0, "token_weight": 0.0, "prototype_weight": 0.0}
    for staging_weight in (0.0, 1.0):
        with pytest.raises(ValueError, match="nothing aligns images with reports: set global_weight"):
            build(**nothing, staging_weight=staging_weight)
    assert set(build(**nothing, intra_weight=1.0).loss(batch).terms) == {"intra"}


def test_word_weights_are_attention_from_the_class_token(batch):
    system = build(word_weights="attention")
    hidden, mask, heard = system._read(batch.reports)
    assert all(map(torch.equal, (hidden, mask), system.text_encoder(batch.reports)))
    assert heard.shape == (8, mask.shape[1] - 1) and (heard[~mask[:, 1:]] == 0).all()
    assert (heard.sum(dim=1) < 1).all(), "the rest of the row is what [CLS] gives itself"
    passes = []
    system.text_encoder.bert.register_forward_hook(lambda *_: passes.append(1))
    system.train().loss(batch)
    assert len(passes) == 1, "a second pass would draw another dropout"


@pytest.mark.parametrize("options", [{}, {"pa": "class"}, {"word_weights": "attention"}, {"global_weight": 0.0, "token_weight": 0.0, "staging_weight": 1.0}])  # fmt: skip
def test_every_trained_parameter_has_a_gradient_even_without_a_stage(batch, options):
    system = build(**options).train()
    system.loss(replace(batch, stages=batch.stages * 0 - 1)).total.backward()
    assert [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("options", [{}, {"pa": "clusters", "ta": "batch"}, {"gra": "ntxent", "intra_weight": 1.0}])
def test_the_default_first_stage_never_sees_a_stage(batch, options):
    told, untold = (build(**options).loss(b).total.item() for b in (batch, replace(batch, stages=batch.stages * 0 - 1)))
    assert told == untold


@pytest.mark.parametrize("options", [{"pa": "class"}, {"pa": "supcon"}, {"gra": "supcon"}, {"staging_weight": 1.0}])
def test_forms_with_labels_use_the_labelled_part_only(batch, options):
    system = build(**options).train()
    nobody = replace(batch, stages=batch.stages * 0 - 1)
    assert system.loss(nobody).total.isfinite()
    some, other = batch.stages.clone(), batch.stages.clone()
    some[4:], other[4:] = -1, -1
    other[0] = 3
    first, second, everyone = (
        build(**options).train().loss(replace(batch, stages=chosen)).total.item()
        for chosen in (some, other, batch.stages)
    )
    assert first != pytest.approx(second) and first != pytest.approx(everyone)


def test_asking_and_saving_work_as_for_the_baseline(batch, tmp_path):
    system = build(pa="class", staging_weight=0.5, token_temperature=0.2)
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
    system = build(n_proto=8)
    history = fit(system, staged(24), TrainingConfig(25, 12, 2e-3, augment=False), log=None)
    assert np.mean(history.losses[-5:]) < 0.85 * np.mean(history.losses[:5])
    assert system.log_temperature.item() == pytest.approx(np.log(0.07)), "the temperature is fixed"
    assert torch.allclose(system.prototypes.vectors.norm(dim=1), torch.ones(8), atol=1e-2)


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[3])
from test_mskpt import build, collate, staged
rank, data = int(sys.argv[2]), staged()
SWITCHES = [{}, {"pa": "class"}, {"gra": "ntxent", "pa": "supcon"}, {"gra": "supcon", "ta": "batch_labels", "intra_weight": 1.0}]
def run(options, rows):
    system = build(**options)  # in evaluation mode: batch norm and dropout differ between processes
    if options.get("pa") == "class":
        system.prototypes.train()
    terms = system.loss(collate([data[i] for i in rows]))
    terms.total.backward()
    return terms, torch.cat([p.grad.flatten() for p in system.parameters() if p.grad is not None])
alone = [run(options, range(8)) for options in SWITCHES] if rank == 0 else []
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
for place, options in enumerate(SWITCHES):
    terms, gradient = run(options, range(4 * rank, 4 * rank + 4))
    total = terms.total.detach().clone()
    dist.all_reduce(total), dist.all_reduce(gradient)
    if rank == 0:
        assert torch.allclose(total / 2, alone[place][0].total, atol=1e-5), options
        assert torch.allclose(gradient / 2, alone[place][1], atol=1e-4), options
dist.destroy_process_group()
"""


def test_two_processes_learn_as_one_with_the_whole_batch(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "two.py"), str(tmp_path / "meet")]
    tests = str(Path(__file__).parent)
    workers = [subprocess.Popen([*command, str(rank), tests], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    errors = [worker.communicate(timeout=180)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors

import ast
import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import WORDS
from processes import run_two_processes
from small_systems import BUILDERS, build, queries

import medvlp_lite
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import collate
from medvlp_lite.systems.base import LossTerms, Query, System
from medvlp_lite.systems.supervised import SupervisedConfig

SYSTEMS = sorted(System.registry)
ASKED = [name for name in SYSTEMS if name != "unimodal"]  # the shared start answers no question
WEIGHTS = sorted(path.parent for path in (Path(medvlp_lite.__file__).parent / "weights").glob("*/config.json"))


@pytest.fixture(params=SYSTEMS)
def system(request, dataset):
    return build(request.param, dataset)


@pytest.fixture(params=ASKED)
def asked_system(request, dataset):
    return build(request.param, dataset)


def test_all_systems_are_registered_and_an_unknown_one_is_not_built(dataset):
    assert len(SYSTEMS) >= 7 and sorted(BUILDERS) == SYSTEMS
    with pytest.raises(KeyError, match="nobody"):
        build("nobody", dataset)


def test_every_system_keeps_the_one_interface(system, dataset):
    batch, asked = collate([dataset[i] for i in range(6)]), queries(system.name)
    losses = system.loss(batch)
    assert losses.total.ndim == 0 and losses.total.isfinite()
    vectors = system.embed_images(batch.images)
    assert vectors.ndim == 2 and torch.allclose(vectors.norm(dim=1), torch.ones(6), atol=1e-5)
    if system.name in ("staging", "supervised"):
        with pytest.raises(NotImplementedError, match="reads no text"):
            system.embed_texts(["Small effusion."])
    else:
        texts = system.embed_texts(["Small effusion.", "No nodule."])
        assert texts.shape[0] == 2 and torch.allclose(texts.norm(dim=1), torch.ones(2), atol=1e-5)
    if system.name not in ASKED:
        with pytest.raises(NotImplementedError, match="cannot be asked"):
            system.score(batch.images, asked)
        return
    assert system.score(batch.images, asked).shape == (6, 3)
    heat = system.heatmap(batch.images, asked)
    assert heat.shape[:2] == (6, 3) and heat.shape[2] == heat.shape[3] == 4


def test_a_batch_that_brings_its_inputs_has_the_same_loss(system, dataset):
    read = dataset.with_inputs(system.text_inputs(dataset.reports, dataset.findings))
    rows, losses = [3, 1, 8, 10], []
    for data in (read, dataset, read.subset([10, 8, 3, 1])):
        torch.manual_seed(0)
        places = rows if len(data) > 4 else [2, 3, 1, 0]
        losses.append(system.loss(collate([data[i] for i in places])).total)
    assert torch.allclose(losses[0], losses[1], atol=1e-5) and torch.allclose(losses[0], losses[2], atol=1e-5)


def test_scores_follow_their_query_and_their_image(asked_system, dataset):
    images, asked = collate([dataset[i] for i in range(4)]).images, queries(asked_system.name)
    scores = asked_system.score(images, asked)
    assert torch.allclose(asked_system.score(images, asked[::-1]), scores.flip(1), atol=1e-5)
    assert torch.allclose(asked_system.score(images.flip(0), asked), scores.flip(0), atol=1e-5)


def test_saved_and_read_again_it_answers_the_same(asked_system, dataset, tmp_path):
    images, asked = collate([dataset[i] for i in range(4)]).images, queries(asked_system.name)
    asked_system.save_pretrained(tmp_path / "saved")
    assert not [p for p in (tmp_path / "saved").iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    again = System.from_pretrained(tmp_path / "saved")
    assert type(again) is type(asked_system) and again.config == asked_system.config
    assert torch.equal(again.score(images, asked), asked_system.score(images, asked))


def test_a_damaged_folder_is_refused_by_file(dataset, tmp_path):
    system = build("convirt", dataset)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        System.from_pretrained(tmp_path)
    system.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit"):
        System.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "surprise": 1}))
    with pytest.raises(ValueError, match=r"config\.json has options that ConVIRTConfig does not know: surprise"):
        System.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "system": "nobody"}))
    with pytest.raises(ValueError, match="does not describe a System"):
        System.from_pretrained(tmp_path)


def test_a_write_that_fails_leaves_what_was_saved_before(dataset, tmp_path, monkeypatch):
    import safetensors.torch

    system = build("convirt", dataset)
    system.save_pretrained(tmp_path / "saved")
    before = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}

    def half(model, filename):
        Path(filename).write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_model", half)
    for name in ("saved", "other"):
        with pytest.raises(OSError, match="No space left"):
            system.save_pretrained(tmp_path / name)
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"], "nothing half written stays behind"


FRESH = """
import json, sys
from medvlp_lite.systems.base import System
found = {}
for folder in sys.argv[1:]:
    try:
        found[folder] = System.from_pretrained(folder).name
    except Exception as error:
        found[folder] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def read_elsewhere() -> dict[str, str]:
    command = [sys.executable, "-c", FRESH, *map(str, WEIGHTS)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("folder", WEIGHTS, ids=lambda path: path.name)
def test_committed_weights_are_read_in_a_process_that_imported_no_system(folder, read_elsewhere):
    assert read_elsewhere[str(folder)] == json.loads((folder / "config.json").read_text())["system"]


READING = {"findings_text", "extract", "tokenizer", "ids", "reported_labels", "true_labels", "text_inputs", "sections"}


def used(function: ast.AST) -> set[str]:
    """Names that a function calls, and attributes that it reads: a property is a call too."""
    names = {n.func.id for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    calls = {n.func.attr for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    return (
        names | calls | {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)} - ({"tokenizer"} - calls)
    )


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_loss_cleans_cuts_or_filters_text(name):
    own = {}
    for kind in reversed(System.registry[name].__mro__):
        if kind.__module__.startswith("medvlp_lite.systems"):
            for node in ast.walk(ast.parse(inspect.getsource(sys.modules[kind.__module__]))):
                if isinstance(node, ast.FunctionDef):
                    own[node.name] = used(node)
    assert (own["compute_loss"] and own["text_inputs"] & READING) or name in ("staging", "supervised")
    reached, left = set(), {"compute_loss"}
    while left:
        step = left.pop()
        reached.add(step)
        left |= (own[step] & set(own)) - reached - {"loss", "forward", "add"}  # add: of labels that are new; see below
    said = {step: own[step] & READING for step in reached if own[step] & READING}
    assert not said, f"{name} reads reports inside its loss: {said}"


def test_a_loss_runs_where_no_text_can_be_cut_into_pieces(system, dataset, monkeypatch):
    read = dataset.with_inputs(system.text_inputs(dataset.reports, dataset.findings))

    def refuse(*_):
        raise AssertionError("a loss cuts text into pieces")

    monkeypatch.setattr(ReportTokenizer, "__call__", refuse)
    batch = collate([read[i] for i in range(6)])
    assert system.train().loss(replace(batch, reports=[None] * 6, findings=[None] * 6)).total.isfinite()


def test_loss_terms_weigh_and_add():
    terms = LossTerms({"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"b": 0.5})
    assert terms.total.item() == 3.5


def test_convirt_heat_map_averages_to_a_score_and_temperature_is_bounded(dataset):
    system = build("convirt", dataset)
    with torch.no_grad():
        system.log_temperature.fill_(-20)
    assert system.temperature.item() == pytest.approx(0.01)
    assert system.embed_texts(["No effusion.", "Edema."]).norm(dim=1).allclose(torch.ones(2), atol=1e-5)


def test_convirt_gradient_reaches_every_part(dataset):
    system = build("convirt", dataset).train()
    system.loss(collate([dataset[i] for i in range(8)])).total.backward()
    silent = [name for name, p in system.named_parameters() if p.grad is None]
    assert not silent, silent


def test_supervised_ignores_unknown_and_refuses_the_unknown_query(dataset):
    system = build("supervised", dataset)
    batch = collate([dataset[i] for i in range(8)])
    known = ~batch.labels.isnan()
    logits = system.head(system.image_encoder(batch.images).mean(dim=(2, 3)))
    total = sum(
        torch.log1p(torch.exp(-logits[i, j] if batch.labels[i, j] == 1 else logits[i, j]))
        for i, j in known.nonzero().tolist()
    )
    assert torch.isclose(system.loss(batch).total, total / known.sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="not built for hernia"):
        system.score(batch.images, [Query.about("hernia")])
    assert set(WORDS) == set(dataset.entities) and SupervisedConfig(WORDS).image_size == 112


CONTRAST = """
import torch
from torch.nn.parallel import DistributedDataParallel
from conftest import made_up_studies
from small_systems import build
from medvlp_lite.studies import StudyDataset, collate
torch.distributed.init_process_group("gloo")
rank, data = torch.distributed.get_rank(), StudyDataset(made_up_studies(8), size=32)
system = build("convirt", data)
shared = DistributedDataParallel(system)
total = shared(collate([data[i] for i in range(4 * rank, 4 * rank + 4)])).total
total.backward()
gradient = system.text_projection.weight.grad.clone()
torch.distributed.destroy_process_group()
whole = build("convirt", data)
alone = whole.loss(collate([data[i] for i in range(8)])).total
alone.backward()
say(torch.allclose(total, alone, atol=1e-5), torch.allclose(gradient, whole.text_projection.weight.grad, atol=1e-6))
"""


def test_two_processes_make_the_update_of_one_large_batch(tmp_path):
    assert run_two_processes(CONTRAST, tmp_path) == ["True True", "True True"]

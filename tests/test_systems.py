import json

import pytest
import torch
from conftest import WORDS

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import collate
from medvlp_lite.systems.base import LossTerms, Query, System
from medvlp_lite.systems.convirt import ConVIRT
from medvlp_lite.systems.medklip import MedKLIP
from medvlp_lite.systems.supervised import Supervised


def build(name: str, dataset) -> System:
    torch.manual_seed(0)
    tokenizer = ReportTokenizer.train(dataset.reports, 120)
    if name == "convirt":
        return ConVIRT(tokenizer, image_size=32, max_length=24, dim=16).eval()
    if name == "medklip":
        return MedKLIP(tokenizer, entities=WORDS, image_size=32, width=16, heads=2, feedforward=16).eval()
    return Supervised(tokenizer, entities=dataset.entities, image_size=32).eval()


@pytest.fixture(params=sorted(System.registry))
def system(request, dataset):
    return build(request.param, dataset)


QUERIES = [Query.about("effusion"), Query.about("nodule"), Query.about("edema")]


def test_every_system_keeps_the_one_interface(system, dataset):
    batch = collate([dataset[i] for i in range(6)])
    losses = system.loss(batch)
    assert losses.total.ndim == 0 and losses.total.isfinite()
    vectors = system.embed_images(batch.images)
    assert vectors.ndim == 2 and torch.allclose(vectors.norm(dim=1), torch.ones(6), atol=1e-5)
    assert system.score(batch.images, QUERIES).shape == (6, 3)
    heat = system.heatmap(batch.images, QUERIES)
    assert heat.shape[:2] == (6, 3) and heat.shape[2] == heat.shape[3] == 4


def test_scores_follow_their_query_and_their_image(system, dataset):
    images = collate([dataset[i] for i in range(4)]).images
    scores = system.score(images, QUERIES)
    assert torch.allclose(system.score(images, QUERIES[::-1]), scores.flip(1), atol=1e-5)
    assert torch.allclose(system.score(images.flip(0), QUERIES), scores.flip(0), atol=1e-5)


def test_saved_and_read_again_it_answers_the_same(system, dataset, tmp_path):
    images = collate([dataset[i] for i in range(4)]).images
    system.save_pretrained(tmp_path / "saved")
    assert not [p for p in (tmp_path / "saved").iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    again = System.from_pretrained(tmp_path / "saved")
    assert type(again) is type(system)
    assert torch.equal(again.score(images, QUERIES), system.score(images, QUERIES))


def test_a_damaged_folder_is_refused_by_file(system, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        System.from_pretrained(tmp_path)
    system.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit"):
        System.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "system": "nobody"}))
    with pytest.raises(ValueError, match="does not describe a System"):
        System.from_pretrained(tmp_path)


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
    assert set(WORDS) == set(dataset.entities)

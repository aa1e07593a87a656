import shutil
from pathlib import Path

import pytest
import torch
from conftest import made_up_studies
from test_training import CONFIG, build, mean_score, same_weights

from medvlp_lite import cache
from medvlp_lite.cache import train_or_load
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.convirt import ConVIRT
from medvlp_lite.training import TrainingConfig, fit


def test_cache_answers_only_for_the_same_config_data_and_source(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path))
    said = []
    make = lambda: build(dataset)  # noqa: E731
    first, history = train_or_load(make, dataset, CONFIG, log=said.append)
    again, cached = train_or_load(make, dataset, CONFIG, log=said.append)
    assert (history.source, cached.source) == ("trained", "cached") and same_weights(first, again)
    assert cached.losses == history.losses and said[-1].startswith("loaded convirt")
    assert train_or_load(make, dataset, TrainingConfig(steps=2, batch_size=6), log=None)[1].source == "trained"
    other = StudyDataset(made_up_studies(20, seed=5), size=32)
    assert train_or_load(make, other, CONFIG, log=None)[1].source == "trained"
    monkeypatch.setattr(cache, "source_fingerprint", lambda: "the library has changed")
    assert train_or_load(make, dataset, CONFIG, log=None)[1].source == "trained"


def test_a_system_that_starts_elsewhere_is_another_one(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path))

    def elsewhere():
        system = build(dataset)
        torch.nn.init.zeros_(system.image_projection.bias)
        return system

    train_or_load(lambda: build(dataset), dataset, CONFIG, log=None)
    assert train_or_load(elsewhere, dataset, CONFIG, log=None)[1].source == "trained"


def test_a_validated_run_is_another_run_in_the_cache(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path))
    make = lambda: build(dataset)  # noqa: E731
    assert not train_or_load(make, dataset, CONFIG, log=None)[1].validation
    first = train_or_load(make, dataset, CONFIG, log=None, validate=mean_score)[1]
    cached = train_or_load(make, dataset, CONFIG, log=None, validate=mean_score)[1]
    assert (first.source, cached.source) == ("trained", "cached") and cached.validation == first.validation


def test_finished_training_survives_a_cache_that_cannot_be_written(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path))
    trained = build(dataset)
    fit(trained, dataset, CONFIG, log=None)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(ConVIRT, "save_pretrained", full)
    with pytest.warns(UserWarning, match="cannot be written .No space left"):
        system, history = train_or_load(lambda: build(dataset), dataset, CONFIG, log=None)
    assert same_weights(system, trained) and len(history.losses) == 7


def test_source_fingerprint_sees_one_changed_line(tmp_path, monkeypatch):
    package = Path(cache.__file__).parent
    copy = tmp_path / "medvlp_lite"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "__file__", str(copy / "cache.py"))
    before = cache.source_fingerprint()
    target = copy / "components" / "contrastive.py"
    target.write_text(target.read_text() + "\n# one line\n")
    assert cache.source_fingerprint() != before

"""Finding the sets on this machine, and every real set that is there."""

import pytest
from source_trees import covid_tree, nih_tree, real, refuses

from medvlp_lite.sources import covid, nih, registry
from medvlp_lite.sources.base import SourceError


@pytest.fixture
def covid_root(tmp_path):
    return covid_tree(tmp_path / "covid-chestxray")


@pytest.fixture
def nih_root(tmp_path):
    return nih_tree(tmp_path / "nih")


def test_a_set_is_found_by_its_names_and_inside_an_unpacked_archive(covid_root, monkeypatch):
    monkeypatch.setenv("MEDVLP_DATA", str(covid_root.parent))
    assert registry.find("covid") == covid_root and registry.find("nih") is None
    assert registry.load("covid").studies == covid.load(covid_root).studies == covid.load(covid_root.parent).studies
    renamed = covid_root.rename(covid_root.parent / "inner")
    (covid_root.parent / "COVID-chestxray-dataset").mkdir()
    nested = renamed.rename(covid_root.parent / "COVID-chestxray-dataset" / "covid-chestxray-dataset-584034a")
    assert registry.find("covid") == nested
    with pytest.raises(SourceError, match="medvlp-lite data get nih"):
        registry.load("nih")
    with pytest.raises(SourceError, match="openi, nih"):
        registry.load("mimic")


def test_the_default_folder_is_the_users_cache(monkeypatch):
    monkeypatch.delenv("MEDVLP_DATA", raising=False)
    assert registry.data_root().is_absolute() and "medvlp-lite" in str(registry.data_root())


def test_a_set_without_one_usable_study_is_an_error(nih_root):
    for path in nih_root.rglob("0*.*"):
        path.unlink()
    refuses(lambda: nih.load(nih_root), "no study", "image file not here 4")


@pytest.mark.real
@pytest.mark.parametrize("name", list(registry.SETS))
def test_real_set_loads_whole(name):
    loaded = real(name)
    ids = [study.study_id for study in loaded.studies]
    assert len(ids) == len(set(ids)) and all(study.patient_id for study in loaded.studies)
    assert all(study.licence and study.url and study.source == name for study in loaded.studies)
    boxes = [box for study in loaded.studies for finding in study.findings for box in finding.boxes]
    assert all(0 <= b.x < b.x + b.width <= 1.000001 and 0 <= b.y < b.y + b.height <= 1.000001 for b in boxes)
    for study in [s for s in loaded.studies if s.pixels is not None][:: max(1, len(ids) // 10)]:
        assert study.image.std() > 5

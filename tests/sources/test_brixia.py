"""Brixia scores, joined to the images of the COVID collection."""

import numpy as np
import pytest
from source_trees import covid_tree, draw, edit, real, refuses, table

from medvlp_lite.sources import brixia


@pytest.fixture
def covid_root(tmp_path):
    return covid_tree(tmp_path / "covid-chestxray")


@pytest.fixture
def brixia_root(covid_root):
    root = covid_root.parent / "brixia"
    zones = ",".join([*"ABCDEF", "Global"])
    header = ",".join(["filename", *(f"S-{z}" for z in zones.split(",")), *(f"J-{z}" for z in zones.split(","))])
    table(
        root / "data" / "public-annotations.csv",
        "\ufeff" + header,
        ("early.png", 3, 2, 1, 0, 0, 1, 7, 3, 2, 1, 0, 0, 0, 6),
        ("gone.jpg", *[0] * 14),
        ("dropped.jpg", *[0] * 14),
        ("own.jpg", *[1] * 6, 6, *[1] * 6, 6),
    )
    draw(root / "data" / "public-cohen-subset" / "own.jpg")
    return root


def test_brixia_joins_scores_to_images(brixia_root):
    loaded = brixia.load(brixia_root)
    assert [s.meta["filename"] for s in loaded.studies] == ["early.png", "own.jpg"]
    assert loaded.skipped == {"image file not here": 1, "no longer in the COVID collection": 1}
    study = loaded.studies[0]
    assert study.patient_id == "4" and study.image.shape == (30, 40) and study.source == "brixia"
    assert study.meta["brixia"]["senior"] == {"A": 3, "B": 2, "C": 1, "D": 0, "E": 0, "F": 1, "global": 7}
    assert study.meta["brixia"]["junior"]["F"] == 0 and loaded.notes["readers differ in the global score"] == 1
    zones = {f.position: f for f in study.findings if f.entity == "opacity"}
    assert zones["right upper zone"].severity == "severe" and zones["right upper zone"].side == "right"
    assert zones["left upper zone"].present is False and zones["left lower zone"].severity == "mild"
    junior = brixia.zone_findings(study.meta["brixia"]["junior"])
    assert [f.present for f in junior if f.position == "left lower zone"] == [False]
    assert brixia.load(brixia_root, covid_root=brixia_root.parent).studies[0].findings == study.findings
    assert study.label("covid-19") == 1.0 and "lung_mask" in study.meta


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("early.png,3", "early.png,4", ("line 2", "S-A", "0-3")),
        ("early.png,3", "early.png,2", ("line 2", "S-Global")),
        ("S-Global", "Global", ("S-Global",)),
    ],
)
def test_brixia_refusals(brixia_root, old, new, words):
    edit(brixia_root / "data" / "public-annotations.csv", old, new)
    refuses(lambda: brixia.load(brixia_root), "public-annotations.csv", *words)
    given = brixia_root / "data" / "public-annotations.csv"
    refuses(lambda: brixia.load(given), str(given), "not a folder that holds")


@pytest.mark.real
def test_real_brixia():
    loaded = real("brixia")
    scores = np.array([[s.meta["brixia"][who]["global"] for who in ("senior", "junior")] for s in loaded.studies])
    assert len(loaded) >= 1 and scores.min() >= 0 and scores.max() <= 18
    assert len(loaded) < 20 or np.corrcoef(scores.T)[0, 1] > 0.7  # two readings of one picture

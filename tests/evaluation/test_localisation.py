from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medvlp_lite import experiments
from medvlp_lite.evaluation.grounding import (
    LARGE_FINDINGS,
    blind_maps,
    by_size,
    contrast_to_noise,
    grounding,
    miou,
    phrase_grounding,
    phrase_scores,
    pointing_game,
    positive_studies,
    sentence_about,
    sentence_grounding,
)
from medvlp_lite.phantom import ENTITIES


@pytest.fixture(scope="module")
def data():
    return experiments.phantom_data(160, seed=3)


def test_positive_studies_have_a_place(data):
    rows = positive_studies(data.test, ENTITIES[0], 4)
    assert 0 < len(rows) <= 4
    for index, region in rows:
        assert data.test.studies[index].label(ENTITIES[0]) == 1 and region.any() and region.shape == (112, 112)


def test_grounding_stands_beside_maps_that_never_look(data):
    found = grounding(experiments.load_pretrained("convirt"), data, ENTITIES[:3], limit=4)
    for row in found.values():
        assert 0 <= row["pointing"] <= row["pointing_any"] <= 1
        assert set(row["baselines"]) == {"random", "centre", "average lesion"}


def test_blind_maps_are_the_same_for_every_image():
    region = np.zeros((8, 8), dtype=bool)
    region[:4] = True
    maps = blind_maps(3, 4, [region])
    assert all(own.shape == (3, 4, 4) for own in maps.values())
    assert np.array_equal(maps["average lesion"][2], [[1] * 4] * 2 + [[0] * 4] * 2)
    assert np.array_equal(maps["centre"][0], maps["centre"][1])


def test_small_findings_stand_apart_from_large_ones():
    large = LARGE_FINDINGS[0]
    rows = [("nodule", {"pointing": 0.2}), ("mass", {"pointing": 0.4}), (large, {"pointing": 1.0})]
    assert by_size(rows) == {"small": pytest.approx(0.3), "large": 1.0}
    assert np.isnan(by_size(rows[:2])["large"])


def test_phrase_grounding_holds_every_setting_and_points_by_the_one_rule(data):
    system = experiments.load_pretrained("maco")
    system.importance_score.weight.data.zero_()
    names = (ENTITIES[0], LARGE_FINDINGS[0])
    rows = phrase_grounding(system, data, names, limit=3, taus=(None, 0.02), sigma=1.5)
    assert {(row["tau_w"], row["sigma"]) for row in rows} == {(None, 1.5), (0.02, 1.5)}
    assert all(0 <= row["miou"] <= 1 for row in rows)
    assert rows[0]["cnr"] == pytest.approx(rows[1]["cnr"], abs=1e-4), "zero weights are equal weights at any tau"
    assert {row["entity"]: row["size"] for row in rows} == {ENTITIES[0]: "small", LARGE_FINDINGS[0]: "large"}


def test_phrase_scores_are_means_over_studies():
    generator = np.random.default_rng(0)
    maps, regions = generator.random((3, 8, 8)), list(generator.random((3, 8, 8)) < 0.4)
    found = phrase_scores(maps, regions)
    for name, measure in {"cnr": contrast_to_noise, "miou": miou, "pointing": pointing_game}.items():
        assert found[name] == pytest.approx(np.mean([measure(*pair) for pair in zip(maps, regions)]))
    constant = phrase_scores(np.ones((1, 8, 8)), regions[:1])
    assert constant["pointing"] == pytest.approx(regions[0].mean()), "no try for free"


def test_phrase_grounding_reads_the_part_it_is_told(data):
    system = experiments.load_pretrained("maco")
    rows = {
        part: phrase_grounding(system, data, ENTITIES[:1], limit=3, taus=(None,), part=part) for part in ("val", "test")
    }
    assert rows["val"][0]["cnr"] != rows["test"][0]["cnr"]
    same = SimpleNamespace(val=data.test)
    assert phrase_grounding(system, same, ENTITIES[:1], limit=3, taus=(None,), part="val") == rows["test"]


def test_a_sentence_about_one_finding_is_found():
    report = (
        "FINDINGS: The heart is normal. There is no nodule. A small left pleural effusion. A mass and consolidation."
    )
    assert sentence_about(report, "effusion") == "A small left pleural effusion."
    assert sentence_about(report, "nodule") == sentence_about(report, "mass") == sentence_about("", "mass") == ""


def test_sentence_grounding_asks_each_study_by_its_own_report(data):
    asked = []

    class Pointing(torch.nn.Module):
        """Points at the truth when it is asked in the words of the study's own report."""

        device = torch.device("cpu")

        def heatmap(self, images, queries):
            pixels = (255 * images[0, 0]).round().byte().numpy()
            study = data.test.studies[[np.array_equal(pixels, one) for one in data.test.images].index(True)]
            asked.append(queries[0].positive[0] in study.report.replace("\n", " ") and not queries[0].negative)
            region = study.region("nodule", 14, 14)
            return torch.from_numpy(region)[None, None].float()

    found = sentence_grounding(Pointing(), data, ("nodule",))
    assert asked and all(asked) and found["nodule"]["studies"] == len(asked)
    assert found["nodule"]["cnr"] > 1
    assert sentence_grounding(Pointing(), data, ("nodule",), limit=0) == {}

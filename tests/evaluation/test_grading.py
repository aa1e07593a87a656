import numpy as np
import pytest
import torch

from medvlp_lite.evaluation import grading
from medvlp_lite.sources import brixia, registry
from medvlp_lite.studies import Study
from medvlp_lite.systems.mskpt_staging import MSKPTStaging, MSKPTStagingConfig

ZONES = grading.ZONES


def scored(count=24, seed=0):
    """Radiographs whose zones are as bright as their grade; the second reader errs in every fifth zone."""
    generator = np.random.default_rng(seed)
    studies = []
    for number in range(count):
        grades, image = generator.integers(0, 4, 6), generator.integers(0, 30, (60, 80))
        mask = np.zeros((60, 80), dtype=bool)
        mask[6:54, 8:72] = True
        for place, grade in enumerate(grades):
            column, row = divmod(place, 3)
            image[6 + 16 * row : 22 + 16 * row, 8 + 32 * column : 40 + 32 * column] += 50 * grade
        other = np.where(generator.random(6) < 0.2, 3 - grades, grades)
        reads = {who: dict(zip(ZONES, map(int, values))) for who, values in (("senior", grades), ("junior", other))}
        meta = {"brixia": reads, "lung_mask": lambda mask=mask: mask}
        studies.append(Study(f"s{number}", f"p{number // 2}", "brixia", image.astype(np.uint8), meta=meta))
    return studies


def test_zones_lie_in_halves_and_thirds_of_the_lung_mask():
    study = scored(1)[0]
    boxes = dict(zip(ZONES, grading.zone_boxes(study)))
    assert boxes["A"].x == pytest.approx(8 / 80) and boxes["A"].y == pytest.approx(6 / 60)
    assert boxes["D"].x == pytest.approx(0.5) and boxes["F"].y + boxes["F"].height == pytest.approx(54 / 60)
    grey = {zone: study.image[box.mask(60, 80)].mean() // 50 for zone, box in boxes.items()}
    assert grey == study.meta["brixia"]["senior"], "A to C is the patient's right, on the left of the image"
    blank = Study("s", "p", "brixia", study.image, meta={"lung_mask": lambda: np.zeros((60, 80), dtype=bool)})
    assert grading.zone_boxes(blank)[0].x == grading.USUAL_LUNGS.x


def test_features_are_means_over_each_zone(tmp_path):
    studies = scored(3)
    from medvlp_lite.encoders.text import ReportTokenizer

    torch.manual_seed(0)
    system = MSKPTStaging(ReportTokenizer.train(["a b"], 50), MSKPTStagingConfig(text_weight=0, data_weight=0)).eval()
    zones = grading.zone_features(studies, system)
    assert zones.features.shape == (18, 128 + 6) and zones.place.tolist() == list(range(6)) * 3
    from medvlp_lite.studies import resize_image

    pixels = torch.tensor(resize_image(studies[1].image, 112, 112))[None, None].float() / 255
    own = system.image_encoder(pixels)[0].detach().numpy()
    expected = own[:, grading.zone_boxes(studies[1])[4].mask(14, 14)].mean(1)
    assert np.allclose(zones.features[6 + 4, :128], expected, atol=1e-4)
    assert zones.grades["junior"][7] == studies[1].meta["brixia"]["junior"]["B"] and zones.patients[7] == "p0"


def test_grades_that_can_be_seen_are_learned_and_the_readers_stand_beside():
    found = grading.grade_zones(scored(30), {"grey values": None})
    assert set(found) == {"grey values", "zone only", "other reader"}
    assert found["grey values"]["kappa"]["value"] > 0.9 > found["other reader"]["kappa"]["value"]
    assert abs(found["zone only"]["kappa"]["value"]) < 0.35
    for scores in found.values():
        assert scores["kappa"]["low"] <= scores["kappa"]["value"] <= scores["kappa"]["high"]
        assert scores["difference"]["value"] >= 0


@pytest.mark.real
def test_real_brixia_zones_are_graded_between_chance_and_the_readers():
    if registry.find("brixia") is None:
        pytest.skip("MEDVLP_DATA holds no brixia")
    studies = brixia.load().studies
    found = grading.grade_zones(studies, {"grey values": None})
    assert 0.1 < found["grey values"]["kappa"]["value"] < found["other reader"]["kappa"]["value"]
    width = found["grey values"]["kappa"]["high"] - found["grey values"]["kappa"]["low"]
    assert width > 0.05, "few patients: the interval must be wide"

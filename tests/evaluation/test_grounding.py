import numpy as np
import pytest

from medvlp_lite.evaluation.grounding import (
    average_lesion,
    best_iou_threshold,
    centre_box,
    contrast_to_noise,
    dice,
    iou,
    miou,
    pointing_game,
    random_maps,
    regions_hit,
    scaled,
    score_grounding,
    upsample,
)  # fmt: skip

HEAT = np.array([[0.0, 0.1], [0.2, 0.9]])
REGION = np.zeros((8, 8), dtype=bool)
REGION[4:, 4:] = True


def test_masks_of_whole_numbers_count_as_inside_wherever_they_are_not_zero():
    counted = REGION.astype(np.int64) + np.pad(np.ones((2, 2), int), (5, 1))  # two overlapping boxes added up
    for measure in (contrast_to_noise, miou, pointing_game):
        assert measure(HEAT, counted) == measure(HEAT, REGION)
    assert iou(REGION, counted) == dice(REGION, counted) == 1.0
    with pytest.raises(ValueError, match="mask of bool or whole numbers, got float64"):
        contrast_to_noise(HEAT, HEAT)


def test_a_map_finer_than_the_region_keeps_its_peak():
    fine, region = np.zeros((16, 16)), np.zeros((8, 8), bool)
    fine[5, 5], region[2, 2] = 1.0, True
    assert pointing_game(fine, region) and not pointing_game(fine.T[::-1], region)


@pytest.mark.parametrize("value", [1 / 196, 1 / 3, 0.1, 0.7])
def test_a_constant_map_has_no_contrast_whatever_its_rounding(value):
    assert contrast_to_noise(np.full((14, 14), value, np.float32), REGION) == 0.0
    assert contrast_to_noise(np.full((14, 14), value), REGION) == 0.0


def test_attention_as_it_is_against_a_fixed_threshold():
    attention = np.array([[0.001, 0.002], [0.007, 0.99]])
    score = score_grounding([attention], [REGION], 0.008, stretch=False)
    assert score.iou == 1.0 and score_grounding([attention], [REGION], 0.005).iou < 1.0


def test_unknown_cells_count_in_no_overlap():
    heat = HEAT.copy()
    heat[0, 1] = np.nan
    region = REGION.copy()
    region[:4, 4:] = True
    assert score_grounding([heat], [region], 0.5).iou == 1.0
    assert best_iou_threshold([heat], [region], steps=10) < 0.9


def test_upsample_repeats_cells():
    assert np.array_equal(upsample(HEAT, 8, 8), np.kron(HEAT, np.ones((4, 4))))
    assert upsample(np.arange(9.0).reshape(3, 3), 7, 10).shape == (7, 10)


def test_pointing_game_by_hand():
    assert pointing_game(HEAT, REGION) == 1 and pointing_game(HEAT.T[::-1], REGION) == 0
    assert pointing_game(np.ones((2, 2)), REGION) == 0.25, "a constant map scores the region's share"
    assert pointing_game(np.array([[0, 1.0], [0, 1.0]]), REGION) == 0.5, "ties count their share"
    assert pointing_game(np.ones((2, 2)), REGION, rule="any") == 1, "the released rule: any largest cell"
    with pytest.raises(ValueError, match="rule must be one of centre, any, got 'best'"):
        pointing_game(HEAT, REGION, rule="best")
    with pytest.raises(ValueError, match="region is empty"):
        pointing_game(HEAT, np.zeros((8, 8), dtype=bool))
    with pytest.raises(ValueError, match="NaN"):
        pointing_game(HEAT * np.nan, REGION)


def test_pointing_equals_a_loop_over_the_largest_cells():
    generator = np.random.default_rng(4)
    for _ in range(50):
        heat, region = generator.integers(0, 3, (3, 5)).astype(float), generator.random((7, 11)) < 0.4
        region[0, 0] = True
        hits = [
            region[int((i + 0.5) * 7 / 3), int((j + 0.5) * 11 / 5)]
            for i in range(3) for j in range(5) if heat[i, j] == heat.max()
        ]  # fmt: skip
        assert pointing_game(heat, region) == pytest.approx(np.mean(hits))


def test_the_middle_gets_one_try_however_many_cells_tie():
    """Four cells tie in the middle of an even grid: a region over one of them is hit by a quarter, not four times as often."""
    region = np.zeros((8, 8), dtype=bool)
    region[4, 4] = True
    assert pointing_game(centre_box(8), region) == 0.25 and pointing_game(centre_box(8), region, rule="any") == 1
    one = np.zeros((8, 8))
    shares = []
    for cell in ((3, 3), (3, 4), (4, 3), (4, 4)):
        one[:] = 0
        one[cell] = 1
        shares.append(pointing_game(one, region))
    assert pointing_game(centre_box(8), region) == np.mean(shares)


def test_one_cell_of_tolerance_reaches_the_next_cell_and_no_further():
    thin = np.zeros((16, 16), dtype=bool)
    thin[:, 3] = True
    heat = np.zeros((4, 4))
    heat[1, 1] = 1
    assert not pointing_game(heat, thin) and pointing_game(heat, thin, tolerance=1)
    heat = np.zeros((4, 4))
    heat[1, 3] = 1
    assert not pointing_game(heat, thin, tolerance=1)


def test_overlap_by_hand_and_empty_cases():
    a, b = np.zeros((2, 4), dtype=bool), np.zeros((2, 4), dtype=bool)
    a[0], b[:, :2] = True, True
    assert iou(a, b) == 2 / 6 and dice(a, b) == 4 / 8
    empty = np.zeros_like(a)
    assert iou(a, empty) == dice(empty, b) == 0
    assert np.isnan(iou(empty, empty)) and np.isnan(dice(empty, empty))


def test_cnr_is_signed_and_ignores_scale():
    heat = np.random.default_rng(0).random((8, 8)) + 2 * REGION
    value = contrast_to_noise(heat, REGION)
    inside, outside = heat[REGION], heat[~REGION]
    assert value == pytest.approx((inside.mean() - outside.mean()) / np.sqrt(inside.var() + outside.var()))
    assert contrast_to_noise(5 * heat - 3, REGION) == pytest.approx(value)
    assert contrast_to_noise(-heat, REGION) == pytest.approx(-value)
    assert contrast_to_noise(-heat, REGION, absolute=True) == pytest.approx(value)
    assert contrast_to_noise(np.ones((8, 8)), REGION) == 0
    assert np.isnan(contrast_to_noise(heat, np.ones((8, 8), dtype=bool)))


def test_miou_by_hand():
    heat = np.where(REGION, 1.0, -1.0)
    assert miou(heat, REGION) == 1
    half = np.where(REGION, 0.25, 0.0)
    half[0, 0], half[7, 0] = 1.0, -1.0
    assert miou(half, REGION) == pytest.approx(2 * 16 / 17 / 5)


def test_nan_pixels_are_left_out_of_every_measure():
    heat = np.random.default_rng(0).random((8, 8)) + REGION
    margin = heat.copy()
    margin[:2] = np.nan
    assert contrast_to_noise(margin, REGION) == pytest.approx(contrast_to_noise(heat[2:], REGION[2:]))
    assert miou(margin, REGION) == pytest.approx(miou(heat[2:], REGION[2:]))
    assert pointing_game(margin, REGION) == pointing_game(heat[2:], REGION[2:])
    assert np.isnan(scaled(margin)[:2]).all() and np.nanmax(scaled(margin)) == 1
    assert np.isnan(miou(heat * np.nan, REGION)) and np.isnan(contrast_to_noise(heat * np.nan, REGION))


def test_empty_cases_of_miou_and_cnr():
    nowhere, everywhere = np.zeros((8, 8), dtype=bool), np.ones((8, 8), dtype=bool)
    heat = np.random.default_rng(0).random((8, 8))
    for region in (nowhere, everywhere):
        assert np.isnan(contrast_to_noise(heat, region))
    assert np.isnan(miou(heat, nowhere)) and miou(heat, nowhere, empty=0.0) == 0
    assert np.isnan(miou(np.ones((8, 8)), REGION)), "a constant map predicts nothing"
    assert miou(np.ones((8, 8)), REGION, empty=0.0) == 0
    with pytest.raises(ValueError, match="region is empty"):
        pointing_game(heat, nowhere)


def test_cnr_of_four_pixels_by_hand():
    heat, region = np.array([[1.0, 3.0], [0.0, 2.0]]), np.array([[True, True], [False, False]])
    assert contrast_to_noise(heat, region) == pytest.approx((2 - 1) / np.sqrt(1 + 1))
    assert contrast_to_noise(heat, ~region) == pytest.approx(-1 / np.sqrt(2))


def test_threshold_is_the_best_of_all_candidates():
    generator = np.random.default_rng(1)
    heats = [generator.random((4, 4)) for _ in range(5)]
    best = best_iou_threshold(heats, [REGION] * 5)
    value = lambda t: np.mean([iou(scaled(upsample(h, 8, 8)) > t, REGION) for h in heats])  # noqa: E731
    assert value(best) == max(value(t / 100) for t in range(100))
    with pytest.raises(ValueError, match="no validation map"):
        best_iou_threshold([], [])


def test_detection_counts_regions_and_areas_apart():
    predicted = np.zeros((8, 8), dtype=bool)
    predicted[5:8, 5:8] = True
    predicted[0, 0] = True
    other = np.zeros((8, 8), dtype=bool)
    other[:2, 6:] = True
    assert regions_hit(predicted, [REGION, other]) == (1, 1, 2)
    assert regions_hit(np.zeros((8, 8), dtype=bool), [REGION]) == (0, 0, 0)


def test_the_whole_score():
    score = score_grounding([HEAT, HEAT[::-1]], [REGION, REGION], threshold=0.5)
    assert (score.studies, score.pointing, score.iou, score.detection_recall) == (2, 0.5, 0.5, 0.5)
    assert score.pointing_one_cell == 1 and score.detection_precision == 0.5 and score.pointing_any == 0.5
    with pytest.raises(ValueError, match="as many maps as regions"):
        score_grounding([HEAT], [], 0.5)


def test_baselines_never_look():
    assert random_maps(3, 14).shape == (3, 14, 14) and np.array_equal(random_maps(2, 5), random_maps(2, 5))
    centre = centre_box(8)
    assert (centre == centre.max()).sum() == 4 and (centre[3:5, 3:5] == centre.max()).all(), (
        "it points, and does not tie"
    )
    box = centre > centre[2, 2] - 1e-9
    assert box.sum() == 16 and box[2:6, 2:6].all()
    assert np.array_equal(average_lesion([REGION, ~REGION], 2), np.full((2, 2), 0.5))
    assert np.array_equal(average_lesion([REGION], 2), [[0, 0], [0, 1]])
    share = np.mean([pointing_game(heat, REGION) for heat in random_maps(400, 8)])
    assert share == pytest.approx(0.25, abs=0.06)

import numpy as np
import pytest
import torch

from medvlp_lite.studies import (
    Box,
    Finding,
    Study,
    StudyDataset,
    collate,
    resize_image,
    resize_mask,
    split_by_patient,
)  # fmt: skip


def test_unknown_is_never_a_number_that_a_mean_swallows(dataset):
    batch = collate([dataset[i] for i in range(8)])
    assert batch.labels.isnan().any()
    assert batch.labels.mean().isnan()
    assert set(batch.labels[~batch.labels.isnan()].tolist()) == {0.0, 1.0}


def test_labels_from_the_report_forget_what_it_leaves_out(studies):
    truth = StudyDataset(studies, size=32)
    said = StudyDataset(studies, size=32, label_from="report", entities=truth.entities)
    hidden = np.isnan(said.labels) & ~np.isnan(truth.labels)
    assert hidden.any(axis=1).all()
    both = ~np.isnan(said.labels)
    assert np.array_equal(said.labels[both], truth.labels[both])


def test_positive_beats_negative_beats_unknown():
    finding = [Finding("nodule", state) for state in (None, False, True)]
    assert np.isnan(Study("a", "a", "x", findings=tuple(finding[:1])).label("nodule"))
    assert Study("a", "a", "x", findings=tuple(finding[:2])).label("nodule") == 0
    assert Study("a", "a", "x", findings=tuple(finding)).label("nodule") == 1
    assert np.isnan(Study("a", "a", "x").label("nodule"))


def test_batch_holds_images_in_unit_range_and_moves(dataset):
    batch = collate([dataset[i] for i in (3, 1)])
    assert batch.images.shape == (2, 1, 32, 32) and batch.images.dtype == torch.float32
    assert batch.images.min() >= 0 and batch.images.max() <= 1
    assert batch.study_ids == ["s003", "s001"] and batch.indices.tolist() == [3, 1] and len(batch) == 2
    assert torch.equal(batch.to("cpu").images, batch.images)
    assert torch.equal(batch.images[0, 0] * 255, torch.from_numpy(dataset.images[3]).float())


def test_no_patient_stands_in_two_parts(studies):
    splits = split_by_patient(studies, (0.5, 0.2, 0.3), seed=1)
    patients = [{studies[i].patient_id for i in part} for part in (splits.train, splits.val, splits.test)]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    assert sorted(splits.train + splits.val + splits.test) == list(range(len(studies)))


def test_split_is_stable_and_its_fingerprint_tells(studies):
    first, again = split_by_patient(studies, seed=0), split_by_patient(studies, seed=0)
    assert first == again and len(first.fingerprint) == 12
    assert split_by_patient(studies, seed=1).fingerprint != first.fingerprint
    few = split_by_patient(studies[:10], seed=0)
    assert set(few.train) == {i for i in first.train if i < 10}, "studies added later must move nobody"


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.2, 0.0), (0.5, 0.5)])
def test_split_refuses_shares_that_do_not_add_up(studies, fractions):
    with pytest.raises(ValueError, match="fractions must be three shares"):
        split_by_patient(studies, fractions)


def test_box_from_pixels_clips_and_refuses_the_outside():
    box = Box.from_pixels(-100, 512, 612, 1024, image_size=(1024, 1024))
    assert (box.x, box.y, box.width, box.height) == (0, 0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="lies outside"):
        Box.from_pixels(2000, 0, 10, 10, image_size=(1024, 1024))


def test_box_mask_covers_its_share_and_never_vanishes():
    mask = Box(0.25, 0.5, 0.5, 0.25).mask(8, 8)
    assert mask.sum() == 8 and mask[4:6, 2:6].all()
    assert Box(0.51, 0.51, 0.001, 0.001).mask(8, 8).sum() == 1


def test_region_is_the_union_of_what_is_present():
    boxes = (Box(0, 0, 0.5, 0.5), Box(0.5, 0.5, 0.5, 0.5))
    study = Study(
        "a", "a", "x", findings=(Finding("mass", boxes=boxes), Finding("mass", False, boxes=(Box(0.5, 0, 0.5, 0.5),)))
    )
    assert study.region("mass", 4, 4).sum() == 8
    assert study.region("nodule", 4, 4) is None


def test_resize_mask_keeps_thin_lines_and_round_trips_up():
    line = np.zeros((64, 64), dtype=bool)
    line[:, 17] = True
    assert resize_mask(line, 14, 14).any(axis=1).all()
    assert np.array_equal(resize_mask(resize_mask(line, 128, 128), 64, 64), line)


def test_lazy_pixels_are_read_when_needed(studies):
    calls = []
    lazy = Study("a", "a", "x", pixels=lambda: calls.append(1) or studies[0].image)
    assert not calls
    assert np.array_equal(lazy.image, studies[0].image) and calls == [1]


def test_a_study_without_image_says_so():
    with pytest.raises(ValueError, match="study r1 from openi has no image"):
        _ = Study("r1", "p", "openi", report="x").image
    with pytest.raises(ValueError, match="must be uint8"):
        _ = Study("r1", "p", "x", pixels=np.zeros((4, 4, 3))).image


def test_dataset_refuses_bad_input(studies):
    with pytest.raises(ValueError, match="at least one study"):
        StudyDataset([], size=8)
    with pytest.raises(ValueError, match="label_from must be"):
        StudyDataset(studies, size=8, label_from="guess")


def test_fingerprint_follows_pixels_reports_and_labels(studies):
    base = StudyDataset(studies, size=32).fingerprint()
    assert base == StudyDataset(studies, size=32).fingerprint()
    changed = studies[0].with_image(255 - studies[0].image)
    assert StudyDataset([changed, *studies[1:]], size=32).fingerprint() != base
    assert StudyDataset(studies, size=32, label_from="report").fingerprint() != base


def test_resize_image_keeps_the_mean():
    image = np.random.default_rng(0).integers(0, 255, (64, 96), dtype=np.uint8)
    assert resize_image(image, 16, 24).shape == (16, 24)
    assert abs(resize_image(image, 16, 24).mean() - image.mean()) < 2


def test_inputs_go_with_their_studies_through_subset_and_collate(dataset):
    read = dataset.with_inputs({"ids": torch.arange(48).view(24, 2), "labels": [f"of {i}" for i in range(24)]})
    assert not dataset.inputs and read.images is not None
    part = read.subset([5, 2, 9])
    batch = collate([part[2], part[0]])
    assert batch.inputs["ids"].tolist() == [[18, 19], [10, 11]] and batch.inputs["labels"] == ["of 9", "of 5"]
    assert batch.study_ids == ["s009", "s005"] and len(part) == 3
    assert batch.to("cpu").inputs["labels"] == ["of 9", "of 5"]
    with pytest.raises(ValueError, match="one row for each of 24 studies: ids does not fit"):
        dataset.with_inputs({"ids": torch.zeros(3, 2)})


def test_a_subset_equals_a_data_set_of_those_studies(dataset, studies):
    rows = [7, 0, 3]
    for whole in (dataset, StudyDataset(studies, size=32)):  # images read before, and not
        assert whole is not dataset or len(whole.images)
        part, alone = whole.subset(np.asarray(rows)), StudyDataset([studies[i] for i in rows], size=32, entities=whole.entities)  # fmt: skip
        assert part.fingerprint() == alone.fingerprint() and part.findings == alone.findings
        assert np.array_equal(part.stages, alone.stages) and part.reports == alone.reports
    with pytest.raises(ValueError, match="at least one study"):
        dataset.subset([])

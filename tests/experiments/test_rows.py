"""The rows as they are declared: what rows of one comparison share, and where they start from."""

from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch

from medvlp_lite import experiments
from medvlp_lite.experiments import PROFILES, ROWS, Profile, runner, screening_data
from medvlp_lite.experiments.measures import MEASURES, VALIDATION
from medvlp_lite.experiments.runner import results_folder
from medvlp_lite.phantom import ENTITIES, make_studies
from medvlp_lite.reports.filter import adjacency, extract

LONG = PROFILES["long"]
TINY = Profile(studies=160, steps=10, batch_size=16, seeds=1)


def training(name, profile=LONG, seed=0):
    return ROWS[name].training.config(profile, seed)


def test_every_name_is_that_of_one_row_and_every_record_has_one():
    modules = (
        experiments.zero_shot,
        experiments.medklip,
        experiments.maco,
        experiments.medfilip,
        experiments.mskpt,
        experiments.staging,
    )
    names = Counter(row.name for module in modules for row in module.ROWS)
    assert set(names.values()) == {1} and set(names) == set(ROWS)
    assert {path.stem.removesuffix("-long") for path in results_folder().glob("*-long.json")} <= set(ROWS)


def test_every_row_names_what_there_is():
    for row in ROWS.values():
        assert set(row.measures) <= set(MEASURES) and row.validation in VALIDATION and row.headline
        assert set(row.parents.values()) <= set(ROWS) and row.value in (1, 2, 3)


def test_rows_of_one_comparison_share_the_training_draw():
    """The bound was told 20,000 phantoms where what it bounds saw 9,000."""
    for rows in (("convirt", "supervised", "medklip*", "medfilip*"), ("maco*",), ("mskpt*", "staging*")):
        chosen = {row.name for pattern in rows for row in experiments.reproduce.selected([pattern])}
        assert len({ROWS[name].draw.studies(LONG) for name in chosen}) == 1, chosen
        assert len({ROWS[name].draw.screening for name in chosen}) == 1
    assert ROWS["supervised"].data(TINY) is ROWS["medklip"].data(TINY)


def test_all_zero_shot_systems_see_as_many_images():
    names = ("convirt", "supervised", "medklip", "medklip_names", "medklip_names_no_position", "medklip_no_crop")
    for profile in PROFILES.values():
        assert len({training(n, profile).steps * training(n, profile).batch_size for n in names}) == 1


def test_steps_of_the_long_profile():
    steps = {
        name: training(name).steps for name in ("convirt", "medklip", "medfilip", "maco_hr", "maco", "mskpt", "staging")
    }
    assert steps == {
        "convirt": 1000, "medklip": 2000, "medfilip": 1500, "maco_hr": 3000, "maco": 400, "mskpt": 250, "staging": 150
    }  # fmt: skip
    assert training("staging_scratch_longer").steps == 450 and training("maco") == training("maco_contrastive")


@pytest.fixture(scope="module")
def parents():
    return {"image": experiments.load_pretrained("maco_hr"), "text": experiments.load_pretrained("convirt")}


def test_alignment_starts_from_its_parents(parents):
    row = ROWS["maco"]
    system = row.start(row, None, TINY, 0, parents)
    assert torch.equal(system.image_encoder.patches.weight, parents["image"].image_encoder.patches.weight)
    assert torch.equal(system.decoder.predict.weight, parents["image"].decoder.predict.weight)
    assert torch.equal(system.text_projection.weight, parents["text"].text_projection.weight)
    plain = ROWS["maco_contrastive"].start(ROWS["maco_contrastive"], None, TINY, 0, parents)
    first, second = asdict(plain.config), asdict(system.config)
    differing = {key for key in first if first[key] != second[key]}
    assert differing == {"weighting", "score_rate", "trace_every"}


def test_staging_learns_from_labelled_studies_and_with_a_teacher_from_the_others():
    data = screening_data(160)
    sizes = {}
    for name in ("staging", "staging_25", "staging_scratch_25", "staging_noise_20_none"):
        row = ROWS[name]
        sizes[name] = row.train_set(row, data, 0).stages
    known = sizes["staging_scratch_25"]
    assert len(sizes["staging"]) == len(data.train) and (sizes["staging"] >= 0).all()
    assert (known >= 0).all() and len(known) == pytest.approx(0.25 * len(data.train), abs=3)
    with_others = sizes["staging_25"]
    assert (with_others < 0).sum() == len(data.train) - len(known)
    assert 0.4 < np.mean(with_others >= 0) < 0.6, "labelled studies are repeated until they are about half"
    assert (sizes["staging_noise_20_none"] != data.train.stages).any()


def test_a_student_starts_from_its_teacher():
    data, teacher = screening_data(160), experiments.load_pretrained("mskpt")
    row = ROWS["staging_25"]
    system = row.start(row, data, TINY, 0, {"teacher": teacher})
    for own, other in zip(system.image_encoder.parameters(), teacher.image_encoder.parameters()):
        assert torch.equal(own, other)
    scratch = ROWS["staging_scratch"].start(ROWS["staging_scratch"], data, TINY, 0, {})
    assert scratch.projector is None and not scratch.config.taught


def test_rows_of_medklip_change_one_part_at_a_time():
    shared = {ROWS[name].training for name in ("medklip", "filter_linear", "filter_attention", "labels_linear", "medklip_onehot")}  # fmt: skip
    assert len(shared) == 1, "equal images, crop and learning rate"
    steps = (("medklip_names_no_position", "medklip_names"), ("medklip_names", "medklip"), ("filter_linear", "filter_attention"),
             ("labels_linear", "filter_linear"), ("medklip", "medklip_no_position"), ("medklip", "medklip_position_1"),
             ("medklip", "medklip_norm_only"), ("medklip", "medklip_no_dropout_only"), ("medklip", "medklip_swapped"),
             ("medklip", "medklip_shuffled_positions"), ("medklip_onehot", "medklip_names_no_position"))  # fmt: skip
    for first, second in steps:
        one, two = (runner.system_config(ROWS[n].system, ROWS[n].options, LONG) for n in (first, second))
        assert len([key for key in one if one[key] != two[key]]) == 1, (first, second)
        assert ROWS[first].training == ROWS[second].training
    for name in ("medklip", "filter_linear", "filter_attention", "labels_linear", "medklip_onehot"):
        with_crops, without = ROWS[name], ROWS[f"{name}_no_crop"]
        assert with_crops.options == without.options and without.training.crop == 1 > with_crops.training.crop


@pytest.mark.parametrize("entity", ENTITIES)
def test_a_held_out_finding_is_told_under_no_other_name(entity):
    row = ROWS[f"medklip_without_{entity.replace(' ', '_')}"]
    place, rest = ENTITIES.index(entity), row.options["entities"]
    assert rest == ENTITIES[:place] + ENTITIES[place + 1 :] and row.measures == ("held out",)
    told = 0
    for report in (study.report for study in make_studies(30, seed=5, size=64)):
        whole, part = (adjacency(extract(report), names) for names in (ENTITIES, rest))
        told += (whole[:, place] == 1).any()
        assert np.array_equal(np.delete(whole, place, axis=1), part, equal_nan=True)
    assert told, "some report speaks of it"

"""The rows as they are declared: what rows of one comparison share, and where they start from."""

from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch

from medvlp_lite import experiments, records
from medvlp_lite.experiments import PROFILES, ROWS, Profile, build_system, runner, screening_data
from medvlp_lite.experiments.measures import MEASURES, VALIDATION
from medvlp_lite.phantom import ENTITIES, make_studies
from medvlp_lite.records.record import results_folder
from medvlp_lite.reports.filter import adjacency, extract
from medvlp_lite.training import fit

LONG = PROFILES["long"]


def tiny_data():
    return experiments.phantom_data(160, seed=3)


TINY = Profile(studies=160, steps=10, batch_size=16, seeds=1)


def training(name, profile=LONG, seed=0):
    return ROWS[name].training.config(profile, seed)


def test_every_name_is_that_of_one_row_and_every_record_has_one():
    modules = (
        experiments.start,
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
        assert set(row.parents.values()) <= set(ROWS) and row.value in (1, 2, 3, 4)


def test_rows_of_one_comparison_share_the_training_draw():
    chosen = experiments.reproduce.selected(
        ["convirt*", "supervised*", "filter*", "medklip*", "medfilip*", "maco*", "mskpt_chest*"]
    )
    assert {row.draw for row in chosen} == {ROWS["convirt"].draw}
    assert ROWS["supervised"].data(TINY) is ROWS["medklip"].data(TINY)
    assert ROWS["staging"].draw == ROWS["mskpt"].draw != ROWS["convirt"].draw


def test_all_zero_shot_systems_see_as_many_images():
    names = [name for name in ROWS if name.split("_")[0] in ("convirt", "supervised", "medklip", "medfilip")]
    names = [name for name in names if not name.endswith("_longer")]
    for profile in PROFILES.values():
        assert len({training(n, profile).steps * training(n, profile).batch_size for n in names}) == 1


def test_steps_of_the_long_profile():
    steps = {
        name: training(name).steps for name in ("convirt", "medklip", "medfilip", "maco_hr", "maco", "mskpt", "staging")
    }
    assert steps == {
        "convirt": 2000, "medklip": 4000, "medfilip": 2000, "maco_hr": 2000, "maco": 2000, "mskpt": 2000, "staging": 2000
    }  # fmt: skip
    assert training("staging_scratch_longer").steps == 6000


def built(name, data, parents=None):
    return ROWS[name].start(ROWS[name], data, TINY, 0, parents or {})


def test_macos_rows_differ_in_what_their_names_say():
    """One part more in each row of the ladder; one change each in the dial; the same images as often in all."""

    def options(name):
        return asdict(build_system("maco", tokenizer, ROWS[name].options, TINY).config)

    def differing(first, second):
        one, two = options(first), options(second)
        return {key for key in one if one[key] != two[key]}

    tokenizer = tiny_data().tokenizer()
    for first, second, change in (
        ("maco_mae", "maco_hr", {"hr"}), ("maco_hr", "maco_contrastive", {"contrastive", "weighting", "trace_every"}),
        ("maco_contrastive", "maco", {"weighting"}), ("maco", "maco_normalised", {"weighting"}),
        ("maco", "maco_arxiv", {"weighting", "hr"}), ("maco", "maco_block", {"block"}), ("maco", "maco_shuffled", set()),
        ("maco_block", "maco_block_normalised", {"weighting"}), ("maco_ours_contrastive", "maco_ours", {"weighting"}),
        ("maco", "maco_temperature", {"temperature_rate"}), ("maco", "maco_no_affine", {"affine"}),
        ("maco", "maco_pretrained", set()), ("maco_contrastive", "maco_transplanted", set()),
    ):  # fmt: skip
        assert differing(first, second) == change, (first, second)
    paper = options("maco")
    assert (paper["block"], paper["lam"], paper["affine"], paper["weighting"]) == (1, 0.9, True, "joint")
    names = [row.name for row in experiments.maco.ROWS if row.name not in ("maco_transplanted", "maco_longer")]
    seen = {training(name).steps * training(name).batch_size for name in (*names, "convirt")}
    assert len(seen) == 1


def test_the_table_of_all_systems_has_every_draw_and_no_row_more_draws_than_what_it_starts_from():
    from medvlp_lite.figures.systems import SYSTEMS

    assert {len(ROWS[name].seeds_at(LONG)) for name in SYSTEMS} == {LONG.seeds}
    for row in ROWS.values():
        for parent in map(ROWS.get, row.parents.values()):
            draws = len(parent.seeds_at(LONG))
            assert draws >= len(row.seeds_at(LONG)) or parent.seeds == 1, (row.name, parent.name)


def test_a_pretrained_maco_starts_from_its_seeds_pretraining():
    parent = experiments.load_pretrained("maco_hr")
    system = built("maco_pretrained", tiny_data(), {"image": parent})
    for own, other in zip(system.image_encoder.parameters(), parent.image_encoder.parameters()):
        assert torch.equal(own, other)
    assert not torch.equal(system.image_projection.weight, parent.image_projection.weight)


def test_a_weight_map_is_transplanted_and_nothing_else_moves():
    row, donor = ROWS["maco_transplanted"], experiments.load_pretrained("maco")
    system = built(row.name, None, {"system": experiments.load_pretrained("maco_contrastive"), "weights": donor})
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    assert torch.equal(before["importance_score.weight"], donor.importance_score.weight)
    fit(system, tiny_data().train, row.training.config(TINY), log=None)
    for name, tensor in system.state_dict().items():
        if tensor.is_floating_point() and name != "weight_trace":  # which notes the map at every so many steps
            assert torch.allclose(tensor, before[name], atol=1e-9, equal_nan=True), name


def test_shuffled_pairs_keep_all_images_and_reports_and_no_pair():
    data = tiny_data()
    pairs = [ROWS["maco_shuffled"].train_set(ROWS["maco_shuffled"], data, seed) for seed in (0, 1)]
    for shuffled in pairs:
        assert np.array_equal(shuffled.images, data.train.images)
        assert Counter(shuffled.reports) == Counter(data.train.reports)
        distinct = [own != given for own, given in zip(data.train.reports, shuffled.reports)]
        assert np.mean(distinct) > 0.95, "only equal reports may meet"
    assert pairs[0].reports != pairs[1].reports


def test_staging_learns_from_labelled_studies_and_with_a_teacher_from_the_others():
    data = screening_data(160)
    sizes = {}
    for name in ("staging", "staging_25", "staging_scratch_25", "staging_noise_20_none"):
        row = ROWS[name]
        sizes[name] = row.train_set(row, data, 0).stages
    quarter = experiments.with_labels(data.train, 0.25, seed=0).stages
    known = quarter[quarter >= 0]
    for name, labels in (("staging", data.train.stages), ("staging_scratch_25", known)):
        copies = len(sizes[name]) // len(labels)
        assert sizes[name].tolist() == labels.tolist() * copies
        assert 128 <= copies * len(labels) < 128 + len(labels), "a batch of 128 fits in"
    with_others = sizes["staging_25"]
    assert (with_others < 0).sum() == len(data.train) - len(known)
    assert 0.4 < np.mean(with_others >= 0) < 0.6, "labelled studies are repeated until they are about half"
    assert (sizes["staging_noise_20_none"] != sizes["staging"]).any()


def test_a_student_starts_from_its_teacher():
    data, teacher = screening_data(160), experiments.load_pretrained("mskpt")
    row = ROWS["staging_25"]
    system = row.start(row, data, TINY, 0, {"teacher": teacher})
    for own, other in zip(system.image_encoder.parameters(), teacher.image_encoder.parameters()):
        assert torch.equal(own, other)
    scratch = ROWS["staging_scratch"].start(ROWS["staging_scratch"], data, TINY, 0, {})
    assert scratch.projector is None and not scratch.config.taught


def test_shuffled_pairs_keep_images_and_reports_but_not_who_belongs_to_whom():
    data, row = screening_data(160), ROWS["mskpt_shuffled"]
    mixed = row.train_set(row, data, 0)
    assert (mixed.images == data.train.images).all() and (mixed.stages == data.train.stages).all()
    assert sorted(mixed.reports) == sorted(data.train.reports)
    assert np.mean([a == b for a, b in zip(mixed.reports, data.train.reports)]) < 0.2
    assert row.train_set(row, data, 1).reports != mixed.reports


def test_a_student_can_start_from_an_encoder_that_learned_findings_from_labels():
    data, parent = screening_data(160), experiments.load_pretrained("supervised")
    row = ROWS["staging_supervised_n30"]
    system = row.start(row, data, TINY, 0, {"start": parent})
    assert torch.equal(system.image_encoder.body[1].weight, parent.image_encoder.body[1].weight)
    given = experiments.with_labels(data.train, row.draw.labels, seed=0).stages
    often = np.bincount(given[given >= 0], minlength=4)
    assert often.min() >= 1 and system.class_weights.tolist() == pytest.approx(list(often.sum() / (4 * often)))


def test_the_weight_of_distillation_is_chosen_by_validation_alone():
    def record(*ends):
        runs = [{"curve": {"validation": {"values": [0.9, end]}}, "macro_f1": 1 - end} for end in ends]
        return records.RunRecord("row", "long", [0, 1], "", metrics={"runs": runs})

    found = {row: record(0.5, 0.6) for row in experiments.staging.LAMBDAS.values()}
    assert experiments.staging.chosen_lambda(found) == 0.0, "of equals the smaller"
    found["staging_light"] = record(0.4, 0.75)
    assert experiments.staging.chosen_lambda(found) == 0.1
    with pytest.raises(ValueError, match="no record of staging_lambda_30"):
        experiments.staging.chosen_lambda({row: r for row, r in found.items() if row != "staging_lambda_30"})
    for weight, name in experiments.staging.LAMBDAS.items():
        config = experiments.runner.system_config("staging", ROWS[name].options, LONG)
        assert config["text_weight"] == config["data_weight"] == weight


def test_rows_of_medklip_change_one_part_at_a_time():
    shared = {ROWS[name].training for name in ("medklip", "filter_linear", "labels_linear")}  # fmt: skip
    assert len(shared) == 1, "equal images, crop and learning rate"
    steps = (("medklip_names_no_position", "medklip_names"), ("medklip_names", "medklip"), ("filter_linear", "filter_attention"),
             ("labels_linear", "filter_linear"), ("medklip", "medklip_no_position"), ("medklip", "medklip_position_1"),
             ("medklip", "medklip_norm_only"), ("medklip", "medklip_no_dropout_only"), ("medklip", "medklip_swapped"),
             ("medklip", "medklip_shuffled_positions"), ("medklip_onehot", "medklip_names_no_position"))  # fmt: skip
    for first, second in steps:
        one, two = (runner.system_config(ROWS[n].system, ROWS[n].options, LONG) for n in (first, second))
        assert len([key for key in one if one[key] != two[key]]) == 1, (first, second)
        assert ROWS[first].training == ROWS[second].training
    for name in ("medklip", "filter_linear", "labels_linear"):
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


def test_a_row_draws_images_of_its_own_size():
    row = ROWS["staging_vit_224"]
    assert row.image_size(LONG) == 224 and ROWS["staging"].image_size(LONG) == LONG.image_size
    assert row.data(TINY).train.size == 224
    system = row.start(row, row.data(TINY), TINY, 0, {})
    assert system.probabilities(torch.zeros(1, 1, 224, 224)).shape == (1, 4)

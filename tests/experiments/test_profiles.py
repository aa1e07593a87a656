from dataclasses import asdict, replace

import pytest
import torch

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.experiments import PROFILES, ROWS, Profile, Training, build_system, profile_of, runner
from medvlp_lite.experiments.profiles import FULL_SYSTEMS, system_config, untrained_twin

FULL = PROFILES["full"]
TOKENIZER = ReportTokenizer.train(["There is a small left pleural effusion. No pneumothorax."], 120)
SYSTEMS = {row.system: row for row in reversed(ROWS.values())}
MILLIONS = {"supervised": 23, "convirt": 105, "medklip": 14, "maco": 190, "medfilip": 105, "mskpt": 105, "staging": 23}
"""Least parameters in millions: a ResNet-50 has 23.5 (8.5 up to layer 3), a ViT-B/16 86, a BERT-base without its words 86."""


def on_meta(name: str):
    given = {"text_width": 256} if name == "medklip" else {}  # else its frozen text vectors would be computed
    with torch.device("meta"):
        return build_system(name, TOKENIZER, {**SYSTEMS[name].options, **given}, FULL)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_profile_full_builds_what_the_papers_train(name):
    system = on_meta(name)
    assert FULL.options(name)["image_size"] == (448 if name == "maco" else 224)
    assert sum(p.numel() for p in system.parameters()) > 1e6 * MILLIONS.get(name, 0)
    if name == "maco":
        encoder = system.image_encoder
        assert (encoder.width, len(encoder.blocks), encoder.stride, encoder.grid) == (768, 12, 16, 14)
    else:
        assert system.image_encoder.width == (1024 if name == "medklip" else 2048)
    if hasattr(system, "text_encoder"):
        assert system.text_encoder.width == 768 and system.text_encoder.bert.config.num_hidden_layers == 12


def test_full_is_for_one_gpu_of_80_gb():
    assert (FULL.precision, FULL.batch_size, FULL.image_size) == ("bf16", 128, 224)
    assert set(FULL_SYSTEMS) == set(SYSTEMS), "every system has a full size"
    assert all(row.training.config(FULL).learning_rate <= 2e-4 for row in ROWS.values())


def test_small_profiles_build_small_systems():
    for name, row in SYSTEMS.items():
        system = build_system(name, TOKENIZER, row.options, PROFILES["read"])
        assert sum(p.numel() for p in system.parameters()) < 2e6, name


def test_a_config_names_every_option_with_its_default():
    system = build_system("medklip", TOKENIZER, SYSTEMS["medklip"].options, FULL)
    config = system_config("medklip", SYSTEMS["medklip"].options, FULL)
    assert config["width"] == 256 and config["image_encoder"] == "resnet50_layer3"
    assert {**asdict(system.config), "text_width": None} == config


def test_a_twin_has_the_same_shape_and_other_weights():
    torch.manual_seed(0)
    system = build_system("convirt", TOKENIZER, {"dim": 16}, PROFILES["smoke"])
    twin = untrained_twin(system)
    shapes = [{name: p.shape for name, p in one.named_parameters()} for one in (system, twin)]
    assert shapes[0] == shapes[1] and not torch.equal(system.image_projection.weight, twin.image_projection.weight)


def test_training_takes_its_share_of_a_profile_by_hand():
    profile = Profile(studies=100, steps=1200, batch_size=64, seeds=1, precision="bf16", lr_scale=0.5)
    config = Training(1e-3, share=0.5, times=2, batch=0.5, crop=0.7).config(profile, 3)
    assert (config.steps, config.batch_size, config.learning_rate, config.crop, config.seed) == (1200, 32, 5e-4, 0.7, 3)
    assert config.precision == "bf16"
    assert Training(share=0.1).config(Profile(1, 4, 2, 1)).steps == 1


def test_unknown_profiles_are_refused():
    with pytest.raises(ValueError, match="no profile 'tiny'; use one of smoke"):
        profile_of("tiny")


def test_confirmation_is_the_long_profile_on_draws_that_nothing_else_opens():
    long, last = PROFILES["long"], PROFILES["confirmation"]
    assert replace(last, first=0, name="long") == long and last.first == 100
    row, start = ROWS["medklip"], ROWS["start"]
    assert row.seeds_at(last) == [100, 101, 102, 103, 104] and start.seeds_at(last) == [0], "the shared start stays"
    assert not {row.draw.seed + s for row in ROWS.values() for s in row.seeds_at(long)} & set(row.seeds_at(last))
    assert runner.training_key(row, last) == runner.training_key(row, long), "everything is frozen"

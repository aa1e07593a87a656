"""How large everything is: profiles from a smoke test to a GPU, and how a row's training and a system follow from them.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.systems.base import System
from medvlp_lite.training import TrainingConfig

RESNET_BERT = {"image_encoder": "resnet50", "text_encoder": "base", "max_length": 256}
FULL_SYSTEMS: dict[str, dict[str, Any]] = {
    "unimodal": RESNET_BERT,
    "supervised": {"image_encoder": "resnet50"},
    "convirt": {**RESNET_BERT, "dim": 512},
    "medklip": {"image_encoder": "resnet50_layer3", "width": 256, "layers": 4, "feedforward": 1024},
    "maco": {"vit": "b16", "text_encoder": "base", "decoder": (768, 4, 6), "dim": 768, "max_length": 256, "image_size": 448},
    "medfilip": {**RESNET_BERT, "dim": 768},
    "mskpt": RESNET_BERT,
    "staging": {"image_encoder": "resnet50"},
}  # fmt: skip
"""The papers' encoders and widths: ResNet-50, ViT-B/16 on images halved from 448 pixels, BERT-base."""


@dataclass(frozen=True)
class Profile:
    """How large an experiment is."""

    studies: int  # phantoms drawn
    steps: int  # optimiser steps, of which each row takes its share
    batch_size: int
    seeds: int
    precision: str = "no"  # Accelerate's
    image_size: int = 112  # pixels, where a system has no size of its own
    lr_scale: float = 1.0  # multiplies every row's learning rate: wide encoders bear less
    systems: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # options of each system at this size
    first: int = 0  # the first seed
    name: str = "own"

    def options(self, system: str) -> dict[str, Any]:
        """The options of a system's size: encoders, widths, and the side of its images."""
        return {"image_size": self.image_size, **self.systems.get(system, {})}


PROFILES = {
    "smoke": Profile(studies=320, steps=4, batch_size=16, seeds=1, name="smoke"),
    "read": Profile(studies=3000, steps=220, batch_size=64, seeds=1, name="read"),
    "long": Profile(studies=20000, steps=2000, batch_size=64, seeds=5, precision="bf16", name="long"),
    "full": Profile(
        studies=60000, steps=20000, batch_size=128, seeds=5, precision="bf16", image_size=224, lr_scale=0.1,
        systems=FULL_SYSTEMS, name="full",
    ),
}  # fmt: skip
PROFILES["confirmation"] = replace(PROFILES["long"], first=100, name="confirmation")
"""The long profile on draws 100 to 104, which are opened once, at the end, for claims whose rows are all decided."""


def profile_of(profile: str) -> Profile:
    """A profile by name. Raises ValueError naming the profiles."""
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}; use one of {', '.join(PROFILES)}")
    return PROFILES[profile]


@dataclass(frozen=True)
class Training:
    """How long and how fast a row learns, measured by its profile.

    It takes ``share`` of the profile's steps, ``times`` over, with ``batch`` of its batch size.
    """

    learning_rate: float = 1e-3
    share: float = 1.0
    times: int = 1
    batch: float = 1.0  # share of the profile's batch size
    weight_decay: float = 0.02
    crop: float = 1.0

    def config(self, profile: Profile, seed: int = 0) -> TrainingConfig:
        """The training configuration of one seed at a profile."""
        return TrainingConfig(
            steps=self.times * max(1, int(self.share * profile.steps)),
            batch_size=max(1, int(self.batch * profile.batch_size)),
            learning_rate=self.learning_rate * profile.lr_scale,
            weight_decay=self.weight_decay,
            crop=self.crop,
            precision=profile.precision,
            seed=seed,
        )


def build_system(name: str, tokenizer: ReportTokenizer, options: Mapping[str, Any], profile: Profile) -> System:
    """An untrained system at a profile's size; ``options`` come first where both name one."""
    kind = System.registry[name]
    return kind(tokenizer, kind.Config(**{**profile.options(name), **options}))


def system_config(name: str, options: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """Every option of a system as ``build_system`` would set it, defaults included."""
    return asdict(System.registry[name].Config(**{**profile.options(name), **options}))


def untrained_twin(system: System) -> System:
    """A new system with the same options and tokenizer, and random weights."""
    return type(system)(system.tokenizer, system.config).to(system.device)

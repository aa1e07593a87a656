"""What a chapter's first cells call: where it runs, how much it computes, and how its figures look."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

PROFILES = ("smoke", "read", "full")
Value = TypeVar("Value")

_SETUP = """# Installs the library where it is missing (Colab), and keeps the torch that is already there.
import importlib.metadata
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("medvlp_lite") is None:
    present = {{d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}}
    keep = [f"{{name}}=={{present[name]}}" for name in ("torch", "torchvision", "numpy") if name in present]
    source = os.environ.get("MEDVLP_SOURCE", "git+{repository}")
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", source, *keep])"""


def setup_cell(repository: str) -> str:
    """The source of every chapter's set-up cell; ``repository`` is the address that stands in ``_config.yml``."""
    return _SETUP.format(repository=repository)


@dataclass(frozen=True)
class Chapter:
    """Where a chapter runs: its profile, its seed and its real data folder (None when there is none)."""

    name: str
    profile: str
    seed: int
    data: Path | None

    def pick(self, *, smoke: Value, read: Value, full: Value) -> Value:
        """The value of the profile that runs: ``chapter.pick(smoke=8, read=400, full=20_000)``."""
        return {"smoke": smoke, "read": read, "full": full}[self.profile]


def profile_from_environment() -> str:
    """MEDVLP_PROFILE, or "read". Raises ValueError for a profile that does not exist."""
    profile = os.environ.get("MEDVLP_PROFILE") or "read"
    if profile not in PROFILES:
        raise ValueError(f"MEDVLP_PROFILE is {profile!r}; use one of {', '.join(PROFILES)}")
    return profile


def begin(name: str, *, profile: str | None = None, seed: int = 0) -> Chapter:
    """Start a chapter: choose the profile, seed torch and numpy, set the figure style, print one line on the environment.

    Raises ValueError for an unknown profile.
    """
    import random

    import numpy as np
    import torch

    from medvlp_lite.figures.style import use_style
    from medvlp_lite.records.record import commit, device_name
    from medvlp_lite.sources.registry import data_root

    profile = profile or profile_from_environment()
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}; use one of {', '.join(PROFILES)}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    use_style()
    root = data_root()
    data = root if root.is_dir() and any(root.iterdir()) else None
    print(f"{name} | profile {profile} | seed {seed} | real data {'at hand' if data else 'not here'}")
    print(f"torch {torch.__version__} on {device_name()} | commit {commit() or 'unknown'}")
    return Chapter(name, profile, seed, data)


def check(condition: bool, hint: str) -> None:
    """Say that an exercise is solved, or raise AssertionError with a hint. ``hint`` must not give the answer away."""
    if not condition:
        raise AssertionError(f"Not yet. {hint}")
    print("Solved.")


def glue(name: str, value: object) -> None:
    """Keep a value under ``name`` so that prose on the page can quote it; does nothing where MyST-NB is not installed."""
    try:
        from myst_nb import glue as keep
    except ImportError:
        return
    keep(name, value, display=False)

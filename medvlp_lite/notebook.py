"""What a chapter's first cells call: where it runs, how much it computes, and how its figures look."""

from __future__ import annotations

import atexit
import functools
import os
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
    _note_memory_at_exit(name)
    root = data_root()
    data = root if root.is_dir() and any(root.iterdir()) else None
    print(f"{name} | profile {profile} | seed {seed} | real data {'at hand' if data else 'not here'}")
    print(f"torch {torch.__version__} on {device_name()} | commit {commit() or 'unknown'}")
    return Chapter(name, profile, seed, data)


def _note_memory_at_exit(name: str) -> None:
    """Leave this process's peak memory (MB) in the folder that MEDVLP_MEMORY names, for the page on the build."""
    from medvlp_lite.records.record import peak_memory_mb

    if folder := os.environ.get("MEDVLP_MEMORY"):
        atexit.register(lambda: Path(folder, f"{name}.txt").write_text(f"{peak_memory_mb():.0f}", encoding="utf-8"))


class NotYet(AssertionError):
    """An answer that is not right yet. A notebook shows its one sentence, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def require(condition: bool, hint: str) -> None:
    """One part of a checker: raises NotYet with ``hint``, which must not give the answer away, unless ``condition``."""
    if not condition:
        raise NotYet(f"Not yet. {hint}")


def exercise(kind: type | tuple[type, ...], expects: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Decorator of a checker, a function of one answer that calls ``require`` once for each part.

    The checker then prints "Solved." once, after its last part. None, the answer of an untouched cell, prints what is
    expected. An answer of another type, or one that cannot be used, raises NotYet with a hint.

    Args:
        kind: the type of an answer, for example ``dict``, ``numbers.Real`` or ``collections.abc.Callable``.
        expects: the same in words, for example "a function of one position name".
    """

    def decorate(check: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(check)
        def checked(answer: Any) -> None:
            if answer is None:
                print(textwrap.fill(f"No answer yet. Expected: {expects}.", 76))
                return
            require(isinstance(answer, kind), f"Expected: {expects}. Got: {type(answer).__name__}.")
            try:
                check(answer)
            except NotYet:
                raise
            except Exception as error:
                raise NotYet(f"Not yet. {_what_failed(answer, error, expects)}") from error
            print("Solved.")

        checked.expects = expects
        return checked

    return decorate


def _what_failed(answer: Any, error: Exception, expects: str) -> str:
    """A hint on an error. Only one that the reader's own function raised is quoted: ours could give the answer away."""
    file = getattr(getattr(answer, "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if lines:
        return f"Line {lines[-1]} of your cell raised {type(error).__name__}: {error}."
    return f"The answer could not be used. Expected: {expects}."


def glue(name: str, value: object) -> None:
    """Keep a value under ``name`` so that prose on the page can quote it; does nothing where MyST-NB is not installed."""
    try:
        from myst_nb import glue as keep
    except ImportError:
        return
    keep(name, value, display=False)

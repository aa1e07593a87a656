"""Every row whose record is missing or stale, in N processes that can be killed; and one record run again.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from functools import cache
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from medvlp_lite.evaluation.intervals import Interval, prediction_interval
from medvlp_lite.experiments.profiles import Profile, profile_of
from medvlp_lite.experiments.runner import ROWS, Log, Row, committed, place_of, row_of, run_row, run_seed, stale
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


Job = tuple[Row, int]  # a row and a seed
DONE = "done"


def schedule(rows: Iterable[Row], profile: Profile, out: Path) -> list[Job]:
    """The seeds to run, all rows at one seed before the next, parents before children: those without a fresh record, and parents
    whose weights are not at hand.
    """
    order: dict[tuple[str, int], Job] = {}

    @cache
    def fresh(name: str) -> bool:
        return not stale(row_of(name), load_record(name, profile.name, out), profile)

    def add(row: Row, seed: int, needed: bool) -> None:
        done = fresh(row.name)
        weights = (place_of(out, row, profile, seed) / "weights").is_dir() or committed(row, profile, seed)
        if (row.name, seed) in order or (done and (weights or not needed)):
            return
        for parent in parents_of((row, seed), profile):
            add(*parent, needed=True)
        order[row.name, seed] = row, seed

    rows = list(rows)
    for seed in sorted({seed for row in rows for seed in row.seeds_at(profile)}):
        for row in rows:
            if seed in row.seeds_at(profile):
                add(row, seed, needed=False)
    return list(order.values())


def reproduce(
    profile: Profile, patterns: Sequence[str] = ("*",), *, jobs: int = 1, hours: float | None = None,
    out: Path, log: Log = print,
) -> list[str]:  # fmt: skip
    """Run every seed of the selected rows whose record in ``out`` is missing or stale, in niced processes with one thread each.

    A record is written as soon as one seed is done, and again with each further one. After ``hours`` what runs is stopped, to go
    on from its last checkpoint next time. A row that needs an extra which is not installed is skipped. Returns the names of the
    other rows without a fresh record. Raises ValueError for a pattern that fits no row.
    """
    rows, failed = selected(patterns), set()
    for row in [row for row in rows if not row.runnable]:
        rows.remove(row)
        log(f"{row.name}: skipped, it needs the extra `{row.needs}`: pip install medvlp-lite[{row.needs}]")
    waiting = schedule(rows, profile, out)
    names = list(dict.fromkeys(row.name for row, _ in waiting))
    end = time.monotonic() + 3600 * hours if hours else float("inf")
    log(f"{len(waiting)} seeds to run, of {', '.join(names)}" if waiting else "every record is there")
    os.environ.update({**dict.fromkeys(THREADS, "1"), "TOKENIZERS_PARALLELISM": "false"})
    workers = [_Worker(profile, out) for _ in range(min(jobs, len(waiting)))]
    while (waiting or any(worker.job for worker in workers)) and time.monotonic() < end:
        for worker in workers:
            if not worker.job and (job := _next(waiting, workers, failed, profile, log)):
                worker.start(job)
        busy = [worker for worker in workers if worker.job]
        if busy:
            pause = min(5.0, max(0.0, end - time.monotonic()))
            connection.wait(
                [handle for worker in busy for handle in (worker.pipe, worker.process.sentinel)], timeout=pause
            )
        for worker in busy:
            if result := worker.result():
                row, seed = worker.finish()
                log(f"{row.name}, seed {seed}: {result}; {len(waiting) + sum(bool(one.job) for one in workers)} left")
                failed |= {(row.name, seed)} if result != DONE else set()
                if result == DONE:
                    _publish_done(row, profile, out)
    for worker in workers:
        worker.stop()
    return [name for name in names if stale(row_of(name), load_record(name, profile.name, out), profile)]


def parents_of(job: Job, profile: Profile) -> list[Job]:
    """What a seed of a row starts from."""
    return [(row, row.seed_for(job[1], profile)) for row in map(row_of, job[0].parents.values())]


def _next(waiting: list[Job], workers: Sequence[_Worker], failed: set, profile: Profile, log: Log) -> Job | None:
    """Take the first job whose parents are neither waiting nor running; those whose parents failed are dropped."""
    unfinished = {(row.name, seed) for row, seed in [*waiting, *(worker.job for worker in workers if worker.job)]}
    for job in list(waiting):
        parents = {(row.name, seed) for row, seed in parents_of(job, profile)}
        if lost := failed & parents:
            waiting.remove(job)
            failed.add((job[0].name, job[1]))
            unfinished.discard((job[0].name, job[1]))
            log(f"{job[0].name}, seed {job[1]}: not run, {', '.join(name for name, _ in lost)} failed")
        elif not parents & unfinished:
            waiting.remove(job)
            return job
    return None


def _publish_done(row: Row, profile: Profile, out: Path) -> None:
    """Write the record of the seeds that are done."""
    done = [seed for seed in row.seeds_at(profile) if (place_of(out, row, profile, seed) / "run.json").is_file()]
    run_row(row, profile, out, done)


class _Worker:
    """A process that runs one seed after the other, and keeps what it has drawn; a new one takes the place of one that died."""

    def __init__(self, profile: Profile, out: Path):
        self.profile, self.out, self.job, self.process, self.pipe = profile, out, None, None, None

    def start(self, job: Job) -> None:
        """Give it a seed of a row to run."""
        if not (self.process and self.process.is_alive()):
            context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
            context.set_forkserver_preload(PRELOADED)
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=_work, args=(other, self.profile, self.out), daemon=True)
            self.process.start()
            other.close()
        self.job = job
        self.pipe.send((job[0].name, job[1]))

    def result(self) -> str:
        """What became of the job, or "" while it runs."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
        return "" if self.process.is_alive() else f"failed with exit code {self.process.exitcode}"

    def finish(self) -> Job:
        """The job that has ended; the worker is free for another."""
        job, self.job = self.job, None
        return job

    def stop(self) -> None:
        """End the process at once."""
        if self.process:
            self.process.kill()
            self.process.join()


def _work(pipe: connection.Connection, profile: Profile, out: Path) -> None:
    """Run the seeds that come through the pipe, in a process that ends at once when the one that started it does."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    torch.set_num_threads(1)
    while True:
        name, seed = pipe.recv()
        try:
            run_seed(row_of(name), profile, seed, out)
            pipe.send(DONE)
        except Exception as error:
            traceback.print_exc()
            pipe.send(f"failed: {type(error).__name__}: {error}")


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

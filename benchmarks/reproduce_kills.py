"""Records from nothing, once in one go and once through kills at random moments: ``python benchmarks/reproduce_kills.py``.

Prints seconds, kills, and whether both folders hold the same records but for the clock; exit code 1 when they do not.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medvlp_lite.experiments.runner import without_clock
from medvlp_lite.records.record import RunRecord


def run(out: Path, chosen: argparse.Namespace, kill_at: int | None = None, pause: float = 0.0) -> int:
    """Run the command, killed ``pause`` seconds after a number of records is there; its exit code, negative when killed."""
    command = [sys.executable, "-m", "medvlp_lite.cli", "reproduce", "--profile", chosen.profile, "--out", str(out)]
    command += ["--jobs", str(chosen.jobs), "--rows", *chosen.rows]
    started = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[1], stdout=subprocess.DEVNULL)
    while kill_at is not None and started.poll() is None:
        if len(list(out.glob("*.json"))) >= kill_at:
            time.sleep(pause)
            started.send_signal(signal.SIGKILL)
            break
        time.sleep(0.05)
    return started.wait()


def records(out: Path) -> dict[str, dict]:
    """The records of a folder by file name, without what a clock put there."""
    return {path.name: without_clock(RunRecord.load(path)) for path in sorted(out.glob("*.json"))}


def main() -> int:
    """Make the records twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--rows", nargs="+", default=["*"])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed, generator = Path(folder) / "whole", Path(folder) / "killed", random.Random(chosen.seed)
        began = time.monotonic()
        code = run(whole, chosen)
        seconds = time.monotonic() - began
        print(f"in one go: exit code {code}, {len(records(whole))} records, {seconds:.0f} s", flush=True)
        began, kills, count = time.monotonic(), 0, len(records(whole))
        for moment in sorted(generator.choices(range(count), k=chosen.kills)):
            kills += run(killed, chosen, moment, generator.uniform(0, 2 * seconds / count)) < 0
            print(f"kill {kills}: {len(records(killed))} records", flush=True)
        code = run(killed, chosen)
        same = records(whole) == records(killed)
        print(f"{kills} kills: exit code {code}, {len(records(killed))} records, {time.monotonic() - began:.0f} s")
        print("the records are equal but for the clock" if same else "THE RECORDS DIFFER")
    return 0 if same and count else 1


if __name__ == "__main__":
    sys.exit(main())

"""Time and memory of a command, and of the whole of `make test`.

measure.py --keep NEW KEPT takes the times of a build over into the file of the profiles measured so far.
measure.py NAME COMMAND... runs a command and says how long it took and how much memory its largest process held.
As a pytest plugin (-p measure) it adds the time since MEDVLP_STARTED to pytest's summary.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

try:
    import resource
except ImportError:
    resource = None


def peak_memory() -> str:
    """Peak memory of the largest process so far, this one and its finished children, as text."""
    if resource is None:
        return "not measured on this system"
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.2f} GiB in the largest process"


def duration(seconds: float) -> str:
    """Seconds as minutes and seconds, as text."""
    return "{} min {:02d} s".format(*divmod(round(seconds), 60))


def pytest_terminal_summary(terminalreporter) -> None:
    """Say how long `make test` took as a whole; pytest's own closing line follows."""
    if "MEDVLP_STARTED" in os.environ:
        took = duration(time.time() - float(os.environ["MEDVLP_STARTED"]))
        terminalreporter.write_line(f"make test: {took} with lint and book; tests: peak memory {peak_memory()}")


def keep(new: str, kept: str) -> None:
    """Replace in the JSON file ``kept`` the profiles that the JSON file ``new`` holds."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in map(Path, (kept, new)) if file.is_file()]
    Path(kept).write_text(
        json.dumps({k: v for one in found for k, v in one.items()}, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    if sys.argv[1] == "--keep":
        keep(*sys.argv[2:])
        sys.exit()
    name, *command = sys.argv[1:]
    start = time.monotonic()
    status = subprocess.call(command)
    outcome = "done" if status == 0 else f"FAILED (exit status {status})"
    print(f"{name}: {outcome} in {duration(time.monotonic() - start)}, peak memory {peak_memory()}", flush=True)
    sys.exit(status)

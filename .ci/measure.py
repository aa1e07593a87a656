"""Run a command and say how long it took and how much memory its largest process held: measure.py NAME COMMAND..."""

import subprocess
import sys
import time

try:
    import resource
except ImportError:
    resource = None


def peak_memory() -> str:
    """Peak memory of the largest finished child process, as text."""
    if resource is None:
        return "not measured on this system"
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.2f} GiB in the largest process"


if __name__ == "__main__":
    name, *command = sys.argv[1:]
    start = time.monotonic()
    status = subprocess.call(command)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    outcome = "done" if status == 0 else f"FAILED (exit status {status})"
    print(f"{name}: {outcome} in {minutes} min {seconds:02d} s, peak memory {peak_memory()}", flush=True)
    sys.exit(status)

"""Programs that two processes run together, for tests of what several GPUs or machines would do."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run_two_processes(source: str, folder: Path, timeout: int = 300) -> list[str]:
    """Run Python source in two processes joined by torchrun, and return what each wrote by ``say(...)``, by rank.

    The source may import what tests import, from anywhere below this folder; ``say`` is defined for it.
    """
    script = folder / "together.py"
    paths = [str(HERE), *(str(path) for path in HERE.iterdir() if path.is_dir())]
    said = f"""
import os, sys
sys.path[:0] = {paths!r}
def say(*words):
    with open({str(folder)!r} + "/said-" + os.environ["RANK"], "a", encoding="utf-8") as out:
        print(*words, file=out)
"""
    script.write_text(said + source, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:]
    return [(folder / f"said-{rank}").read_text(encoding="utf-8").rstrip("\n") for rank in range(2)]

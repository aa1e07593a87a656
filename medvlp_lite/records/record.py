"""Where a number comes from: one JSON record per run, with everything needed to make it again.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medvlp_lite.cache import source_fingerprint
from medvlp_lite.training import write_whole

PACKAGE = Path(__file__).parent.parent
COLLAPSED_BELOW, FITTED_BELOW = 0.05, 0.01


@dataclass
class RunRecord:
    """One run: what was run, on what, with which code and data, and what came out.

    Use ``RunRecord.start(...)``, fill ``metrics``, then ``finish()``.
    """

    name: str
    profile: str
    seeds: list[int]
    data: str
    commit: str = ""
    source: str = ""
    device: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(
        cls, name: str, *, profile: str, seeds: list[int], data: str, settings: dict[str, Any] | None = None
    ) -> RunRecord:
        """A record of a run that begins now; ``data`` is the fingerprint of its data set."""
        record = cls(name, profile, seeds, data, settings=settings or {})
        record.commit, record.source, record.device = commit(), source_fingerprint(), device_name()
        record.packages = package_versions()
        record.started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record._clock = time.perf_counter()
        return record

    def finish(self) -> RunRecord:
        """Stop the clock and read the peak memory."""
        self.seconds = round(time.perf_counter() - self._clock, 1)
        self.peak_memory_mb = round(peak_memory_mb(), 1)
        return self

    def save(self, folder: str | Path) -> Path:
        """Write ``<folder>/<name>-<profile>.json`` and return its path."""
        path = Path(folder) / f"{self.name}-{self.profile}.json"
        write_whole(path, json.dumps(plain(asdict(self)), indent=2, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """Read a saved record. Raises ValueError naming the file when it is not one."""
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a run record: {error}") from error

    @property
    def collapsed(self) -> int:
        """The number of seeds in which some class of the test set is answered in less than 5 % of its cases."""
        tables = (run.get("confusion") or run.get("probe", {}).get("confusion") for run in self.metrics.get("runs", ()))
        return sum(lowest_recall(table) < COLLAPSED_BELOW for table in tables if table)

    @property
    def converged(self) -> bool | None:
        """Whether, in every seed, the last doubling of images moved the validation measure by less than .01; None without curves."""
        curves = [run.get("curve", {}).get("validation", {}) for run in self.metrics.get("runs", ())]
        if not curves or any(len(curve.get("values", ())) < 2 for curve in curves):
            return None
        return all(last_doubling(curve["images"], curve["values"]) < FITTED_BELOW for curve in curves)

    @property
    def of_today(self) -> bool:
        """Whether it was made on the phantom of today and measured as today: only then does it decide a claim."""
        return self.settings.get("revision") == REVISION

    @property
    def confirmation(self) -> bool:
        """Whether the run was made on the draws that are opened once, at the end."""
        return bool(self.settings.get("confirmation"))


def lowest_recall(confusion: Sequence[Sequence[int]]) -> float:
    """The smallest share of a class's cases that are answered right; rows (K, K) are the truth, classes without a case do not count."""
    return min(row[k] / sum(row) for k, row in enumerate(confusion) if sum(row))


def last_doubling(images: Sequence[int], values: Sequence[float]) -> float:
    """How far a curve moved between half of its last number of images and the last, linear between its points."""
    places = zip(images, images[1:], values, values[1:])
    half = images[-1] / 2
    before = next((a + (b - a) * (half - x) / (y - x) for x, y, a, b in places if x <= half <= y), values[0])
    return abs(values[-1] - before)


REVISION = 3  # goes up when the phantom, or what a measure means, changes: every record made before is stale then


def results_folder() -> Path:
    """Where the committed records stand: inside an installed package, or in ``book/results`` of a checkout."""
    installed = PACKAGE / "results"
    return installed if installed.is_dir() else PACKAGE.parent / "book" / "results"


def load_record(name: str, profile: str = "long", folder: Path | None = None) -> RunRecord | None:
    """The record of a row in a folder, by default the committed one, or None when there is none."""
    path = (folder or results_folder()) / f"{name}-{profile}.json"
    return RunRecord.load(path) if path.is_file() else None


def plain(value: Any) -> Any:
    """Only what JSON knows; NaN and infinity, which JSON does not know, become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def commit() -> str:
    """The commit of the checkout, with "+changes" if the library was edited; "" outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--", str(PACKAGE)) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def device_name() -> str:
    """The accelerator's name, or the processor's with its number of threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a number."""
    from importlib.metadata import version

    names = ("medvlp-lite", "torch", "torchvision", "transformers", "accelerate", "numpy", "scikit-learn")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MB; NaN where the platform does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)

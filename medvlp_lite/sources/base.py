"""What every loader shares: its answer, the sentence it fails with, and how tables and image folders are read.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medvlp_lite.studies import Box, Study

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class SourceError(ValueError):
    """A data set cannot be read: one sentence that names the file (and row) and says what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


@dataclass(frozen=True)
class LoadResult:
    """What a loader returns: the studies, what it left out and why, and what it kept but a reader should know.

    ``skipped`` and ``notes`` map a reason to a count.
    """

    source: str
    studies: list[Study] = field(repr=False)
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line: how many studies, patients and images, what was skipped, and what to know."""
        patients = len({study.patient_id for study in self.studies})
        images = sum(study.pixels is not None for study in self.studies)
        line = f"{self.source}: {len(self.studies)} studies of {patients} patients, {images} with an image"
        for title, counts in (("skipped", self.skipped), ("note", self.notes)):
            listed = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
            line += f"; {title}: {listed}" if listed else ""
        return line

    def __len__(self) -> int:
        return len(self.studies)


def loaded(source: str, studies: list[Study], skipped: Counter, notes: Counter) -> LoadResult:
    """Put a loader's answer together. Raises SourceError when not one study is left."""
    if not studies:
        reasons = ", ".join(f"{reason} {count}" for reason, count in skipped.items()) or "its tables have no rows"
        raise SourceError(f"{source}: no study could be loaded ({reasons}); check that the set's folder is complete")
    return LoadResult(source, studies, dict(skipped), dict(notes))


def row_error(path: Path, line: int, problem: object, advice: str = "fetch the official file again") -> SourceError:
    """The error that names a table's file and line."""
    return SourceError(f"{path}, line {line}: {problem}; {advice}")


def read_rows(
    path: Path, required: Sequence[str], *, comment: str | None = None, optional: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file as (line number, {column: stripped text}); lines that start with ``comment`` are passed over.

    A missing file that is ``optional`` has no rows. Raises SourceError for a missing file, a missing column, a row that is
    too short, or text that is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = ((reader.line_num, row) for row in reader if row and not (comment and row[0].startswith(comment)))
            _, header = next(rows, (0, []))
            header = [name.strip() for name in header]
            missing = [name for name in required if name not in header]
            if missing:
                raise SourceError(f"{path} lacks the column {missing[0]!r}; fetch the official file again")
            width = max((header.index(name) for name in required), default=0) + 1
            for line, row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) < width:
                    raise row_error(path, line, f"{len(row)} cells where at least {width} are due")
                yield line, {name: cell.strip() for name, cell in zip(header, row) if name}
    except FileNotFoundError:
        if optional:
            return
        raise SourceError(f"{path} is missing; put the official file there") from None
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8 text; save it as UTF-8 or fetch the official file again") from None
    except (csv.Error, OSError) as error:
        raise SourceError(f"{path} cannot be read ({error}); fetch the official file again") from None


def number(row: dict[str, str], column: str, path: Path, line: int) -> float:
    """A cell as a float. Raises SourceError naming file, line and column."""
    try:
        value = float(row[column])
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    raise row_error(path, line, f"{column!r} must be a number, got {row[column]!r}", "correct the row")


def pixel_box(row: dict[str, str], columns: Sequence[str], side: int, path: Path, line: int) -> Box:
    """Four cells, x, y, width and height in pixels of a square image of ``side``, as a Box. Raises SourceError as ``number``."""
    values = [number(row, column, path, line) for column in columns]
    try:
        return Box.from_pixels(*values, image_size=(side, side))
    except ValueError as error:
        raise row_error(path, line, error) from None


def image_files(folders: Iterable[Path], suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """The image files that lie in these folders, sorted; a folder that is not there is passed over."""
    for folder in folders:
        if folder.is_dir():
            yield from sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != ".")


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key that puts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def read_image(path: Path) -> np.ndarray:
    """Read an image file as uint8 grey (H, W); colour and alpha are flattened, 16 bit is scaled to 8.

    Raises ValueError naming the file when it cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.mode.startswith("I"):
                values = np.asarray(opened, dtype=np.float64)
                return (255 * (values - values.min()) / max(np.ptp(values), 1)).astype(np.uint8)
            if opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info:
                opened = opened.convert("RGBA")
                backdrop = Image.new("RGBA", opened.size, (0, 0, 0, 255))
                opened = Image.alpha_composite(backdrop, opened)
            return np.asarray(opened.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"image file {path} cannot be read ({error}); delete it and fetch it again") from error

"""What every loader shares: its answer, the sentence it fails with, and how tables and image folders are read.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medvlp_lite.studies import Study

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

    @property
    def summary(self) -> str:
        """One line: how many studies, patients and images, what was skipped, and what to know."""
        patients = len({study.patient_id for study in self.studies})
        images = sum(study.pixels is not None for study in self.studies)
        line = f"{self.source}: {len(self.studies)} studies of {patients} patients, {images} with an image"
        for title, counts in (("skipped", self.skipped), ("note", self.notes)):
            listed = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
            line += f"; {title}: {listed}" if listed else ""
        return line

    def __str__(self) -> str:
        return self.summary

    def __len__(self) -> int:
        return len(self.studies)


def loaded(source: str, studies: list[Study], skipped: Counter, notes: Counter) -> LoadResult:
    """Put a loader's answer together. Raises SourceError when not one study is left."""
    if not studies:
        reasons = ", ".join(f"{reason} {count}" for reason, count in skipped.items()) or "its tables have no rows"
        raise SourceError(f"{source}: no study could be loaded ({reasons}); check that the set's folder is complete")
    return LoadResult(source, studies, dict(skipped), dict(notes))


def read_rows(
    path: Path, required: Iterable[str], *, comment: str | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file as (line number, {column: stripped text}); lines that start with ``comment`` are passed over.

    Raises SourceError for a missing file, a missing column, a row that is too short, or text that is not UTF-8.
    """
    required = list(required)
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
                    found = f"{len(row)} cells where at least {width} are due"
                    raise SourceError(f"{path}, line {line}: {found}; fetch the official file again")
                yield line, {name: cell.strip() for name, cell in zip(header, row) if name}
    except FileNotFoundError:
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
    raise SourceError(f"{path}, line {line}: {column!r} must be a number, got {row[column]!r}; correct the row")


def image_files(folders: Iterable[Path], suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """The image files that lie in these folders, sorted; a folder that is not there is passed over."""
    for folder in folders:
        if folder.is_dir():
            yield from sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != ".")


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key that puts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]

"""NIH ChestX-ray14: 14 text-mined labels per radiograph, radiologists' boxes on a few hundred of them.

Wang et al., ChestX-ray8, CVPR 2017, 3462-3471. Data provider: NIH Clinical Center.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

from medvlp_lite.sources.base import (
    LoadResult,
    SourceError,
    image_files,
    loaded,
    pixel_box,
    read_image,
    read_rows,
    row_error,
)
from medvlp_lite.sources.registry import locate
from medvlp_lite.studies import Box, Finding, Study

LICENCE = "NIH Clinical Center: no restriction on use, attribution required"
HOME = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia", "Infiltration",
    "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
BOX_GRID = 1024
"""Side of the square image in whose pixels the official boxes are given."""

_SPLIT_FILES = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
_STEM = re.compile(r"(\d{8})_\d{3}")
_ABSENT = {label: Finding(label.lower().replace("_", " "), False) for label in LABELS}


def image_folders(root: Path) -> list[Path]:
    """Where the images may lie: ``images/``, ``images_001/images/`` to ``images_012/images/``, or the folder itself."""
    parts = sorted(path for path in root.glob("images_*") if path.is_dir())
    return [root / "images", *(part / "images" for part in parts), *parts, root]


def _table(root: Path) -> Path:
    tables = sorted(root.glob("Data_Entry_2017*.csv"))
    if not tables:
        raise SourceError(f"folder {root} lacks Data_Entry_2017_v2020.csv; fetch it from {HOME}")
    return tables[-1]


def _age(text: str) -> float | None:
    """Years; the 2017 table writes 058Y, 013M, 005D and holds impossible ages, which are unknown."""
    match = re.fullmatch(r"0*(\d+)([YMD]?)", text)
    years = int(match[1]) / {"M": 12, "D": 365}.get(match[2], 1) if match else None
    return years if years is not None and years <= 120 else None


def _boxes(root: Path) -> dict[str, dict[str, tuple[Box, ...]]]:
    """image stem -> {label: boxes}, as fractions of the image. Empty when there is no box table."""
    path = root / "BBox_List_2017.csv"
    boxes: dict[str, dict[str, tuple[Box, ...]]] = defaultdict(dict)
    columns = ("Bbox [x", "y", "w", "h]")
    for line, row in read_rows(path, ("Image Index", "Finding Label", *columns), optional=True):
        label = {"Infiltrate": "Infiltration"}.get(row["Finding Label"], row["Finding Label"])
        if label not in LABELS:
            raise row_error(path, line, f"unknown label {label!r}")
        of_image = boxes[Path(row["Image Index"]).stem]
        of_image[label] = (*of_image.get(label, ()), pixel_box(row, columns, BOX_GRID, path, line))
    return boxes


def _official_split(root: Path) -> dict[str, str]:
    """image stem -> "train_val" or "test". Raises SourceError when an image stands in both lists."""
    part_of: dict[str, str] = {}
    for part, name in _SPLIT_FILES.items():
        path = root / name
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else (), 1):
            stem = Path(text.strip()).stem
            if stem and part_of.setdefault(stem, part) != part:
                raise row_error(path, line, f"{stem} is in both official lists", "fetch the two lists again")
    return part_of


def _findings(labels: list[str], boxes: dict[str, tuple[Box, ...]]) -> tuple[Finding, ...]:
    return tuple(
        replace(absent, present=True, boxes=boxes.get(label, ())) if label in labels or label in boxes else absent
        for label, absent in _ABSENT.items()
    )


def load(root: Path | str | None = None) -> LoadResult:
    """Load NIH ChestX-ray14.

    Every study has all 14 findings, present or absent as mined from its report (``meta["labels_from"]``); a radiologist's
    box hangs on the finding it shows. ``meta["official_split"]`` is "train_val", "test", or None where the lists are not
    there. Rows without an image file are skipped and counted. Files match by stem, so jpg serves for png.
    Raises SourceError naming file and line.
    """
    root = locate("nih", root)
    table = _table(root)
    files: dict[str, Path] = {}
    for path in image_files(image_folders(root)):
        files.setdefault(path.stem, path)
    boxes, part_of = _boxes(root), _official_split(root)
    studies: list[Study] = []
    skipped, notes = Counter(), Counter()
    for line, row in read_rows(table, ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")):
        stem = Path(row["Image Index"]).stem
        match = _STEM.fullmatch(stem)
        if not match:
            raise row_error(table, line, f"image {row['Image Index']!r} is not named like 00000001_000.png")
        labels = [label for label in row["Finding Labels"].split("|") if label != "No Finding"]
        if unknown := [label for label in labels if label not in LABELS]:
            raise row_error(table, line, f"unknown label {unknown[0]!r}")
        if stem not in files:
            skipped["image file not here"] += 1
            continue
        age = _age(row["Patient Age"])
        notes["impossible age, taken as unknown"] += age is None
        notes["with a radiologist's box"] += stem in boxes
        notes["box label missing from the mined labels"] += any(label not in labels for label in boxes.get(stem, ()))
        studies.append(
            Study(
                study_id=f"nih-{stem}",
                patient_id=match[1],
                source="nih",
                pixels=partial(read_image, files[stem]),
                findings=_findings(labels, boxes.get(stem, {})),
                view=row["View Position"] or None,
                licence=LICENCE,
                url=HOME,
                meta={
                    "nih_image": f"{stem}.png",
                    "labels": labels,
                    "labels_from": "text-mined from the report",
                    "normal": not labels,
                    "official_split": part_of.get(stem),
                    "age": age,
                    "sex": row.get("Patient Gender") or None,
                    "follow_up": int(row["Follow-up #"]) if row.get("Follow-up #", "").isdigit() else None,
                },
            )
        )
    return loaded("nih", studies, skipped, notes)

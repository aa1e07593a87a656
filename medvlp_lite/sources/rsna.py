"""RSNA pneumonia detection challenge 2018: radiologists' boxes around lung opacities, on images of ChestX-ray14.

Shih et al., Radiology: Artificial Intelligence 2019;1:e180041.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from medvlp_lite.sources.base import (
    IMAGE_SUFFIXES,
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

LICENCE = "RSNA challenge terms: research, education and other use with attribution; images by NIH Clinical Center"
HOME = "https://www.rsna.org/education/ai-resources-and-training/ai-image-challenge/rsna-pneumonia-detection-challenge-2018"
CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
BOX_GRID = 1024


def read_dicom(path: Path) -> np.ndarray:
    """Read a DICOM radiograph as uint8 grey (H, W), bright bone. Raises ValueError naming the file."""
    try:
        import pydicom
    except ImportError:
        problem = f"{path} is a DICOM file and pydicom is not installed"
        raise ValueError(f"{problem}; run: pip install pydicom (or convert the images to PNG)") from None
    try:
        dataset = pydicom.dcmread(path)
        values = dataset.pixel_array
    except Exception as error:  # pydicom raises many kinds, one per damaged element
        raise ValueError(f"DICOM file {path} cannot be read ({error}); delete it and fetch it again") from error
    if values.ndim != 2:
        raise ValueError(f"DICOM file {path} is not one grey image but {values.shape}; take it out of the folder")
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = ((values.astype(np.float64) - low) * (255 / max(high - low, 1.0))).round().astype(np.uint8)
    return 255 - values if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else values


def _classes(root: Path) -> dict[str, str]:
    path = root / "stage_2_detailed_class_info.csv"
    classes: dict[str, str] = {}
    for line, row in read_rows(path, ("patientId", "class"), optional=True):
        if row["class"] not in CLASSES:
            raise row_error(path, line, f"unknown class {row['class']!r}")
        if classes.setdefault(row["patientId"], row["class"]) != row["class"]:
            raise row_error(path, line, f"{row['patientId']} has two classes")
    return classes


def _twins(root: Path) -> dict[str, str]:
    """patientId -> NIH image, from ``rsna_to_nih.csv`` or from the mapping that RSNA publishes."""
    twins: dict[str, str] = {}
    for path in sorted(root.glob("pneumonia-challenge-dataset-mappings*.json")):
        try:
            twins |= {entry["subset_img_id"]: entry["img_id"] for entry in json.loads(path.read_text(encoding="utf-8"))}
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{path} is not RSNA's table of image identities ({error!r}); fetch it again") from None
    rows = read_rows(root / "rsna_to_nih.csv", ("patientId", "Image Index"), optional=True)
    return twins | {row["patientId"]: row["Image Index"] for _, row in rows}


def _boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    """patientId -> boxes (none: no opacity), rows grouped. Raises SourceError on a contradiction, naming the line."""
    boxes: dict[str, tuple[Box, ...]] = {}
    sides = ("x", "y", "width", "height")
    for line, row in read_rows(path, ("patientId", *sides, "Target")):
        name, target = row["patientId"], row["Target"]
        if target not in ("0", "1"):
            raise row_error(path, line, f"Target must be 0 or 1, got {target!r}")
        if name in boxes and bool(boxes[name]) != (target == "1"):
            raise row_error(path, line, f"{name} has Target 0 and 1")
        new = (pixel_box(row, sides, BOX_GRID, path, line),) if target == "1" else ()
        boxes[name] = boxes.get(name, ()) + new
    return boxes


def load(root: Path | str | None = None) -> LoadResult:
    """Load the RSNA pneumonia challenge: one study per image, with finding "opacity" present with its boxes, or absent.

    The official ``patientId`` names an image. ``rsna_to_nih.csv`` (columns ``patientId,Image Index``) or RSNA's own mapping
    file tells which NIH image it is: the study then carries the NIH patient's id, so that a split by patient keeps the
    twins together; without it the study counts as its own patient, and ``notes`` says how many do. Images are png, jpg or
    DICOM (needs pydicom).
    Raises SourceError naming file and line.
    """
    root = locate("rsna", root)
    folder = root / "stage_2_train_images"
    files = {path.stem: path for path in image_files([folder], (".dcm",))}
    files |= {path.stem: path for path in image_files([folder], IMAGE_SUFFIXES)}
    classes, twins = _classes(root), _twins(root)
    studies: list[Study] = []
    skipped, notes = Counter(), Counter()
    for name, boxes in _boxes(root / "stage_2_train_labels.csv").items():
        path, twin = files.get(name), twins.get(name)
        if path is None:
            skipped["image file not here"] += 1
            continue
        notes["with boxes"] += bool(boxes)
        notes["NIH twin unknown, counted as its own patient"] += twin is None
        studies.append(
            Study(
                study_id=f"rsna-{name}",
                patient_id=twin[:8] if twin else name,
                source="rsna",
                pixels=partial(read_dicom if path.suffix.lower() == ".dcm" else read_image, path),
                findings=(Finding("opacity", bool(boxes), boxes=boxes),),
                licence=LICENCE,
                url=HOME,
                meta={"nih_image": twin, "class": classes.get(name), "labels_from": "radiologists"},
            )
        )
    return loaded("rsna", studies, skipped, notes)

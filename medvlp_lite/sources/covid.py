"""The ieee8023 COVID-19 image data collection: radiographs with notes, lung masks, lung boxes and severity scores.

Cohen et al., arXiv:2003.11597 (collection), 2005.11856 (severity); Selvan et al., 2005.10052 (model-made lung masks).

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medvlp_lite.sources.base import (
    LoadResult,
    SourceError,
    image_files,
    loaded,
    number,
    read_image,
    read_rows,
    row_error,
)
from medvlp_lite.sources.registry import locate
from medvlp_lite.studies import Box, Finding, Study

FRONTAL = ("PA", "AP", "AP Supine", "AP Erect")
HUMAN_MASKS = "semantic_masks_v7labs_lungs.zip"
NOTES_WARNING = "clinical notes mix history with image findings and often name the diagnosis: they leak the label"
IDENTICAL = frozenset({"81ba2932af55c7663e9d87016776a6_jumbo-1.jpeg", "3d4364c0e44859e86017ee1660112e_jumbo-1.jpeg"})
"""The pair of names under which the collection holds one and the same picture."""

_TABLE = json.loads((Path(__file__).parent / "data" / "covid_findings.json").read_text(encoding="utf-8"))
PATHS: dict[str, tuple[str, ...]] = {name: tuple(path) for name, path in _TABLE.items()}
"""Early, flat finding names -> where they stand in the hierarchy that later versions of the collection spell out."""

_FAMILIES = ("viral", "bacterial", "fungal", "lipoid", "aspiration")
_UNCODED = ("todo", "unknown", "")


def finding_paths(text: str) -> list[tuple[str, ...]]:
    """Each named finding as its path from the general to the particular; [] for no finding.

    Reads flat lists (``COVID-19, ARDS``) and hierarchies (``Pneumonia/Viral/COVID-19``).
    """
    paths = []
    for name in (part.strip().lower() for part in text.split(",")):
        if not name or name == "no finding":
            continue
        if "/" not in name:
            paths.append(PATHS.get(name, (name,)))
            continue
        levels = [" ".join(level.split()) for level in name.split("/")]
        paths.append(tuple(f"{level} pneumonia" if level in _FAMILIES else level for level in levels if level))
    return paths


def findings_from(paths: Sequence[tuple[str, ...]], known: Iterable[tuple[str, ...]]) -> tuple[Finding, ...]:
    """Every known entity as a Finding: named ones (and what they are kinds of) present, others absent.

    What would only be a closer name of a stated finding is unknown: "pneumonia" alone says nothing about covid-19. ARDS
    alone leaves its cause unknown.
    """
    present = {entity for path in paths for entity in path}
    cause_unknown = bool(paths) and present == {"ards"}
    states: dict[str, bool | None] = {}
    for path in known:
        for depth, entity in enumerate(path):
            vaguer = any(named == path[: len(named)] and len(named) <= depth for named in paths)
            states.setdefault(entity, True if entity in present else None if vaguer or cause_unknown else False)
    return tuple(Finding(entity, state) for entity, state in sorted(states.items()))


def read_lung_mask(archive: Path | None, member: str | Path, image: Path) -> np.ndarray:
    """A lung mask as bool (H, W) at the size of ``image``; from a zip archive, or from a file when ``archive`` is None.

    Raises ValueError naming the file when it cannot be read.
    """
    from PIL import Image

    binary = _mask_picture(archive, member).point([0] * 127 + [255] * 129)
    try:
        with Image.open(image) as picture:
            size = picture.size
    except OSError as error:
        raise SourceError(f"image file {image} cannot be read ({error}); delete it and fetch it again") from None
    return np.asarray(binary.resize(size, Image.Resampling.BOX)) >= 128


def _mask_picture(archive: Path | None, member: str | Path) -> Any:
    from PIL import Image

    where = f"{archive}:{member}" if archive else str(member)
    try:
        if archive is None:
            return Image.open(member).convert("L")
        with zipfile.ZipFile(archive) as masks:
            return Image.open(io.BytesIO(masks.read(str(member)))).convert("L")
    except (OSError, KeyError, SyntaxError, zipfile.BadZipFile) as error:
        raise SourceError(f"lung mask {where} cannot be read ({error}); fetch it again") from None


def _human_masks(root: Path) -> tuple[Path | None, dict[str, str]]:
    """The archive of human lung masks and {image file name: member}, whose content is PNG whatever the extension."""
    archive = next((p for p in (root / HUMAN_MASKS, root / "annotations" / HUMAN_MASKS) if p.is_file()), None)
    if archive is None:
        return None, {}
    try:
        with zipfile.ZipFile(archive) as masks:
            return archive, {name.rsplit("/", 1)[-1]: name for name in masks.namelist() if not name.endswith("/")}
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"archive {archive} cannot be read ({error}); delete it and fetch it again") from None


def _severity(root: Path) -> dict[str, dict[str, float]]:
    path = root / "annotations" / "covid-severity-scores.csv"
    columns = ("geographic_mean", "opacity_mean")
    rows = read_rows(path, ("filename", *columns), comment="#", optional=True)
    return {row["filename"]: {column: number(row, column, path, line) for column in columns} for line, row in rows}


def _lung_boxes(root: Path, notes: Counter) -> dict[str, dict[str, Box]]:
    """file name -> {"right": Box, "left": Box}, human, as fractions; a box without numbers is passed over and counted."""
    path = root / "annotations" / "imageannotation_ai_lung_bounding_boxes.json"
    boxes: dict[str, dict[str, Box]] = defaultdict(dict)
    if not path.is_file():
        return boxes
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        side_of = {c["id"]: c["name"].split()[0].lower() for c in table["categories"]}
        images = {image["id"]: image for image in table["images"]}
        for entry in table["annotations"]:
            image, numbers = images[entry["image_id"]], entry["bbox"]
            if None in numbers:
                notes["lung box without numbers"] += 1
                continue
            box = Box.from_pixels(*numbers, image_size=(image["width"], image["height"]))
            boxes[image["file_name"]][side_of[entry["category_id"]]] = box
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path} is not the official box table ({error!r}); fetch it again") from None
    return boxes


def _view(text: str) -> str:
    return {"APS": "AP Supine", "?": "", "LATERAL": "L"}.get(text.upper(), text) or "unknown"


def _offset(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None


def _names_diagnosis(notes: str, paths: Sequence[tuple[str, ...]]) -> bool:
    words = {entity for path in paths for entity in path}
    words |= {"covid", "coronavirus", "sars-cov", "ncov"} if "covid-19" in words else set()
    return any(word in notes.lower() for word in words)


def openly_licensed(study: Study) -> bool:
    """Whether the image's own licence allows showing an edited copy (resized, overlaid): CC BY, BY-SA, BY-NC-SA, Apache."""
    return bool(re.match(r"CC BY|CC0|Apache", study.licence)) and "ND" not in study.licence


def load(
    root: Path | str | None = None, *, views: Sequence[str] | None = FRONTAL, require_image: bool = True
) -> LoadResult:
    """Load the radiographs of the collection, grouped by patient, each patient's in the order of time (``offset`` days).

    Args:
        views: the views to keep (None: every one, also lateral and unstated); CT is always left out.
        require_image: whether rows without a file are skipped and counted.

    Returns:
        Studies whose findings come from the finding column; rows not yet coded (``todo``) have none. ``report`` holds the
        clinical notes: see ``meta["leakage"]``. ``licence`` and ``url`` differ per image. ``meta["lung_mask"]`` (human) and
        ``meta["model_lung_mask"]`` (made by a model, no ground truth) are functions that return bool (H, W);
        ``meta["lung_boxes"]`` and ``meta["severity"]`` are there where annotated.

    Raises:
        SourceError: naming file and line.
    """
    root = locate("covid", root)
    skipped, notes = Counter(), Counter()
    rows, person = _rows(root, views, skipped)
    files = {path.name.lower(): path for path in image_files([root / "images"])}
    rows = _with_files(rows, files, require_image, skipped)
    coded = (path for row in rows if row["finding"].lower() not in _UNCODED for path in row["paths"])
    known = sorted({*PATHS.values(), *coded})
    archive, human = _human_masks(root)
    severity, boxes = _severity(root), _lung_boxes(root, notes)
    model_folder = root / "annotations" / "lungVAE-masks"
    studies: list[Study] = []
    for row in rows:
        name, path = row["filename"], row["path"]
        is_coded = row["finding"].lower() not in _UNCODED
        meta: dict[str, Any] = {
            "filename": name,
            "offset": _offset(row["offset"]),
            "normal": row["finding"].lower() == "no finding",
            "leakage": NOTES_WARNING,
            "names_diagnosis": _names_diagnosis(row["clinical_notes"], row["paths"]),
            "severity": severity.get(name),
            "lung_boxes": boxes.get(name),
            "row": {key: text for key, text in row.items() if isinstance(text, str) and text},
        }
        if path and name in human:
            if _mask_picture(archive, human[name]).getbbox() is None:
                notes["human lung mask is empty, left out"] += 1
            else:
                meta["lung_mask"] = partial(read_lung_mask, archive, human[name], path)
        model_mask = model_folder / f"{Path(name).stem}_mask.png"
        if path and model_mask.is_file():
            meta["model_lung_mask"] = partial(read_lung_mask, None, model_mask, path)
        notes["finding not coded (labels unknown)"] += not is_coded
        notes["without clinical notes"] += not row["clinical_notes"]
        notes["licence not stated"] += not row["license"]
        studies.append(
            Study(
                study_id=f"covid-{name}",
                patient_id=person.get(row["patientid"], row["patientid"]),
                source="covid",
                pixels=partial(read_image, path) if path else None,
                report=" ".join(row["clinical_notes"].split()),
                findings=findings_from(row["paths"], known) if is_coded else (),
                view=None if row["view"] == "unknown" else row["view"],
                licence=row["license"] or "licence not stated",
                url=row["url"],
                meta=meta,
            )
        )
    return loaded("covid", _in_time(studies), skipped, notes)


def _rows(root: Path, views: Sequence[str] | None, skipped: Counter) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of the wanted radiographs, and {patient id: first id of the same person}.

    Two patient ids that share a file name are one person.
    """
    table = root / "metadata.csv"
    required = ("patientid", "offset", "finding", "view", "modality", "filename", "url", "license", "clinical_notes")
    owner: dict[str, str] = {}
    person: dict[str, str] = {}

    def first(patient: str) -> str:
        while patient in person:
            patient = person[patient]
        return patient

    rows = []
    for line, row in read_rows(table, required):
        if not row["filename"] or not row["patientid"]:
            raise row_error(table, line, "patientid or filename is empty")
        one, other = first(owner.setdefault(row["filename"], row["patientid"])), first(row["patientid"])
        if one != other:
            person[other] = one
        view = _view(row["view"])
        if row["modality"] != "X-ray" or row.get("folder") == "volumes":
            skipped[f"modality {row['modality'] or 'unknown'}"] += 1
        elif views is not None and view not in views:
            skipped[f"view {view}"] += 1
        else:
            rows.append({**row, "view": view, "paths": finding_paths(row["finding"])})
    return rows, {patient: first(patient) for patient in person}


def _with_files(
    rows: list[dict[str, Any]], files: dict[str, Path], require_image: bool, skipped: Counter
) -> list[dict[str, Any]]:
    """Rows joined with their files, without second rows and second copies of one picture."""
    kept: list[dict[str, Any]] = []
    names: set[str] = set()
    sizes = Counter(files[row["filename"].lower()].stat().st_size for row in rows if row["filename"].lower() in files)
    contents: set[str] = set()
    for row in rows:
        path = files.get(row["filename"].lower())
        if path is None and require_image:
            skipped["image file not here"] += 1
            continue
        if row["filename"] in names:
            skipped["second row of the same image"] += 1
            continue
        names.add(row["filename"])
        shared_size = path is not None and sizes[path.stat().st_size] > 1
        content = hashlib.sha256(path.read_bytes()).hexdigest() if shared_size else row["filename"]
        if content in contents or names >= IDENTICAL > {row["filename"]}:
            skipped["second copy of the same picture"] += 1
            continue
        contents.add(content)
        kept.append({**row, "path": path})
    return kept


def _in_time(studies: list[Study]) -> list[Study]:
    """Patients in the table's order, each one's studies by offset, unknown last; ``meta["visit"]`` counts from 0."""
    by_patient: dict[str, list[Study]] = defaultdict(list)
    for study in studies:
        by_patient[study.patient_id].append(study)
    ordered = []
    for visits in by_patient.values():
        visits.sort(key=lambda s: (s.meta["offset"] is None, s.meta["offset"] or 0.0))
        ordered += [replace(s, meta={**s.meta, "visit": i, "visits": len(visits)}) for i, s in enumerate(visits)]
    return ordered

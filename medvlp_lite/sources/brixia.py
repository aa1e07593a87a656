"""Brixia scores: how severe the opacities are in each of six lung zones, read twice, on images of the COVID collection.

Signoroni et al., BS-Net, Medical Image Analysis 2021;71:102046. Annotations CC BY-NC-SA 4.0.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from medvlp_lite.sources import covid
from medvlp_lite.sources.base import LoadResult, SourceError, image_files, loaded, read_image, read_rows, row_error
from medvlp_lite.sources.registry import find, locate
from medvlp_lite.studies import SEVERITIES, Finding, Study

LICENCE = "CC BY-NC-SA 4.0"
HOME = "https://github.com/BrixIA/Brixia-score-COVID-19"
TABLE = "public-annotations.csv"
PLACES = product(("right", "left"), ("upper", "middle", "lower"))
ZONES = {letter: (side, f"{side} {height} zone") for letter, (side, height) in zip("ABCDEF", PLACES)}
READERS = {"senior": "S", "junior": "J"}


def _scores(row: dict[str, str], letter: str, path: Path, line: int) -> dict[str, int]:
    """One reader's six zone scores 0-3 and their sum as "global"."""
    scores: dict[str, int] = {}
    for zone in (*ZONES, "Global"):
        text, highest = row[f"{letter}-{zone}"], 18 if zone == "Global" else 3
        if not text.isdigit() or int(text) > highest:
            raise row_error(path, line, f"{letter}-{zone} must be a whole number 0-{highest}, got {text!r}")
        scores[zone.lower() if zone == "Global" else zone] = int(text)
    total = sum(scores[zone] for zone in ZONES)
    if scores["global"] != total:
        raise row_error(path, line, f"{letter}-Global is {scores['global']}, its zones sum to {total}")
    return scores


def zone_findings(scores: dict[str, int]) -> tuple[Finding, ...]:
    """Each zone as finding "opacity": absent at score 0, else present and mild, moderate or severe (1, 2, 3)."""
    return tuple(
        Finding("opacity", scores[zone] > 0, side, position, SEVERITIES[scores[zone] - 1] if scores[zone] else None)
        for zone, (side, position) in ZONES.items()
    )


def load(root: Path | str | None = None, *, covid_root: Path | str | None = None) -> LoadResult:
    """Load the studies of the COVID collection that carry Brixia scores.

    ``meta["brixia"]`` holds ``{"senior": {"A": 0..3, ..., "F": 0..3, "global": 0..18}, "junior": {...}}``: zones A-C are the
    patient's right lung from top to bottom, D-F the left. The senior reader's scores become the findings "opacity", one
    per zone. Rows whose image is not at hand are skipped and counted. Raises SourceError naming file and line.
    """
    root = locate("brixia", root)
    path = next((p for p in (root / "data" / TABLE, root / TABLE) if p.is_file()), None)
    if path is None:
        raise SourceError(f"{root} is not a folder that holds {TABLE}; give that folder")
    covid_root = covid_root or find("covid", root.parent)
    collection = {s.meta["filename"]: s for s in covid.load(covid_root, views=None, require_image=False).studies}
    own = {p.name: p for p in image_files([path.parent / "public-cohen-subset"])}
    columns = ("filename", *(f"{letter}-{zone}" for letter in READERS.values() for zone in (*ZONES, "Global")))
    studies: list[Study] = []
    skipped, notes = Counter(), Counter()
    seen: set[str] = set()
    for line, row in read_rows(path, columns):
        name = row["filename"]
        scores: dict[str, Any] = {who: _scores(row, letter, path, line) for who, letter in READERS.items()}
        study = collection.get(name)
        if name in seen:
            skipped["second row of the same image"] += 1
            continue
        seen.add(name)
        if name in own and (study is None or study.pixels is None):
            study = _orphan(name, own[name])
            notes["patient unknown, image from the score's own repository"] += 1
        if study is None or study.pixels is None:
            skipped["no longer in the COVID collection" if study is None else "image file not here"] += 1
            continue
        notes["readers differ in the global score"] += scores["senior"]["global"] != scores["junior"]["global"]
        findings = (*study.findings, *zone_findings(scores["senior"]))
        meta = {**study.meta, "brixia": scores, "brixia_licence": LICENCE, "brixia_url": HOME}
        studies.append(replace(study, study_id=f"brixia-{name}", source="brixia", findings=findings, meta=meta))
    return loaded("brixia", studies, skipped, notes)


def _orphan(name: str, path: Path) -> Study:
    """A scored image that the collection has dropped: nothing is known of the patient or the image's licence."""
    return Study(
        study_id=f"brixia-{name}",
        patient_id=f"brixia-{name}",
        source="brixia",
        pixels=partial(read_image, path),
        licence="image licence not stated",
        url=HOME,
        meta={"filename": name},
    )

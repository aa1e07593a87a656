"""A user's own pneumoconiosis radiographs with reports and stages, laid out as the private PneumoCXR set might be.

Ren et al., Journal of X-Ray Science and Technology 2025. The set itself is not public; this is the layout to bring one's own in.

Built in chapter 08_uncertainty_staging.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from medvlp_lite.sources.base import LoadResult, loaded, read_image, read_rows, row_error
from medvlp_lite.sources.registry import locate
from medvlp_lite.studies import SEVERITIES, SPLITS, Finding, Study

HOME = "https://doi.org/10.1177/08953996241296400"
TABLE = "pneumocxr.csv"
STAGES = {"0": 0, "1": 1, "2": 2, "3": 3, "normal": 0, "i": 1, "ii": 2, "iii": 3}
STAGES |= {f"{stage}.0": stage for stage in range(4)}  # pandas writes whole numbers so where some are missing


def stage_of(text: str) -> int | None:
    """A stage as it is written: "2", "2.0", "stage-2", "Stage II", "normal"; None for an empty text. Raises ValueError otherwise."""
    word = text.strip().lower().removeprefix("stage").strip(" -_")
    if not text.strip():
        return None
    if word not in STAGES:
        raise ValueError(f"a stage must be 0 to 3, I to III, normal or empty, got {text!r}")
    return STAGES[word]


def load(root: Path | str | None = None) -> LoadResult:
    """Load a folder with ``pneumocxr.csv`` and the images that it names.

    Columns: ``image`` (a path inside the folder, also looked for in ``images/``), ``patient``, ``stage`` (0 to 3, or empty where
    unknown), ``report`` (may be empty). Optional: ``split`` (train, val or test), ``view``, ``licence``, and one column
    for each reader, ``reader_...``, with the stage that this reader gave. The stage also becomes the finding "pneumoconiosis", absent at 0,
    else mild, moderate or severe. ``meta`` holds "split" and "readers" (name -> stage). Rows without an image file are skipped
    and counted. Raises SourceError naming file and line.
    """
    root = locate("pneumocxr", root)
    table = root / TABLE
    studies: list[Study] = []
    skipped, notes = Counter(), Counter()
    seen: set[str] = set()
    for line, row in read_rows(table, ("image", "patient", "stage", "report")):
        if not row["image"] or not row["patient"]:
            raise row_error(table, line, "image and patient must not be empty", "a split by patient needs both")
        if row["image"] in seen:
            raise row_error(table, line, f"{row['image']} stands twice", "keep one row for each image")
        seen.add(row["image"])
        try:
            stage = stage_of(row["stage"])
            readers = {name: stage_of(text) for name, text in row.items() if name.startswith("reader_") and text}
        except ValueError as error:
            raise row_error(table, line, error, "correct the row") from None
        if (split := row.get("split", "")) not in ("", *SPLITS):
            raise row_error(
                table, line, f"split must be {', '.join(SPLITS)} or empty, got {split!r}", "correct the row"
            )
        path = next((p for p in (root / row["image"], root / "images" / row["image"]) if p.is_file()), None)
        if path is None:
            skipped["image file not here"] += 1
            continue
        notes["without stage"] += stage is None
        notes["without report"] += not row["report"]
        notes["readers differ"] += len(set(readers.values())) > 1
        studies.append(
            Study(
                study_id=f"pneumocxr-{row['image']}",
                patient_id=row["patient"],
                source="pneumocxr",
                pixels=partial(read_image, path),
                report=row["report"],
                findings=_finding(stage),
                view=row.get("view") or None,
                stage=stage,
                licence=row.get("licence") or "the owner's; do not pass on",
                url=HOME,
                meta={"split": split or None, "readers": readers},
            )
        )
    return loaded("pneumocxr", studies, skipped, notes)


def _finding(stage: int | None) -> tuple[Finding, ...]:
    if stage is None:
        return ()
    severity = SEVERITIES[stage - 1] if stage else None
    return (Finding("pneumoconiosis", stage > 0, "bilateral" if stage else None, severity=severity),)

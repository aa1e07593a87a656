"""Open-i: the Indiana University chest X-ray reports, with human-coded findings.

Demner-Fushman et al., JAMIA 2016;23(2):304-310. Reports as XML (a folder, or the .tgz archive read without unpacking)
or as the two CSV tables ``indiana_reports.csv`` and ``indiana_projections.csv``; images are optional.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from medvlp_lite.sources.base import (
    LoadResult,
    SourceError,
    image_files,
    loaded,
    natural,
    read_image,
    read_rows,
    row_error,
)
from medvlp_lite.sources.registry import locate
from medvlp_lite.studies import Finding, Study

LICENCE = "CC BY-NC-ND 4.0"
HOME = "https://openi.nlm.nih.gov/faq"
REPORT_SECTIONS = ("findings", "impression")
SECTIONS = ("indication", "comparison", *REPORT_SECTIONS)

SIDES = ("right", "left", "bilateral")
GRADES = ("borderline", "mild", "moderate", "severe")
LOCATIONS = frozenset(json.loads((Path(__file__).parent / "data" / "openi_locations.json").read_text(encoding="utf-8")))
"""Qualifiers of a coding that name a place."""
ANATOMY = LOCATIONS | {"cardiac shadow", "epicardial fat"}
"""Heads of a coding that name an organ: what is seen there stands in its ``pattern`` (Lung/hypoinflation)."""


@dataclass(frozen=True)
class Coding:
    """One human coding ``Head/qualifier/...``: which finding, where, on which side, how severe, in which pattern."""

    finding: str
    location: tuple[str, ...] = ()
    side: str | None = None
    severity: str | None = None
    pattern: tuple[str, ...] = ()
    raw: str = ""


def parse_mesh(term: str) -> Coding:
    """Parse one coded term such as ``Opacity/lung/upper lobe/right/streaky``; a head may contain a comma.

    Raises ValueError on a term without a head.
    """
    head, *qualifiers = (" ".join(part.split()).lower() for part in term.split("/"))
    if not head:
        raise ValueError(f"coded term {term!r} has no head before the first '/'")
    qualifiers = [word for word in qualifiers if word]
    sides = [word for word in qualifiers if word in SIDES]
    grades = [word for word in qualifiers if word in GRADES]
    return Coding(
        finding=head,
        location=tuple(word for word in qualifiers if word in LOCATIONS),
        side=(sides[0] if len(set(sides)) == 1 else "bilateral") if sides else None,
        severity=max(grades, key=GRADES.index) if grades else None,
        pattern=tuple(word for word in qualifiers if word not in LOCATIONS and word not in SIDES + GRADES),
        raw=term.strip(),
    )


def finding_from(coding: Coding) -> Finding:
    """The coding as a present Finding.

    A coding whose head is an organ takes its first pattern into the name and the organ as its position: Lung/hypoinflation
    is "lung hypoinflation". ``position`` leaves out a mere "lung" when something closer is named.
    """
    organ = coding.finding in ANATOMY
    entity = " ".join((coding.finding, *coding.pattern[:1])) if organ else coding.finding
    places = (coding.finding, *coding.location) if organ else coding.location
    closer = [place for place in dict.fromkeys(places) if place != "lung"]
    return Finding(entity, True, coding.side, " ".join(closer or places[:1]) or None, coding.severity)


_GAP = r"(?:[\w']+[-/])*X{4,}\w*(?:[-/][\w']+)*"


def strip_deidentification(text: str) -> str:
    """Remove the ``XXXX`` that stand for deleted words, with what hangs on them (``x-XXXX``), and tidy what is left."""
    text = re.sub(rf"(?<!\S)\d+[.)]\s+{_GAP}(?:[\s,]+{_GAP})*\s*\.(?=\s|$)", " ", text)
    text = re.sub(_GAP, " ", text)
    text = re.sub(r"\(\W*\)|\[\W*\]|\"\s*\"", " ", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([.,;:?!)\]])", r"\1", text)
    text = re.sub(r"[,;:]+(?=[.?!])|([,;:])(?:\s*[,;:])+", r"\1", text)
    text = re.sub(r"([.?!])(?:\s*[.,;:])+", r"\1", text)
    text = re.sub(r"([(\[])\s*[,;:]?\s*", r"\1", text)
    return re.sub(r"^[\s.,;:?!/)-]+|\s+$", "", text)


def compose_report(sections: dict[str, str]) -> str:
    """FINDINGS then IMPRESSION, each under its heading; a missing one is left out, so the other stands alone."""
    texts = {name: strip_deidentification(sections.get(name, "")) for name in REPORT_SECTIONS}
    return "\n".join(f"{name.upper()}: {text}" for name, text in texts.items() if re.search("[A-Za-z]", text))


@dataclass
class _Record:
    uid: str
    where: str
    sections: dict[str, str]
    terms: list[str]
    automatic: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    caption: str = ""
    licence: str = LICENCE


def _xml_texts(root: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every report, in the order of their numbers, from loose XML files or from the archive."""
    loose = [path for folder in (root / "ecgen-radiology", root) for path in folder.glob("[!.]*.xml")]
    if loose:
        for path in sorted(loose, key=lambda path: natural(path.name)):
            yield str(path), path.read_bytes()
        return
    for archive in sorted(root.glob("*reports*.tgz")) if root.is_dir() else [root]:
        try:
            with tarfile.open(archive) as tar:
                members = [m for m in tar if m.isfile() and re.search(r"(^|/)[^/.][^/]*\.xml$", m.name)]
                texts = {member.name: tar.extractfile(member).read() for member in members}
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise SourceError(f"archive {archive} cannot be read ({error}); delete it and fetch it again") from None
        for name in sorted(texts, key=natural):
            yield f"{archive}:{name}", texts[name]


def _from_xml(where: str, text: bytes) -> _Record:
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise SourceError(f"{where} is not well-formed XML ({error}); fetch it again") from None
    uid = tree.find("uId")
    match = re.fullmatch(r"(?:CXR)?(\d+)", "" if uid is None else uid.get("id", ""))
    if not match:
        raise SourceError(f"{where} lacks <uId id='CXR...'>; it is not an Open-i report, take it out of the folder")
    given = {e.get("Label", "").lower(): " ".join("".join(e.itertext()).split()) for e in tree.iter("AbstractText")}
    images = tree.findall("parentImage")
    return _Record(
        uid=match[1],
        where=where,
        sections={name: given.get(name, "") for name in SECTIONS},
        terms=[e.text.strip() for e in tree.iterfind("MeSH/major") if (e.text or "").strip()],
        automatic=[e.text.strip() for e in tree.iterfind("MeSH/automatic") if (e.text or "").strip()],
        images=[image.get("id", "") for image in images],
        caption=" ".join((images[0].findtext("caption") or "").split()) if images else "",
        licence=LICENCE if "by-nc-nd/4.0" in (tree.findtext("licenseURL") or LICENCE) else tree.findtext("licenseURL"),
    )


def _from_csv(path: Path) -> Iterator[_Record]:
    for line, row in read_rows(path, ("uid", "MeSH", *SECTIONS)):
        if not row["uid"]:
            raise row_error(path, line, "'uid' is empty")
        yield _Record(
            uid=row["uid"],
            where=f"{path}, line {line}",
            sections={name: " ".join(row[name].split()) for name in SECTIONS},
            terms=[term.strip() for term in row["MeSH"].split(";") if term.strip()],
            caption=" ".join(row.get("image", "").split()),
        )


def image_key(name: str) -> str:
    """One key for an image's several names: ``1_IM-0001-4001.dcm.png`` and ``CXR1_1_IM-0001-4001`` are one file."""
    match = re.match(r"(?:CXR)?(\d+)_(?:\d+_)?(IM-[\d-]+)", name)
    return f"{match[1]}_{match[2]}" if match else name


def _image_index(root: Path) -> dict[str, Path]:
    """Image files by key; the form ``CXR2384_IM-0942/0.png`` gets the key ``2384_IM-0942/0``."""
    folders = [root / name for name in ("images/images_normalized", "images_normalized", "images", "NLMCXR_png", ".")]
    index: dict[str, Path] = {}
    for path in image_files(folders):
        index.setdefault(image_key(path.name), path)
    for folder in sorted(f for top in folders if top.is_dir() for f in top.glob("CXR*_IM-*") if f.is_dir()):
        for path in image_files([folder]):
            index.setdefault(f"{image_key(folder.name)}/{path.stem}", path)
    return index


def _projections(root: Path) -> dict[str, list[tuple[str, str]]]:
    """uid -> [(file name, "Frontal" or "Lateral")] from the CSV table, where it is there."""
    views: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for _, row in read_rows(root / "indiana_projections.csv", ("uid", "filename", "projection"), optional=True):
        views[row["uid"]].append((row["filename"], row["projection"]))
    return views


def _choose_image(
    record: _Record, views: dict[str, list[tuple[str, str]]], index: dict[str, Path]
) -> tuple[str | None, str | None, Path | None]:
    """(name, view, file) of the examination's image: the first frontal by number, one whose file is there if any is.

    Where no table tells the projection, the first image by number is taken and the view stays None.
    """
    stated = {image_key(name): projection.lower() for name, projection in views.get(record.uid, [])}
    frontal = [key for key, projection in stated.items() if projection == "frontal"]
    candidates = frontal if stated else [image_key(name) for name in record.images]
    if not any(key in index for key in candidates):
        mine = re.compile(rf"{re.escape(record.uid)}_IM-")
        candidates = [*(key for key in index if mine.match(key) and key not in stated), *candidates]
    if not candidates:
        return None, None, None
    key = min(candidates, key=lambda key: (key not in index, natural(key)))
    return key, "frontal" if key in frontal else None, index.get(key)


def _study(record: _Record, views: dict[str, list[tuple[str, str]]], index: dict[str, Path], notes: Counter) -> Study:
    try:
        codings = [parse_mesh(term) for term in record.terms]
    except ValueError as error:
        raise SourceError(f"{record.where}: {error}; correct the term or fetch the file again") from None
    heads = {coding.finding for coding in codings}
    poor = {head for head in heads if head.startswith("technical quality")}
    name, view, path = _choose_image(record, views, index)
    notes["without a findings section"] += not strip_deidentification(record.sections["findings"])
    notes["without an impression section"] += not strip_deidentification(record.sections["impression"])
    notes["not indexed (labels unknown)"] += "no indexing" in heads
    notes["image quality too poor to code"] += bool(poor)
    notes["without a frontal image"] += record.uid in views and name is None
    notes["frontal projection not stated"] += path is not None and view is None
    meta: dict[str, Any] = {
        "sections": record.sections,
        "mesh": [asdict(coding) for coding in codings],
        "automatic": record.automatic,
        "normal": "normal" in heads,
        "indexed": "no indexing" not in heads,
        "quality_unsatisfactory": bool(poor),
        "image_name": name,
        "image_names": record.images or [file for file, _ in views.get(record.uid, [])],
        "caption": strip_deidentification(record.caption),
    }
    return Study(
        study_id=f"openi-{record.uid}",
        patient_id=record.uid,
        source="openi",
        pixels=partial(read_image, path) if path else None,
        report=compose_report(record.sections),
        findings=tuple(finding_from(c) for c in codings if c.finding not in poor | {"no indexing", "normal"}),
        view=view,
        licence=record.licence,
        url=HOME,
        meta=meta,
    )


def load(root: Path | str | None = None) -> LoadResult:
    """Load the Open-i reports, from XML where there is any, else from CSV, with one frontal image each where images are there.

    ``root`` is the set's folder, a folder that contains it, or the report archive itself; by default it is looked for in
    ``MEDVLP_DATA``. Reports with neither findings nor impression are skipped and counted. Findings are the human codings,
    present ones only: what is not coded is unknown. Each ``uid`` counts as one patient; the set does not say which
    examinations share one. Raises SourceError naming the file.
    """
    root = locate("openi", root)
    records: dict[str, _Record] = {}
    skipped, notes = Counter(), Counter()
    found = [_from_xml(where, text) for where, text in _xml_texts(root)]
    for record in found or _from_csv(root / "indiana_reports.csv"):
        if record.uid in records:
            skipped["second report of the same uid"] += 1
        elif not compose_report(record.sections):
            skipped["neither findings nor impression"] += 1
        else:
            records[record.uid] = record
    base = root if root.is_dir() else root.parent
    views, index = _projections(base), _image_index(base)
    ordered = sorted(records.values(), key=lambda record: natural(record.uid))
    studies = [_study(record, views, index, notes) for record in ordered]
    texts = Counter(study.report for study in studies)
    notes["same text as another report"] = sum(count for count in texts.values() if count > 1)
    return loaded("openi", studies, skipped, notes)

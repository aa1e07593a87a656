"""Which data sets there are, where they lie on this machine, and how to get them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medvlp_lite.sources.base import SourceError


@dataclass(frozen=True)
class RemoteFile:
    """A file the official home lets anyone download. ``sha256`` is None where the home publishes none."""

    url: str
    name: str
    size: str
    sha256: str | None = None
    unpack: bool = False
    optional: bool = False


@dataclass(frozen=True)
class DataSet:
    """One real data set: what it is, under which terms, which folder names it goes by, and how it is obtained.

    ``markers`` are glob patterns relative to the folder; one of them must match for the set to count as present.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    markers: tuple[str, ...]
    licence: str
    citation: str
    size: str
    home: str
    instruction: str
    files: tuple[RemoteFile, ...] = ()


SETS: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        DataSet(
            name="openi",
            title="Open-i / Indiana University reports",
            folders=("openi", "open-i", "indiana", "nlmcxr", "chest-xrays-indiana-university"),
            markers=("*reports*.tgz", "ecgen-radiology/*.xml", "*.xml", "indiana_reports.csv"),
            licence="CC BY-NC-ND 4.0",
            citation="demnerfushman2016preparing",
            size="3,955 reports (1 MB packed), 7,470 images (optional)",
            home="https://openi.nlm.nih.gov/faq",
            instruction="download NLMCXR_reports.tgz (and NLMCXR_png.tgz for the images) from the home page",
        ),
    )
}


def data_root() -> Path:
    """The folder of data sets: ``MEDVLP_DATA``, else this user's cache folder."""
    named = os.environ.get("MEDVLP_DATA")
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("medvlp-lite", appauthor=False) / "data"


def entry_of(name: str) -> DataSet:
    """The table's entry. Raises SourceError listing the names there are."""
    if name not in SETS:
        raise SourceError(f"there is no data set {name!r}; the names are {', '.join(SETS)}")
    return SETS[name]


def _holds(folder: Path, entry: DataSet) -> bool:
    return folder.is_dir() and any(next(folder.glob(pattern), None) for pattern in entry.markers)


def _search(root: Path, entry: DataSet) -> Path | None:
    """``root`` itself, one of the set's folders in it, or the single folder an archive unpacked to inside of that."""
    if not root.is_dir():
        return None
    named = [path for path in sorted(root.iterdir()) if path.name.lower() in entry.folders and path.is_dir()]
    named.sort(key=lambda path: entry.folders.index(path.name.lower()))
    inner = [path for folder in named for path in sorted(folder.iterdir()) if path.is_dir()]
    return next((folder for folder in (root, *named, *inner) if _holds(folder, entry)), None)


def find(name: str) -> Path | None:
    """The set's folder under ``data_root()``, or None when it is not there."""
    return _search(data_root(), entry_of(name))


def locate(name: str, root: Path | str | None = None) -> Path:
    """The folder to load ``name`` from. Raises SourceError that tells how to get the set."""
    entry = entry_of(name)
    if root is None:
        folder = find(name)
        if folder is None:
            raise SourceError(
                f"{entry.title} is not in {data_root()}; run 'medvlp-lite data get {name}', or set MEDVLP_DATA to the folder that holds it"
            )
        return folder
    root = Path(root).expanduser()
    if root.is_file():
        return root
    if not root.exists():
        raise SourceError(f"folder {root} does not exist; give the folder of {entry.title}")
    folder = _search(root, entry)
    if folder is None:
        raise SourceError(f"folder {root} holds none of {', '.join(entry.markers)}; give the folder of {entry.title}")
    return folder

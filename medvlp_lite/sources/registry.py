"""Which real data sets there are, where they lie on this machine, and how to get them."""

from __future__ import annotations

import json
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from medvlp_lite.sources.base import LoadResult, SourceError, read_rows
from medvlp_lite.sources.download import RemoteFile, fetch_files


@dataclass(frozen=True)
class DataSet:
    """One real data set: what it is, under which terms, which folder names it goes by, and how it is obtained.

    ``markers`` are glob patterns in the set's folder; one must match for the set to count as present. ``counted`` is the
    pattern of what there is one of per study: files, or the one archive or table that lists them. ``files`` are those that
    the home lets anyone download. ``by_hand``: its tables are not among them.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    markers: tuple[str, ...]
    counted: tuple[str, ...]
    licence: str
    citation: str
    size: str
    home: str
    instruction: str
    files: tuple[RemoteFile, ...] = ()
    by_hand: bool = False


def _read_sets() -> dict[str, DataSet]:
    """The table in ``data/sets.json``; its addresses were collected without reaching the homes."""
    sets = {}
    for name, row in json.loads((Path(__file__).parent / "data" / "sets.json").read_text(encoding="utf-8")).items():
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        fields["files"] = tuple(RemoteFile(**file) for file in row.get("files", ()))
        sets[name] = DataSet(name, **fields)
    return sets


SETS: dict[str, DataSet] = _read_sets()


def data_root() -> Path:
    """The folder of data sets: ``MEDVLP_DATA``, else one in this user's cache folder."""
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


def find(name: str, root: Path | str | None = None) -> Path | None:
    """The set's folder in ``root`` (default ``data_root()``): one of its folder names, the folder inside that an archive
    unpacked to, or ``root`` itself. None when it is not there."""
    entry, root = entry_of(name), data_root() if root is None else Path(root).expanduser()
    if not root.is_dir():
        return None
    named = [path for path in root.iterdir() if path.name.lower() in entry.folders and path.is_dir()]
    named.sort(key=lambda path: entry.folders.index(path.name.lower()))
    inner = [path for folder in named for path in sorted(folder.iterdir()) if path.is_dir()]
    return next((folder for folder in (*named, *inner, root) if _matches(folder, entry.markers)), None)


def _matches(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def locate(name: str, root: Path | str | None = None) -> Path:
    """The folder (or archive file) to load ``name`` from. Raises SourceError that tells how to get the set."""
    entry = entry_of(name)
    if root is not None and not Path(root).expanduser().exists():
        raise SourceError(f"folder {root} does not exist; give the folder that holds {entry.title}")
    if root is not None and Path(root).expanduser().is_file():
        return Path(root).expanduser()
    folder = find(name, root)
    if folder:
        return folder
    if root is None:
        way = f"run 'medvlp-lite data get {name}', or let MEDVLP_DATA name the folder that holds it"
        raise SourceError(f"{entry.title} is not in {data_root()}; {way}")
    raise SourceError(f"folder {root} holds no {' or '.join(entry.markers)}; give the folder that holds {entry.title}")


def count(name: str, folder: Path) -> int | None:
    """How many reports or images lie in ``folder``, cheaply: files are counted, not opened. None where that is not known."""
    for pattern in entry_of(name).counted:
        paths = sorted(folder.glob(pattern))
        if paths and paths[0].suffix == ".csv":
            return sum(1 for _ in read_rows(paths[0], ()))
        if paths and paths[0].suffix == ".tgz":
            try:
                with tarfile.open(paths[0]) as archive:
                    return sum(member.endswith(".xml") for member in archive.getnames())
            except (tarfile.TarError, OSError, EOFError, zlib.error):
                return None
        if paths:
            return len(paths)
    return None


def load(name: str, root: Path | str | None = None, **options: object) -> LoadResult:
    """Load a set by its name, with its module's options. Raises SourceError for an unknown name."""
    return import_module(f"medvlp_lite.sources.{entry_of(name).name}").load(root, **options)


def fetch(name: str, *, images: bool = False, log: Callable[[str], None] = print) -> Path:
    """Download what the set's home gives without a form into ``data_root()``, verified.

    ``images`` also takes the large image archives. What is there already is left alone. Raises SourceError when a
    download fails, or when the set's tables must be fetched by hand (how, ``log`` has said before).
    """
    entry, found = entry_of(name), find(name)
    if entry.by_hand and not found:
        log(f"The tables of {entry.title} must be fetched by hand: {entry.instruction}, in {data_root()}")
    wanted = [file for file in entry.files if images or not file.images]
    if found:
        wanted = [file for file in wanted if file.unpack_to != "."]
    fetch_files(wanted, found or data_root() / entry.folders[0], log=log)
    folder = find(name)
    if folder is None:
        raise SourceError(f"{entry.title} is not complete before its tables are fetched by hand from {entry.home}")
    return folder

"""Downloads by pooch: verified, tried again when a connection breaks, never half a file under its final name.

The files' homes publish no hashes. The first download therefore records its SHA-256 in ``SHA256SUMS`` beside the files;
from then on that hash is demanded. pooch cannot go on where a download broke off: every try starts from the file's first byte.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medvlp_lite.sources.base import SourceError

SUMS = "SHA256SUMS"
RETRIES = 2
TIMEOUT_S = 30


@dataclass(frozen=True)
class RemoteFile:
    """A file to download as ``name`` (a path in the set's folder).

    An archive with ``unpack_to`` is unpacked into that folder and removed; ``strip_top`` drops the archive's one top
    folder. ``images`` marks the large, optional part.
    """

    url: str
    name: str
    unpack_to: str | None = None
    strip_top: bool = False
    images: bool = False


def fetch_files(files: Iterable[RemoteFile], folder: Path, *, log: Callable[[str], None] = print) -> None:
    """Download each file into ``folder`` unless it is there already. Raises SourceError naming the address."""
    import pooch

    for file in files:
        sums = _read_sums(folder)
        if _left_as_is(file, folder, sums):
            log(f"{file.name}: already here")
            continue
        path = _download(file, folder, sums.get(file.name), log)
        sums[file.name] = pooch.file_hash(str(path), alg="sha256")
        log(f"{file.name}: sha256 {sums[file.name]}")
        if file.unpack_to:
            log(f"{file.name}: unpacking")
            unpack(path, folder / file.unpack_to, strip_top=file.strip_top)
            path.unlink()
        _write_sums(folder, sums)


def _left_as_is(file: RemoteFile, folder: Path, sums: dict[str, str]) -> bool:
    """Unpacked before, or put there by the user; a single file that was fetched is verified again instead."""
    if file.unpack_to == ".":
        return file.name in sums
    return (folder / (file.unpack_to or file.name)).exists() and (bool(file.unpack_to) or file.name not in sums)


def _download(file: RemoteFile, folder: Path, sha256: str | None, log: Callable[[str], None]) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    registry, urls = {file.name: sha256 and f"sha256:{sha256}"}, {file.name: file.url}
    store = pooch.create(folder, "", registry=registry, urls=urls, retry_if_failed=RETRIES)
    progress = _Progress(file.name, log)
    downloader = pooch.HTTPDownloader(progress, 1 << 16, timeout=TIMEOUT_S, headers={"Accept-Encoding": "identity"})
    try:
        return Path(store.fetch(file.name, downloader=downloader))
    except requests.HTTPError as error:
        problem = f"{file.url} answered {error.response.status_code}; look at the set's home page"
    except requests.RequestException as error:
        cause = "no connection" if "Max retries" in str(error) else str(error) or type(error).__name__
        problem = f"download of {file.url} stopped ({cause}); run the command again"
    except ValueError:
        demanded = f"demanded by {folder / SUMS} (delete its line if the home has renewed the file)"
        problem = f"{file.url} was refused: its sha256 is not {sha256}, {demanded}"
    except OSError as error:
        reason = error.strerror or error
        problem = f"{folder / file.name} cannot be written ({reason}); free space or set MEDVLP_DATA"
    raise SourceError(problem)


class _Progress:
    """What pooch tells of a download, as a plain line every few seconds: readable in a terminal, a log and a notebook."""

    def __init__(self, name: str, log: Callable[[str], None], every_s: float = 5.0):
        self.name, self.log, self.every_s = name, log, every_s
        self.total = self.have = 0
        self.told = time.monotonic()

    def reset(self) -> None:
        self.have = 0

    def update(self, count: int) -> None:
        self.have += count
        if time.monotonic() - self.told >= self.every_s:
            self.close()

    def close(self) -> None:
        self.told, have = time.monotonic(), min(self.have, self.total or self.have)
        share = f" of {self.total / 1e6:.1f} MB ({100 * have // self.total}%)" if self.total else " MB"
        self.log(f"{self.name}: {have / 1e6:.1f}{share}")


def unpack(archive: Path, target: Path, *, strip_top: bool = False) -> None:
    """Unpack a zip or tar archive into the folder ``target``; nothing gets there before the whole archive was read.

    Raises SourceError naming the archive when it is damaged or holds a path outside of itself.
    """
    aside = Path(tempfile.mkdtemp(prefix=".unpack-", dir=archive.parent))
    whole = aside / "whole"
    try:
        _extract(archive, whole)
        top = next(path for path in whole.iterdir() if path.is_dir()) if strip_top else whole
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(top, target)
            return
        files = [path for path in top.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: -len(path.parts)):  # a set's tables lie at the top and arrive last
            place = target / path.relative_to(top)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, StopIteration) as error:
        raise SourceError(f"archive {archive} cannot be unpacked ({error}); delete it and fetch it again") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    if not zipfile.is_zipfile(archive):
        with tarfile.open(archive) as opened:
            return opened.extractall(folder, filter="data")
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise zipfile.BadZipFile(f"{name!r} lies outside of the archive")
        opened.extractall(folder)


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line.strip())}


def _write_sums(folder: Path, sums: dict[str, str]) -> None:
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (folder / SUMS).write_text(text, encoding="utf-8")

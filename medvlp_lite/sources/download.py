"""Downloads that are verified, go on where they stopped, and never leave half a file under its final name.

The files' homes publish no hashes. The first download therefore records its SHA-256 in ``SHA256SUMS`` beside the files;
from then on that hash is demanded.
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
from pathlib import Path

from medvlp_lite.sources.base import SourceError

SUMS = "SHA256SUMS"
ATTEMPTS = 3
TIMEOUT_S = 30


@dataclass(frozen=True)
class RemoteFile:
    """A file to download as ``name`` (a path in the set's folder).

    An archive with ``unpack_to`` is unpacked into that folder and removed; ``strip_top`` drops the archive's one top
    folder. ``images`` marks the large, optional part. ``sha256`` is None where the home publishes none.
    """

    url: str
    name: str
    sha256: str | None = None
    unpack_to: str | None = None
    strip_top: bool = False
    images: bool = False


def fetch_files(files: Iterable[RemoteFile], folder: Path, *, log: Callable[[str], None] = print) -> None:
    """Download each file into ``folder`` unless it is there already. Raises SourceError naming the address."""
    for file in files:
        sums = _read_sums(folder)
        if _left_as_is(file, folder, sums):
            log(f"{file.name}: already here")
            continue
        path = _download(file, folder, file.sha256 or sums.get(file.name), log)
        sums[file.name] = _sha256(path)
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


def unpack(archive: Path, target: Path, *, strip_top: bool = False) -> None:
    """Unpack a zip or tar archive into the folder ``target``; nothing gets there before the whole archive was read.

    Raises SourceError naming the archive when it is damaged or holds a path outside of itself.
    """
    aside = Path(tempfile.mkdtemp(prefix=".unpack-", dir=archive.parent))
    whole = aside / "whole"
    try:
        whole.mkdir()
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(whole)
        else:
            with tarfile.open(archive) as opened:
                opened.extractall(whole, filter="data")
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


def _download(file: RemoteFile, folder: Path, sha256: str | None, log: Callable[[str], None]) -> Path:
    import pooch
    import requests

    path = folder / file.name
    pooch.get_logger().setLevel("WARNING")
    stream = _Stream(folder / f"{file.name}.part", log)
    try:
        pooch.retrieve(file.url, sha256 and f"sha256:{sha256}", path.name, path.parent, downloader=stream)
    except requests.HTTPError as error:
        raise SourceError(f"{file.url} answered {error.response.status_code}; look at the set's home page") from None
    except requests.RequestException as error:
        raise SourceError(f"download of {file.url} stopped ({_cause(error)}); run the command again to go on") from None
    except ValueError:
        where = "this program" if file.sha256 else f"{folder / SUMS} (delete its line if the home has renewed the file)"
        raise SourceError(f"{file.url} was refused: its sha256 is not {sha256}, demanded by {where}") from None
    except OSError as error:
        raise SourceError(
            f"{path} cannot be written ({error.strerror or error}); free space or set MEDVLP_DATA"
        ) from None
    return path


def _cause(error: Exception) -> str:
    return "no connection" if "Max retries" in str(error) else str(error) or type(error).__name__


class _Stream:
    """A pooch downloader that keeps what has arrived in ``part`` and asks the server only for the rest.

    The rest is asked for under the condition that the file is still the same one (If-Range with its ETag or date, kept
    beside ``part``); without such a mark nothing is kept.
    """

    def __init__(self, part: Path, log: Callable[[str], None]):
        self.part, self.log = part, log
        self.mark = part.with_name(part.name + ".mark")

    def __call__(self, url: str, output_file: str, _pooch: object, check_only: bool = False) -> None:
        try:
            self._receive_patiently(url)
        except BaseException:  # an interrupt by the user, too
            if not self.mark.exists():
                self._forget()
            raise
        os.replace(self.part, output_file)
        self._forget()

    def _receive_patiently(self, url: str) -> None:
        import requests

        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._receive(url)
            except requests.RequestException as error:
                if attempt == ATTEMPTS or isinstance(error, requests.HTTPError):
                    raise
                self.log(f"{self.part.stem}: interrupted ({_cause(error)}), trying again")
                time.sleep(0.2 * attempt)

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)

    def _receive(self, url: str) -> None:
        import requests

        self.part.parent.mkdir(parents=True, exist_ok=True)
        have = self.part.stat().st_size if self.part.exists() and self.mark.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self.mark.read_text(encoding="utf-8")}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
            if answer.status_code == 416:
                self._forget()
                raise requests.ConnectionError("the kept part does not fit the file")
            answer.raise_for_status()
            if answer.status_code != 206:
                have = 0
                self._forget()
                self._note_mark(answer.headers)
            total = have + int(answer.headers.get("Content-Length", 0)) or None
            with open(self.part, "ab" if have else "wb") as file:
                progress = _Progress(self.part.stem, have, total, self.log)
                for chunk in answer.iter_content(1 << 14):
                    file.write(chunk)
                    have += len(chunk)
                    progress.at(have)
        if total and have < total and "Content-Length" in answer.headers:
            raise requests.ConnectionError(f"{have} of {total} bytes arrived")
        progress.at(have, last=True)

    def _note_mark(self, headers: object) -> None:
        etag = headers.get("ETag", "")
        mark = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
        if mark:
            self.mark.write_text(mark, encoding="utf-8")


class _Progress:
    """A plain line every few seconds: readable on any terminal, in a log and in a notebook."""

    def __init__(self, name: str, have: int, total: int | None, log: Callable[[str], None], every_s: float = 5.0):
        self.name, self.total, self.log, self.every_s = name, total, log, every_s
        self.began, self.first, self.told = time.monotonic(), have, time.monotonic()

    def at(self, have: int, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self.told < self.every_s:
            return
        self.told = now
        speed = (have - self.first) / max(now - self.began, 1e-3) / 1e6
        share = f" of {self.total / 1e6:.1f} MB ({100 * have // self.total}%)" if self.total else " MB"
        self.log(f"{self.name}: {have / 1e6:.1f}{share}, {speed:.1f} MB/s")


def _sha256(path: Path) -> str:
    import pooch

    return pooch.file_hash(str(path), alg="sha256")


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line.strip())}


def _write_sums(folder: Path, sums: dict[str, str]) -> None:
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    aside = folder / f"{SUMS}.new"
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, folder / SUMS)

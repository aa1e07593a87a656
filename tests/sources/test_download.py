"""Downloads against a server on this machine that breaks off, lies and renews its files; and archives."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from medvlp_lite.sources import download
from medvlp_lite.sources.base import SourceError
from medvlp_lite.sources.download import RemoteFile, fetch_files, unpack

BODY = bytes(range(256)) * 2000


class Home(http.server.BaseHTTPRequestHandler):
    """Serves ``files``; the first ``breaks`` answers stop half way; ``asked`` counts the requests."""

    files: dict
    breaks: int
    asked: int

    def do_GET(self):
        server = type(self)
        server.asked += 1
        body = server.files.get(self.path)
        if body is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks > 0:
            server.breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def home(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between tries
    handler = type("Handler", (Home,), {"files": {}, "breaks": 0, "asked": 0})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


def lie_there(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def get(home, folder, name="a.bin", **more):
    lines = []
    fetch_files([RemoteFile(f"{home.url}/{name}", name, **more)], folder, log=lines.append)
    return lines


def test_a_download_arrives_whole_and_its_hash_is_recorded(home, tmp_path):
    home.files["/a.bin"] = BODY
    lines = get(home, tmp_path)
    digest = hashlib.sha256(BODY).hexdigest()
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  a.bin\n"
    assert f"a.bin: sha256 {digest}" in lines and any("(100%)" in line for line in lines)
    assert all(line.isascii() and "\r" not in line for line in lines)
    assert lie_there(tmp_path) == {"a.bin", "SHA256SUMS"}
    get(home, tmp_path)
    assert home.asked == 1  # verified where it lies, not fetched again


def test_a_download_that_breaks_off_is_tried_again(home, tmp_path):
    home.files["/a.bin"], home.breaks = BODY, download.RETRIES
    get(home, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY and home.asked == download.RETRIES + 1


def test_half_a_file_never_gets_a_name(home, tmp_path):
    home.files["/a.bin"], home.breaks = BODY, download.RETRIES + 1
    with pytest.raises(SourceError, match=r"stopped .* run the command again"):
        get(home, tmp_path)
    assert lie_there(tmp_path) == set()
    get(home, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_an_interrupt_by_the_user_leaves_nothing_behind(home, tmp_path):
    home.files["/a.bin"] = BODY

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_files([RemoteFile(f"{home.url}/a.bin", "a.bin")], tmp_path, log=interrupt)
    assert lie_there(tmp_path) == set()


def test_progress_is_told_in_plain_lines(home, tmp_path, monkeypatch):
    monkeypatch.setattr("time.monotonic", iter(range(0, 10**6, 6)).__next__)  # every piece comes 6 s after the last
    home.files["/a.bin"] = BODY
    shares = [line for line in get(home, tmp_path) if "%" in line]
    assert len(shares) > 5 and shares[-1] == "a.bin: 0.5 of 0.5 MB (100%)"


def test_a_renewed_file_is_refused(home, tmp_path):
    home.files["/a.bin"] = BODY
    get(home, tmp_path)
    (tmp_path / "a.bin").unlink()
    home.files["/a.bin"] = b"something else"
    with pytest.raises(SourceError, match=r"refused.*SHA256SUMS"):
        get(home, tmp_path)
    assert lie_there(tmp_path) == {"SHA256SUMS"}


def test_a_damaged_file_is_fetched_again_and_a_users_own_is_left_alone(home, tmp_path):
    home.files["/a.bin"] = home.files["/b.bin"] = BODY
    get(home, tmp_path)
    (tmp_path / "a.bin").write_bytes(b"damaged")
    get(home, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    (tmp_path / "b.bin").write_bytes(b"my own")
    assert get(home, tmp_path, "b.bin") == ["b.bin: already here"]
    assert (tmp_path / "b.bin").read_bytes() == b"my own"


def test_what_cannot_be_reached_is_said_in_one_sentence(home, tmp_path):
    with pytest.raises(SourceError, match="answered 404"):
        get(home, tmp_path)
    with pytest.raises(SourceError, match="no connection"):
        fetch_files([RemoteFile("http://127.0.0.1:9/x", "x")], tmp_path, log=lambda _: None)
    (tmp_path / "blocked").write_text("a file where a folder is due")
    home.files["/a.bin"] = BODY
    with pytest.raises(SourceError, match="cannot be written"):
        get(home, tmp_path / "blocked")


def zipped(**files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return out.getvalue()


def tarred(**files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def test_archives_are_unpacked_and_removed(home, tmp_path):
    home.files["/i.tgz"] = tarred(images__a="A", images__b="B")
    home.files["/r.zip"] = zipped(repo_1__metadata="M", repo_1__images__c="C")
    get(home, tmp_path, "i.tgz", unpack_to="images_001")
    get(home, tmp_path, "r.zip", unpack_to=".", strip_top=True)
    there = {"images_001/images/a", "images_001/images/b", "metadata", "images/c", "SHA256SUMS"}
    assert {name.replace("\\", "/") for name in lie_there(tmp_path)} == there
    get(home, tmp_path, "i.tgz", unpack_to="images_001")
    get(home, tmp_path, "r.zip", unpack_to=".", strip_top=True)
    assert home.asked == 2


@pytest.mark.parametrize("body", [b"no archive", tarred(a="A" * 100_000)[:-60], zipped(a="A")[:-30]])
def test_a_damaged_archive_leaves_nothing_unpacked(body, tmp_path):
    (tmp_path / "x.tgz").write_bytes(body)
    with pytest.raises(SourceError, match=r"x\.tgz"):
        unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert lie_there(tmp_path) == {"x.tgz"}


@pytest.mark.parametrize(
    "body", [tarred(**{"..__..__escaped": ""}), zipped(**{"..__escaped": ""}), zipped(__escaped="")]
)
def test_an_archive_cannot_write_outside_of_its_folder(body, tmp_path):
    (tmp_path / "x.tgz").write_bytes(body)
    with pytest.raises(SourceError, match=r"x\.tgz"):
        unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert lie_there(tmp_path) == {"x.tgz"}

"""The command line, and downloads against a server on this machine that breaks off, lies and renews its files."""

import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from medvlp_lite import cli
from medvlp_lite.sources import download, registry
from medvlp_lite.sources.base import SourceError
from medvlp_lite.sources.download import RemoteFile, fetch_files, unpack

BODY = bytes(range(256)) * 2000


class Home(http.server.BaseHTTPRequestHandler):
    """Serves ``files``; the first ``breaks`` answers stop after ``stop_at`` bytes; honours Range under If-Range."""

    files: dict
    etag: str | None
    breaks: int
    stop_at: int
    asked: list

    def do_GET(self):
        server = type(self)
        server.asked.append(self.headers.get("Range"))
        body = server.files.get(self.path)
        if body is None:
            return self.send_error(404)
        asked, start = self.headers.get("Range"), 0
        if asked and server.etag and self.headers.get("If-Range") == server.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        part = body[start:]
        if server.breaks > 0:
            server.breaks -= 1
            part = part[: server.stop_at]
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def home():
    handler = type("Handler", (Home,), {"files": {}, "etag": '"v1"', "breaks": 0, "stop_at": 200_000, "asked": []})
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
    assert len(home.asked) == 1  # verified where it lies, not fetched again


def test_an_interrupted_download_goes_on_where_it_stopped(home, tmp_path):
    home.files["/a.bin"], home.breaks = BODY, 1
    lines = get(home, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(home.asked) == 2 and 150_000 < int(home.asked[1].removeprefix("bytes=").rstrip("-")) <= 200_000
    assert any("trying again" in line for line in lines)


def test_a_later_command_goes_on_where_the_last_one_gave_up(home, tmp_path):
    home.files["/a.bin"], home.breaks, home.stop_at = BODY, download.ATTEMPTS, 50_000
    with pytest.raises(SourceError, match="run the command again"):
        get(home, tmp_path)
    assert "a.bin" not in lie_there(tmp_path)  # never half a file under its name
    assert lie_there(tmp_path) == {"a.bin.part", "a.bin.part.mark"}
    get(home, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert 100_000 < int(home.asked[-1].removeprefix("bytes=").rstrip("-")) <= 150_000
    assert lie_there(tmp_path) == {"a.bin", "SHA256SUMS"}


def test_a_file_that_was_renewed_meanwhile_is_fetched_from_its_start(home, tmp_path):
    home.files["/a.bin"], home.breaks, home.stop_at = BODY, download.ATTEMPTS, 50_000
    with pytest.raises(SourceError):
        get(home, tmp_path)
    home.files["/a.bin"], home.etag = BODY[::-1], '"v2"'
    get(home, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY[::-1]


def test_a_server_that_marks_nothing_leaves_nothing_behind(home, tmp_path):
    home.files["/a.bin"], home.breaks, home.etag = BODY, download.ATTEMPTS, None
    with pytest.raises(SourceError, match="stopped"):
        get(home, tmp_path)
    assert lie_there(tmp_path) == set()
    get(home, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY and set(home.asked) == {None}


def test_an_interrupt_by_the_user_keeps_only_what_can_be_resumed(home, tmp_path, monkeypatch):
    home.files["/a.bin"] = BODY

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(download._Progress, "at", interrupt)
    with pytest.raises(KeyboardInterrupt):
        get(home, tmp_path)
    assert lie_there(tmp_path) == {"a.bin.part", "a.bin.part.mark"}
    home.etag = None
    with pytest.raises(KeyboardInterrupt):
        get(home, tmp_path / "other")
    assert lie_there(tmp_path / "other") == set()


def test_a_wrong_hash_is_refused(home, tmp_path):
    home.files["/a.bin"] = BODY
    with pytest.raises(SourceError, match="refused"):
        get(home, tmp_path, sha256="0" * 64)
    assert lie_there(tmp_path) == set()
    get(home, tmp_path, sha256=hashlib.sha256(BODY).hexdigest())
    (tmp_path / "a.bin").unlink()
    home.files["/a.bin"] = b"something else"
    with pytest.raises(SourceError, match="SHA256SUMS"):
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


def test_what_cannot_be_reached_is_said_in_one_sentence(home, tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
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
    assert len(home.asked) == 2


@pytest.mark.parametrize("body", [b"no archive", tarred(a="A" * 100_000)[:-60], zipped(a="A")[:-30]])
def test_a_damaged_archive_leaves_nothing_unpacked(body, tmp_path):
    (tmp_path / "x.tgz").write_bytes(body)
    with pytest.raises(SourceError, match=r"x\.tgz"):
        unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert lie_there(tmp_path) == {"x.tgz"}


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../escaped"))
    (tmp_path / "x.tgz").write_bytes(out.getvalue())
    with pytest.raises(SourceError, match=r"x\.tgz"):
        unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert lie_there(tmp_path) == {"x.tgz"}


def test_an_answer_that_ends_early_without_an_error_is_noticed(tmp_path, monkeypatch):
    import requests

    class Short:
        status_code, headers = 200, {"Content-Length": "9", "ETag": '"v"'}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def raise_for_status(self):
            pass

        def iter_content(self, _):
            yield b"half"

    monkeypatch.setattr(requests, "get", lambda *_, **__: Short())
    with pytest.raises(SourceError, match="4 of 9 bytes"):
        fetch_files([RemoteFile("http://home/x", "x")], tmp_path, log=lambda _: None)
    assert "x" not in lie_there(tmp_path)


REPORT = (
    '<eCitation><uId id="CXR5"/><AbstractText Label="FINDINGS">Clear.</AbstractText>'
    "<MeSH><major>normal</major></MeSH></eCitation>"
)


@pytest.fixture
def served(home, tmp_path, monkeypatch):
    """An Open-i whose home is this machine, and an empty data folder."""
    home.files["/reports.tgz"] = tarred(**{"ecgen-radiology__5.xml": REPORT})
    home.files["/png.tgz"] = tarred(**{"CXR5_IM-1-1.png": "no image"})
    files = (
        RemoteFile(f"{home.url}/reports.tgz", "NLMCXR_reports.tgz"),
        RemoteFile(f"{home.url}/png.tgz", "NLMCXR_png.tgz", unpack_to="NLMCXR_png", images=True),
    )
    monkeypatch.setitem(registry.SETS, "openi", replace(registry.SETS["openi"], files=files))
    monkeypatch.setitem(registry.SETS, "nih", replace(registry.SETS["nih"], files=()))
    monkeypatch.setenv("MEDVLP_DATA", str(tmp_path / "data"))
    return home


def test_get_then_list_then_check(served, tmp_path, capsys):
    assert cli.main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in registry.SETS) and listed.count("not here") == len(registry.SETS)
    assert cli.main(["data", "get", "openi"]) == 0
    assert "CC BY-NC-ND" in capsys.readouterr().out
    assert lie_there(tmp_path / "data" / "openi") == {"NLMCXR_reports.tgz", "SHA256SUMS"}
    cli.main(["data", "list"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("openi"))
    assert str(tmp_path) in row and " 1 " in row
    assert cli.main(["data", "check"]) == 0
    assert "openi: 1 studies" in capsys.readouterr().out
    assert cli.main(["data", "get", "openi", "--images"]) == 0
    capsys.readouterr()
    assert cli.main(["data", "check", "openi"]) == 1  # its one image is no image
    assert "CXR5_IM-1-1.png" in capsys.readouterr().out


def test_check_tells_the_first_problem(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MEDVLP_DATA", str(tmp_path))
    assert cli.main(["data", "check"]) == 1 and "no data set" in capsys.readouterr().err
    assert cli.main(["data", "check", "rsna"]) == 1 and "problem" in capsys.readouterr().out
    (tmp_path / "openi").mkdir()
    (tmp_path / "openi" / "NLMCXR_reports.tgz").write_bytes(b"half")
    assert cli.main(["data", "check"]) == 1
    out = capsys.readouterr().out
    assert "openi: problem" in out and "NLMCXR_reports.tgz" in out and "nih: not here" in out
    assert cli.main(["data", "check", "--root", str(tmp_path / "openi")]) == 1


def test_what_must_be_fetched_by_hand_is_said(served, capsys):
    assert cli.main(["data", "get", "nih"]) == 2
    said = capsys.readouterr()
    assert "Data_Entry_2017_v2020.csv" in said.out and "by hand" in said.err and said.err.count("\n") == 1


def test_errors_are_one_sentence(capsys):
    assert cli.main(["data", "get", "mimic"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("medvlp-lite: ") and said.count("\n") == 1 and "openi" in said
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data"])
    assert stopped.value.code == 2


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    from medvlp_lite.experiments import reproduce, runner

    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path / "cache"))
    for module, name in ((runner, "run_row"), (reproduce, "reproduce")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("work had begun"))
    (tmp_path / "file").write_text("in the way")
    for command in (["train", "convirt"], ["reproduce", "--rows", "convirt"]):
        assert cli.main([*command, "--profile", "smoke", "--out", str(tmp_path / "file" / "runs")]) == 2
        said = capsys.readouterr().err
        assert "cannot be written" in said and "--out" in said and said.count("\n") == 1


def test_train_writes_a_record_and_weights_and_check_runs_it_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "runs"
    assert cli.main(["train", "supervised", "--profile", "smoke", "--out", str(out)]) == 0
    assert "macro AUC" in capsys.readouterr().out
    assert lie_there(out) == {"supervised-smoke.json"} | {
        str(Path("weights") / "supervised" / name) for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    assert cli.main(["reproduce", "--profile", "smoke", "--out", str(out), "--list"]) == 0
    listed = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert listed["supervised"] == "up to date" and listed["convirt"] == "missing"
    assert cli.main(["check", str(out / "supervised-smoke.json")]) == 0
    assert cli.main(["check", str(out / "nothing.json")]) == 2
    assert cli.main(["train", "gan", "--out", str(out)]) == 2
    assert "no row 'gan'" in capsys.readouterr().err


def test_help_is_fast_and_light():
    code = (
        "import sys; from medvlp_lite import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'requests'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "data" in done.stdout, done.stderr


def test_every_set_has_a_card_and_a_loader():
    cards = Path(__file__).parent.parent / "data_cards"
    index = (cards / "index.md").read_text(encoding="utf-8")
    texts = {path.name: path.read_text(encoding="utf-8") for path in cards.glob("*.md")}
    for entry in registry.SETS.values():
        named = [name for name, text in texts.items() if f"data get {entry.name}" in text and name != "index.md"]
        assert len(named) == 1 and named[0].removesuffix(".md") in index
        assert entry.home in texts[named[0]] and f"{{cite}}`{entry.citation}`" in texts[named[0]]
        assert all(file.url.startswith("https://") for file in entry.files)

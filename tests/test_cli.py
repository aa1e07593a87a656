"""The command line; data sets are fetched from a server on this machine."""

import http.server
import io
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from medvlp_lite import cli
from medvlp_lite.sources import registry
from medvlp_lite.sources.download import RemoteFile


class Home(http.server.BaseHTTPRequestHandler):
    """Serves ``files``."""

    files: dict

    def do_GET(self):
        body = type(self).files.get(self.path)
        if body is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def home():
    handler = type("Handler", (Home,), {"files": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


def lie_there(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def tarred(**files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


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

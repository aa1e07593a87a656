"""What people install, in three forms that must stay one: pyproject.toml, environment.yml and requirements.lock."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TEXT_FILES = (".md", ".py", ".toml", ".yml", ".yaml", ".cff", ".ipynb", ".css", ".bib", "")
UNLOCKED = "text"  # an extra of 84 MB that neither the book nor a test needs
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def split(requirement: str) -> tuple[str, str]:
    """A requirement as (normalised name, version range)."""
    name, versions = re.fullmatch(r"([A-Za-z0-9._-]+)\s*(.*)", requirement.split(";")[0].strip()).groups()
    return re.sub(r"[-_.]+", "-", name).lower(), versions.replace(" ", "")


def of_pyproject() -> dict[str, str]:
    if sys.version_info < (3, 11):
        import tomli as tomllib
    else:
        import tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != UNLOCKED for line in lines]
    return dict(split(line) for line in [*project["dependencies"], *extras])


def of_environment() -> dict[str, str]:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    plain = [line for line in lines if isinstance(line, str)]
    pip = [line for entry in lines if isinstance(entry, dict) for line in entry["pip"]]
    packages = dict(split(line) for line in [*plain, *pip])
    assert packages.pop("python") == ">=3.10"
    packages.pop("pip")
    return {CONDA_NAMES.get(name, name): versions for name, versions in packages.items()}


def of_lock() -> dict[str, list[str]]:
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            name, versions = split(line)
            assert versions.startswith("=="), f"requirements.lock does not pin {line}"
            pins.setdefault(name, []).append(versions[2:])
    return pins


def test_environment_lists_what_pyproject_lists():
    assert of_environment() == of_pyproject()


def test_lock_pins_what_pyproject_lists():
    from packaging.specifiers import SpecifierSet

    pins = of_lock()
    for name, versions in of_pyproject().items():
        assert name in pins, f"{name} is not in requirements.lock; run `make lock`"
        for pin in pins[name]:
            assert pin in SpecifierSet(versions), (
                f"{name}=={pin} in requirements.lock is outside {versions}; run `make lock`"
            )


def test_the_lock_is_made_of_all_extras_but_the_large_one():
    from medvlp_lite.encoders.sentence import MINILM

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(
        re.findall(r"^([a-z]+) = \[", text.split("[project.optional-dependencies]")[1].split("[project.")[0], re.M)
    )
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert extras - set(re.findall(r"--extra (\w+)", makefile)) == {UNLOCKED} and f'{UNLOCKED} = ["{MINILM}"]' in text
    assert MINILM.split("==")[0] not in of_lock()


def test_the_book_stays_on_jupyter_book_1():
    assert "<2" in of_pyproject()["jupyter-book"]
    assert all(pin.startswith("1.") for pin in of_lock()["jupyter-book"])


def test_the_address_stands_once():
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    folders = [ROOT, *(ROOT / name for name in ("book", "data_cards", "medvlp_lite", ".github", ".ci"))]
    files = [
        path
        for folder in folders
        for path in (folder.iterdir() if folder == ROOT else folder.rglob("*"))
        if path.is_file()
        and path.suffix in TEXT_FILES
        and "__pycache__" not in path.parts
        and path.name != "_config.yml"
    ]
    copies = [p for p in files if p.suffix != ".ipynb" and address in p.read_text(encoding="utf-8", errors="ignore")]
    assert not copies, f"the address belongs into _config.yml only, but stands in {', '.join(map(str, copies))}"


def test_citation_and_licences_are_complete():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["title"].startswith("MedVLP-Lite") and citation["authors"] and citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert "CC BY 4.0" in (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")


def test_readme_lists_every_chapter_and_names_no_missing_file():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    chapters = {path.relative_to(ROOT).as_posix() for path in (ROOT / "book").glob("[0-9]*.ipynb")}
    linked = {target for target in re.findall(r"\]\(([^)#]+)\)", readme) if not target.startswith("http")}
    assert chapters <= linked, f"README.md does not link {', '.join(sorted(chapters - linked))}"
    missing = [target for target in linked if not (ROOT / target).exists()]
    assert not missing, f"README.md links {', '.join(missing)}, which does not exist"


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run make in a copy of the project that has no environment yet, also when the tests themselves run under make."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not shutil.which("make") or os.name == "nt", reason="GNU make is not installed")
@pytest.mark.parametrize("target", ["book", "test"])
def test_an_old_python_gets_one_clear_sentence(tmp_path, target):
    old = tmp_path / "python3"
    old.write_text(
        f'#!/bin/sh\nCODE="$2" exec "{sys.executable}" -c '
        '\'import os, sys; sys.version_info = (3, 8, 10, "final", 0); exec(os.environ["CODE"])\'\n'
    )
    old.chmod(0o755)
    run = make(tmp_path, target, f"PYTHON={old}")
    said = (run.stdout + run.stderr).splitlines()
    assert run.returncode != 0 and "Python 3.10 or newer" in said[0] and "is 3.8" in said[0]
    assert "Traceback" not in run.stderr and not (tmp_path / ".venv").exists()


@pytest.mark.skipif(not shutil.which("make") or os.name == "nt", reason="GNU make is not installed")
def test_a_missing_python_gets_one_clear_sentence(tmp_path):
    run = make(tmp_path, "book", "PYTHON=no-such-python")
    assert run.returncode != 0 and "'no-such-python' was not found" in run.stdout


def test_a_new_lock_makes_a_new_environment():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^\$\(VENV\)/\.installed: requirements\.lock$", makefile, re.MULTILINE)
    assert "venv --clear" in makefile

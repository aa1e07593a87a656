"""The build of the book: what its own extensions draw, and which faults stop it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from bs4 import BeautifulSoup
from rendered import ROOT, visit


def build(folder: Path) -> subprocess.CompletedProcess:
    """Build the book in ``folder`` with the options that the Makefile uses."""
    options = re.search(r"^BUILD_BOOK := \S+/jupyter-book (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(
        1
    )
    program = shutil.which("jupyter-book", path=str(Path(sys.executable).parent)) or "jupyter-book"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [program, *options.split()]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def small_book(tmp_path):
    """This book's frame with one chapter that shows a number from one module."""
    shutil.copy(ROOT / "_config.yml", tmp_path)
    for folder in ("_static", "_ext"):
        shutil.copytree(ROOT / "book" / folder, tmp_path / "book" / folder)
    (tmp_path / "book" / "references.bib").write_text("", encoding="utf-8")
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\noptions: {numbered: 1}\nchapters:\n  - glob: book/[0-9]*\n"
    )
    (tmp_path / "book" / "index.md").write_text("# A small book\n", encoding="utf-8")
    (tmp_path / "library.py").write_text("ANSWER = 41_000\n", encoding="utf-8")
    cells = [
        nbformat.v4.new_markdown_cell("# One chapter"),
        nbformat.v4.new_code_cell("import library\nprint('the answer is', library.ANSWER)"),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "book" / "01_one.ipynb")
    return tmp_path


def test_a_changed_library_shows_at_once_and_an_error_fails_every_time(small_book):
    page = small_book / "_build" / "html" / "book" / "01_one.html"
    first = build(small_book)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "the answer is 41000" in page.read_text(encoding="utf-8")

    (small_book / "library.py").write_text("ANSWER = 42_000\n", encoding="utf-8")
    second = build(small_book)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "the answer is 42000" in page.read_text(encoding="utf-8"), "the page kept the old number"

    (small_book / "library.py").write_text("ANSWER = 1 / 0\n", encoding="utf-8")
    for attempt in ("first", "second"):
        failed = build(small_book)
        assert failed.returncode != 0, f"the {attempt} build of a broken chapter passed"
        said = failed.stdout + failed.stderr
        assert "01_one.ipynb" in said and "ZeroDivisionError" in said, "the message names neither chapter nor error"


GOOD_CELLS = """
# A chapter

$$ a = b \\tag{K-7} $$

See {eq}`K-7`.

:::{selfcheck} What is $1 + 1$?
Two
: Right. Count.

Three
: Wrong. That is $1 + 2$.
:::

::::{exercise} Add
:label: ex-add

**Predict.** What is $2 + 2$?
::::
"""


def test_numbers_names_and_questions_come_out(small_book, browser):
    (small_book / "book" / "02_two.md").write_text(GOOD_CELLS, encoding="utf-8")
    done = build(small_book)
    assert done.returncode == 0, done.stdout + done.stderr
    file = small_book / "_build" / "html" / "book" / "02_two.html"
    page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    assert page.select_one("h1 .section-number").text.strip() == "2"
    assert page.select_one(".eqno").get_text().startswith("(K-7)") and "tag" not in page.select_one("div.math").text
    assert page.select_one('a[href="#equation-k-7"].reference').text == "(K-7)"
    assert page.select_one(".exercise .caption-number").text.strip() == "Exercise 2.1"
    choices = page.select(".selfcheck details")
    assert [choice["class"] for choice in choices] == [["choice", "right"], ["choice", "wrong"]]
    assert (
        len({choice["name"] for choice in choices}) == 1
        and choices[0].select_one(".reason").text.strip() == "Right. Count."
    )
    assert not visit(browser, "two", file)


@pytest.mark.parametrize(
    "text, message",
    [
        (":::{selfcheck} What?\nTwo\n: Right. Count.\n:::", "at least one of each"),
        (":::{selfcheck} What?\nTwo\n: Right. Count.\n\nThree\n: Wrong.\n:::", "give a reason"),
        ("[nowhere](no-such-page.md)", "no-such-page"),
    ],
)
def test_a_fault_on_a_page_fails_the_build(small_book, text, message):
    (small_book / "book" / "index.md").write_text(f"# A small book\n\n{text}\n", encoding="utf-8")
    done = build(small_book)
    assert done.returncode != 0 and message in done.stdout + done.stderr


def test_a_chapter_that_leaves_a_file_behind_fails_the_build(small_book):
    (small_book / "library.py").write_text("ANSWER = open('left.txt', 'w').write('x')\n", encoding="utf-8")
    done = build(small_book)
    assert done.returncode != 0 and "left book/left.txt" in done.stdout + done.stderr


@pytest.mark.parametrize("profile, seconds", [("smoke", 600), ("read", 600), ("full", -1)])
def test_the_time_limit_of_a_cell_follows_the_profile(monkeypatch, profile, seconds):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    monkeypatch.setenv("MEDVLP_PROFILE", profile)
    import build_record

    config = SimpleNamespace(nb_execution_timeout=1)
    build_record.set_time_limit(None, config)
    assert config.nb_execution_timeout == seconds


def test_a_measured_profile_replaces_its_old_numbers_and_keeps_the_others(tmp_path):
    old, new = tmp_path / "kept.json", tmp_path / "new.json"
    old.write_text('{"smoke": {"pages": 1}, "read": {"pages": 2}}')
    new.write_text('{"smoke": {"pages": 3}}')
    subprocess.run([sys.executable, ROOT / ".ci" / "measure.py", "--keep", new, old], check=True)
    assert json.loads(old.read_text()) == {"smoke": {"pages": 3}, "read": {"pages": 2}}

"""Chapters as they are stored, and each one executed alone in the profile `smoke` without real data."""

import ast
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from medvlp_lite.notebook import setup_cell

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book").glob("[0-9]*.ipynb"))
MOST_CELLS = 45
PACKAGES = {
    *(
        "medvlp_lite",
        "numpy",
        "scipy",
        "pandas",
        "PIL",
        "torch",
        "torchvision",
        "tokenizers",
        "transformers",
        "accelerate",
    ),
    *("sklearn", "matplotlib", "seaborn", "umap", "IPython", "ipywidgets"),
}
PRIVATE_PATH = re.compile(r"/home/|/root/|/work/|/Users/|/tmp/|/content/|[A-Z]:\\\\|\.\./shared")

chapters = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def faults(notebook, address: str) -> list[str]:
    """What a stored chapter gets wrong, one sentence each; empty when it is as it should be."""
    cells, found = notebook.cells, []
    code = [cell for cell in cells if cell.cell_type == "code"]
    if any(cell.outputs or cell.execution_count is not None for cell in code):
        found.append("it is stored with outputs or execution counts; clear them")
    if len(cells) > MOST_CELLS:
        found.append(f"it has {len(cells)} cells, more than {MOST_CELLS}")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("its kernel is not python3")
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        found.append("it does not begin with a title")
    tagged = [sum(tag in cell.metadata.get("tags", []) for cell in code) for tag in ("setup", "parameters")]
    if tagged != [1, 1]:
        found.append(f"it has {tagged[0]} cells tagged setup and {tagged[1]} tagged parameters; one of each is needed")
    if code:
        tags = set(code[0].metadata.get("tags", []))
        if "setup" not in tags or not tags & {"hide-cell", "hide-input", "remove-cell", "remove-input"}:
            found.append("its first code cell is not tagged as setup and hidden")
        if code[0].source.strip() != setup_cell(address).strip():
            found.append(
                "its set-up cell is not what medvlp_lite.notebook.setup_cell gives for the address in _config.yml"
            )
    for number, cell in enumerate(cells):
        if PRIVATE_PATH.search(cell.source):
            found.append(f"cell {number} names a path of one machine")
        if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", []):
            found += [f"cell {number} {fault}" for fault in code_faults(cell.source)]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    exercises = set(re.findall(r"\{exercise(?:-start)?\}[^\n]*\n:label: (\S+)", text))
    solved = set(re.findall(r"\{solution(?:-start)?\} (\S+)\n(?::\w+:[^\n]*\n)*?:class:[^\n]*dropdown", text))
    if exercises - solved:
        found.append(f"exercises without a folded solution: {', '.join(sorted(exercises - solved))}")
    return found


def code_faults(source: str) -> list[str]:
    """Imports of what a reader may not have, and code that is not plain Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ["is not plain Python (no magics and no shell lines)"]
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    foreign = {name.split(".")[0] for name in names} - PACKAGES - set(sys.stdlib_module_names)
    return [f"imports {name}, which is none of the library's packages" for name in sorted(foreign)]


def address_of_the_book() -> str:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]


@pytest.fixture
def good():
    """A chapter without faults, as small as can be."""
    v4 = nbformat.v4
    cells = [
        v4.new_markdown_cell(
            "# What is one?\n\n```{exercise}\n:label: ex-1\nAdd.\n```\n\n```{solution} ex-1\n:class: dropdown\nTwo.\n```"
        ),
        v4.new_code_cell(setup_cell("https://example.org/book"), metadata={"tags": ["setup", "hide-cell"]}),
        v4.new_code_cell("COUNT = 1", metadata={"tags": ["parameters"]}),
        v4.new_code_cell("import math\n\nimport numpy as np\n\nfrom medvlp_lite.studies import Study"),
    ]
    return v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def test_a_good_chapter_has_no_faults(good):
    assert faults(good, "https://example.org/book") == []


@pytest.mark.parametrize(
    "cell, change, fault",
    [
        (3, {"execution_count": 1}, "stored with outputs"),
        (3, {"source": "import requests"}, "imports requests"),
        (3, {"source": "%matplotlib inline"}, "not plain Python"),
        (3, {"source": "open('/home/me/a.csv')"}, "path of one machine"),
        (2, {"metadata": {}}, "0 tagged parameters"),
        (1, {"metadata": {"tags": ["setup"]}}, "tagged as setup and hidden"),
        (1, {"source": "pip install x"}, "setup_cell"),
        (0, {"source": "# A\n```{exercise}\n:label: ex-1\nAdd.\n```"}, "without a folded solution: ex-1"),
        (0, {"source": "no title"}, "title"),
    ],
)
def test_each_fault_is_seen(good, cell, change, fault):
    good.cells[cell].update(change)
    assert any(fault in found for found in faults(good, "https://example.org/book"))


def test_a_copy_of_another_address_is_seen(good):
    assert faults(good, "https://example.org/fork")


@chapters
def test_stored_chapter(path):
    found = faults(nbformat.read(path, as_version=4), address_of_the_book())
    assert not found, f"{path.name}: " + "; ".join(found)


@chapters
def test_chapter_runs_alone_without_real_data(path, tmp_path, monkeypatch):
    """In a copy of book/, so that anything a chapter leaves behind is seen."""
    from nbclient import NotebookClient

    book = shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    before = set(book.rglob("*"))
    (tmp_path / "no-data").mkdir()
    monkeypatch.setenv("MEDVLP_DATA", str(tmp_path / "no-data"))
    monkeypatch.setenv("MEDVLP_PROFILE", "smoke")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("MEDVLP_CACHE", os.environ.get("MEDVLP_CACHE", str(tmp_path / "cache")))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(book)}}).execute()
    left = {file.name for file in set(book.rglob("*")) - before} - {"__pycache__"}
    assert not left, f"{path.name} leaves {', '.join(sorted(left))} in book/"

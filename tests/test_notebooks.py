"""Chapters as they are stored. The strict build executes them, each alone, and tests/test_book.py reads what came out."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from medvlp_lite.notebook import setup_cell

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book").glob("[0-9]*.ipynb"))
MOST_CELLS = 45
WIDEST_LINE, MOST_LINES = 80, 25
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
PLUMBING = (
    *("matplotlib", "seaborn", "umap", "IPython", "medvlp_lite.records", "medvlp_lite.claims", "medvlp_lite.sources"),
    "medvlp_lite.notebook",
)
DRAWING = ("medvlp_lite.figures",)
SYSTEM_OF = {"03": "ConVIRT", "04": "MedKLIP", "05": "MaCo", "06": "MedFILIP", "07": "MSK-PT", "08": "MSK-PT"}
FIRST_TO_TRAIN = "03"
SMALL_FONT = re.compile(r"""fontsize=(?:["'](?:xx?-small)["']|[0-8](?:\.\d+)?\b)""")
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
    if not any("not plain Python" in fault for fault in found):
        found += visible_faults([cell for cell in code if "setup" not in cell.metadata.get("tags", [])])
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    exercises = set(re.findall(r"\{exercise(?:-start)?\}[^\n]*\n:label: (\S+)", text))
    solved = set(re.findall(r"\{solution(?:-start)?\} (\S+)\n(?::\w+:[^\n]*\n)*?:class:[^\n]*dropdown", text))
    if exercises - solved:
        found.append(f"exercises without a folded solution: {', '.join(sorted(exercises - solved))}")
    return found


def visible_faults(cells) -> list[str]:
    """What a reader sees of the code: lines too wide, cells too long, and plumbing that should be folded."""
    source = "\n".join(cell.source for cell in cells)
    found, plumbing, drawing = [], names_of(PLUMBING, source), names_of(DRAWING, source)
    for number, cell in enumerate(cells):
        if FOLDED & set(cell.metadata.get("tags", [])):
            continue
        lines = cell.source.splitlines()
        wide = [line for line in lines if len(line) > WIDEST_LINE]
        if wide:
            found.append(
                f"code cell {number} has lines of more than {WIDEST_LINE} characters, such as {wide[0].strip()[:40]!r}"
            )
        if len(lines) > MOST_LINES:
            found.append(f"code cell {number} shows {len(lines)} lines, more than {MOST_LINES}")
        used, drawn = uses(cell.source, plumbing), uses(cell.source, drawing)
        if len(drawn) > 1:  # one line may draw what the cell has computed
            used += drawn
        if used:
            found.append(f"code cell {number} shows plumbing ({', '.join(sorted(set(used)))}); tag it hide-input")
    return found


def names_of(modules: tuple[str, ...], source: str) -> set[str]:
    """The names under which a chapter imports one of these modules or something out of it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            base = getattr(node, "module", None)
            for alias in node.names:
                full = f"{base}.{alias.name}" if base else alias.name
                if any(full == module or full.startswith(module + ".") for module in modules):
                    found.add(alias.asname or alias.name.split(".")[0])
    return found


def uses(source: str, names: set[str]) -> list[str]:
    """Every use of these names in a cell, and of ``chapter.data``, the branch for real data."""
    nodes = list(ast.walk(ast.parse(source)))
    used = [node.id for node in nodes if isinstance(node, ast.Name) and node.id in names]
    real = [f"{n.value.id}.{n.attr}" for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    return used + [name for name in real if name == "chapter.data"]


def training_faults(notebook) -> list[str]:
    """A chapter that trains configures, constructs and calls ``fit`` in the open, and asks Colab for a GPU."""
    shown = [c for c in notebook.cells if c.cell_type == "code" and not FOLDED & set(c.metadata.get("tags", []))]
    calls = [node.func for cell in shown for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
    called = {getattr(func, "id", getattr(func, "attr", "")) for func in calls}
    found = []
    if "fit" not in called:
        found.append("no visible cell calls fit")
    if not any(name.endswith("Config") for name in called):
        found.append("no visible cell makes a configuration")
    if notebook.metadata.get("accelerator") != "GPU":
        found.append('its metadata do not ask Colab for a GPU ("accelerator": "GPU")')
    return found


def exercise_faults(exercises: list[dict], kinds: set[str]) -> list[str]:
    """Exercises without title or kind, and a chapter without a question to predict."""
    found = [f"{one['label']} has no title" for one in exercises if not one["title"]]
    found += [
        f"{one['label']} begins with none of {', '.join(sorted(kinds))}"
        for one in exercises
        if one["kind"] not in kinds
    ]
    if "Predict" not in {one["kind"] for one in exercises}:
        found.append("no exercise is of the kind Predict")
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


@pytest.fixture(scope="module")
def contents():
    """The extension that reads the exercises out of the chapters."""
    spec = importlib.util.spec_from_file_location("contents", ROOT / "book" / "_ext" / "contents.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
        (3, {"source": "x = 1  # " + "long " * 20}, "more than 80 characters"),
        (3, {"source": "x = 1\n" * 26}, "shows 26 lines"),
        (3, {"source": "import matplotlib.pyplot as plt\nplt.plot([1])"}, "plumbing (plt)"),
        (3, {"source": "from medvlp_lite.notebook import glue as keep\nkeep('a', 1)"}, "plumbing (keep)"),
        (3, {"source": "from medvlp_lite.figures import curves\ncurves.a()\ncurves.b()"}, "plumbing (curves)"),
        (3, {"source": "if chapter.data:\n    x = 1"}, "plumbing (chapter.data)"),
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


def test_what_is_folded_may_be_wide_long_and_plumbing(good):
    good.cells[3].source = "import matplotlib.pyplot as plt\n" + "plt.plot([1])  # " + "wide " * 20 + "\nx = 1" * 30
    good.cells[3].metadata = {"tags": ["hide-input"]}
    assert faults(good, "https://example.org/book") == []


def test_training_in_the_open_is_asked_for(good):
    assert len(training_faults(good)) == 3
    good.metadata["accelerator"] = "GPU"
    good.cells[3].source = "fit(system, data.train, TrainingConfig(steps=4))"
    assert training_faults(good) == []
    good.cells[3].metadata = {"tags": ["hide-input"]}
    assert len(training_faults(good)) == 2


def test_exercises_are_read_with_title_and_kind(good, contents, tmp_path):
    good.cells[0].source = (
        "# A\n::::{exercise} Who is out?\n:label: ex-1\n\n**Predict.** Guess.\n::::\n\n"
        "```{exercise-start}\n:label: ex-2\n```\nAdd."
    )
    nbformat.write(good, tmp_path / "01_a.ipynb")
    found = contents.exercises_of(tmp_path / "01_a.ipynb")
    assert found == [
        {"title": "Who is out?", "label": "ex-1", "kind": "Predict"},
        {"title": "", "label": "ex-2", "kind": None},
    ]
    assert len(exercise_faults(found, {"Predict", "Break"})) == 2
    assert exercise_faults(found[:1], {"Predict", "Break"}) == []


@chapters
def test_a_chapter_is_named_after_its_system(path):
    title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
    assert SYSTEM_OF.get(path.stem[:2], "") in title and not re.match(r"# \d", title), title


@chapters
def test_exercises_have_kind_and_title(path, contents):
    exercises = contents.exercises_of(path)
    found = exercise_faults(exercises, set(contents.KINDS))
    if path.stem[:2] >= FIRST_TO_TRAIN and "Train" not in {one["kind"] for one in exercises}:
        found.append("no exercise is of the kind Train")
    assert not found, f"{path.name}: " + "; ".join(found)


@pytest.mark.parametrize("path", [p for p in CHAPTERS if p.stem[:2] >= FIRST_TO_TRAIN], ids=lambda path: path.stem)
def test_a_chapter_trains_in_the_open(path):
    found = training_faults(nbformat.read(path, as_version=4))
    assert not found, f"{path.name}: " + "; ".join(found)


def test_no_figure_is_written_too_small_to_read():
    files = [*CHAPTERS, *sorted((ROOT / "medvlp_lite" / "figures").glob("*.py"))]
    small = [
        f"{p.name}: {hit}"
        for p in files
        for hit in SMALL_FONT.findall(p.read_text(encoding="utf-8").replace('\\"', '"'))
    ]
    assert not small, f"type of less than 9 points: {', '.join(small)}"
    assert (
        SMALL_FONT.search('fontsize="x-small"')
        and SMALL_FONT.search("fontsize=7")
        and not SMALL_FONT.search("fontsize=9")
    )

"""The rooms of the house: who may import whom, and what every public function owes its reader."""

import ast
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from medvlp_lite.systems.base import System

PACKAGE = Path(__file__).parent.parent / "medvlp_lite"
ORDER = (
    "studies augment", "phantom sources reports", "encoders", "components", "systems", "official", "training", "cache",
    "evaluation", "records", "experiments", "figures",
)  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms.split()}
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = set(LEVEL) | {"notebook", "exercises", "cli"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    package = ("medvlp_lite", *path.relative_to(PACKAGE).parts[:-1])
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = [*base, *(node.module or "").split(".")]
            if full[0] == "medvlp_lite" and len(full) > 1 and full[1]:
                rooms.add(full[1])
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = room_of(path)
    assert room == "__init__" or room in ROOMS, f"{room} is no room of the house"
    if room in LEVEL:
        wrong = {
            other
            for other in imported_rooms(path)
            if LEVEL.get(other, 99) > LEVEL[room] or other in ("notebook", "exercises", "cli")
        }
        wrong |= {other for other in imported_rooms(path) if LEVEL.get(other) == LEVEL[room] and other != room}
        assert not wrong, f"{room} must not import {', '.join(sorted(wrong))}"


def runtime_imports(tree: ast.AST) -> list[ast.ImportFrom]:
    """All "from ... import ..." but those for type checkers alone."""
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    hidden = {id(node) for block in typing for node in ast.walk(block)}
    return [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and id(node) not in hidden]


def imported_modules(path: Path) -> set[Path]:
    """The files of this package that a file imports names from, wherever in it."""
    found, package = set(), path.parent.relative_to(PACKAGE.parent).parts
    for node in runtime_imports(ast.parse(path.read_text(encoding="utf-8"))):
        base = package[: len(package) - node.level + 1] if node.level else ()
        place = PACKAGE.parent.joinpath(*base, *(node.module or "").split("."))
        for name in node.names:
            files = (place / f"{name.name}.py", place / name.name / "__init__.py", place.with_suffix(".py"), place / "__init__.py")  # fmt: skip
            found |= {next((file for file in files if file.is_file()), path)}
    return {file for file in found if PACKAGE in file.parents}


def test_no_module_imports_itself_round_a_circle():
    left = {path: imported_modules(path) - {path} for path in MODULES}
    while free := [path for path, imported in left.items() if not imported & set(left)]:
        for path in free:
            del left[path]
    assert not left, f"circle among {', '.join(sorted(str(path.relative_to(PACKAGE)) for path in left))}"


READ_BY_STUDENTS = ("studies.py", "components", "systems", "encoders", "training.py", "evaluation")


def lines_of(paths) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def test_what_a_student_reads_stays_near_six_thousand_lines():
    assert lines_of(path for path in MODULES if path.relative_to(PACKAGE).parts[0] in READ_BY_STUDENTS) < 6_550, (
        "the aim is 6,000"
    )


def test_the_whole_library_does_not_grow_unseen():
    """The bound holds today's size; the aim is 12,500 lines."""
    assert lines_of(MODULES) < 17_600


def names_set_in(source: str, everywhere: bool) -> set[str]:
    """Names that a program gives values to: keywords of calls to a Config (of all calls, ``everywhere``) and dictionary keys."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if everywhere or called.endswith("Config"):
                names |= {keyword.arg for keyword in node.keywords if keyword.arg}
            config = next((k.Config for k in System.registry.values() if called.endswith(f"{k.__name__}Config")), None)
            if config:
                names |= {field.name for field in fields(config)[: len(node.args)]}
        elif isinstance(node, ast.Dict) and everywhere:
            names |= {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return names


def code_of(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_every_option_of_a_system_is_turned_by_a_row_a_profile_a_chapter_or_a_checkpoint_reader():
    places = [*PACKAGE.glob("experiments/*.py"), *PACKAGE.glob("official/*.py")]
    turned = set().union(*(names_set_in(code_of(path), everywhere=True) for path in places))
    turned |= set().union(*(names_set_in(code_of(path), False) for path in PACKAGE.parent.glob("book/*.ipynb")))
    idle = [
        f"{kind.Config.__name__}.{field.name}"
        for _, kind in sorted(System.registry.items())
        for field in fields(kind.Config)
        if field.name not in turned
    ]
    assert len(turned) > 50 and not idle, f"nothing turns {', '.join(idle)}"


def test_a_component_knows_no_system_and_a_system_no_data_set():
    for path in MODULES:
        if room_of(path) == "systems":
            assert not imported_rooms(path) & {"phantom", "sources"}, path.name


def test_no_room_without_an_idea():
    assert not [p for p in MODULES if p.stem in ("utils", "helpers", "misc", "common")]


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_public_functions_and_classes_say_what_they_do(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    kinds = (ast.FunctionDef, ast.ClassDef)
    silent = [
        n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_") and not ast.get_docstring(n)
    ]
    assert not silent, f"no docstring: {', '.join(silent)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_import_is_light():
    code = "import sys, medvlp_lite; heavy = {'torch', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0


@pytest.mark.parametrize("module", ["studies", "phantom", "sources.registry", "sources.openi", "cli"])
def test_data_can_be_read_without_torch(module):
    code = f"import sys, medvlp_lite.{module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:] or "torch was imported"

"""The rooms of the house: who may import whom, and what every public function owes its reader."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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

"""The checkers of the exercises: one word when all is right, a hint otherwise, and no way to pass by accident."""

import ast
import importlib
import numbers
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import medvlp_lite.exercises
from medvlp_lite.notebook import NotYet, exercise, require

CHAPTERS = {path.stem[3:] for path in (Path(__file__).parent.parent / "book").glob("[0-9]*.ipynb")}
MODULES = [
    importlib.import_module(f"medvlp_lite.exercises.{module.name}")
    for module in pkgutil.iter_modules(medvlp_lite.exercises.__path__)
]
CHECKERS = [
    checker for module in MODULES for name, checker in sorted(vars(module).items()) if hasattr(checker, "expects")
]
NONSENSE = (
    *(0, 1, True, -1.0, float("nan"), "", "yes", [], {}, (), np.ones((1, 1)), np.zeros((14, 14)), object()),
    *(lambda *a, **k: None, lambda *a, **k: 0),
)


@exercise(numbers.Real, "a number")
def check_half(answer: float) -> None:
    """One half."""
    require(answer > 0, "It is positive.")
    require(answer < 1, "It is less than 1.")
    require(answer == 0.5, "Twice the answer is 1.")


@exercise(Callable, "a function of one number")
def check_double(answer: Callable) -> None:
    """Twice a number."""
    require(answer(3) == {3: 6}[3], "Try 3.")


def test_solved_is_said_once_at_the_end(capsys):
    check_half(0.5)
    assert capsys.readouterr().out == "Solved.\n"
    with pytest.raises(NotYet, match=r"Not yet\. Twice the answer is 1"):
        check_half(0.25)
    assert capsys.readouterr().out == ""


def test_no_answer_and_an_answer_of_another_type_get_a_hint(capsys):
    check_half(None)
    assert capsys.readouterr().out == "No answer yet. Expected: a number.\n"
    with pytest.raises(NotYet, match=r"Expected: a number\. Got: str"):
        check_half("0.5")
    assert capsys.readouterr().out == ""


def test_an_error_in_the_readers_function_is_quoted_with_its_line():
    namespace: dict = {}
    exec(compile("def double(x):\n    return {}['six']\n", "<cell>", "exec"), namespace)
    with pytest.raises(NotYet, match="Line 2 of your cell raised KeyError: 'six'"):
        check_double(namespace["double"])


def test_an_error_of_the_checker_itself_tells_nothing():
    @exercise(dict, "a dictionary")
    def check(answer: dict) -> None:
        """Looks up the answer."""
        require(answer["the secret answer"] == 1, "no")

    with pytest.raises(NotYet, match="could not be used") as caught:
        check({})
    assert "secret" not in str(caught.value)


def test_a_hint_is_shown_without_traceback():
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "cell = 'from medvlp_lite.notebook import require; require(False, \"Look again.\")'\n"
        "InteractiveShell.instance().run_cell(cell)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Not yet. Look again." in done.stdout and "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_a_module_belongs_to_a_chapter_and_holds_checkers_only(module):
    assert module.__name__.rsplit(".", 1)[-1] in CHAPTERS
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("check")}
    assert names and names == {checker.__name__ for checker in CHECKERS if checker.__module__ == module.__name__}


@pytest.mark.parametrize("answer", NONSENSE, ids=lambda answer: f"{type(answer).__name__} {str(answer)[:12]}")
@pytest.mark.parametrize("checker", [check_half, check_double, *CHECKERS], ids=lambda checker: checker.__name__)
def test_no_checker_is_passed_by_accident(checker, answer):
    with pytest.raises(NotYet):
        checker(answer)

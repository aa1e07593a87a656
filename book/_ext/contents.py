"""Tables of what the book and its library hold, read from the files when the book is built.

``{exercise-table}``: every exercise with its number, kind and title. ``{room-table}``: every room of the library with
its lines; ``{library-lines}`read` ``: how many lines a student reads.
"""

import re
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective, SphinxRole

KINDS = {
    "Predict": "commit to a value or a choice before anything runs; no function to write",
    "Modify": "change a few lines, or write a short function",
    "Break": "build a counter-example, or make a check fail, and say why",
    "Train": "change one setting, train again, and read the result",
    "Extend": "build a part that the chapter leaves out; more than an hour",
}
ROOMS = {
    "studies": "one record for an examination, the data set, the batch, the split by patient",
    "augment": "every change of an image during training: crops, mirror images, exposure",
    "components": "the ideas of the papers, one file each: losses, decoders, assignments",
    "encoders": "images, texts and sentences to vectors",
    "systems": "MedKLIP, MaCo, MedFILIP, MSK-PT, ConVIRT and the supervised bound, wired from components",
    "training": "one training loop for all systems",
    "cache": "trained systems in the user's cache",
    "evaluation": "every measure: zero-shot, grounding, retrieval, linear probe, grading, staging",
    "phantom": "synthetic radiographs and reports, drawn from a seed, with exact truth",
    "reports": "the report filter, its vocabulary and its scoring",
    "sources": "one reader for each real data set, and the downloads",
    "official": "readers of the checkpoints that the authors released",
    "experiments": "profiles, and the rows of every table, declared",
    "records": "one JSON file for each run, the claims, and the verdicts drawn from the records",
    "figures": "how figures look, and the sliders that work without a kernel",
    "exercises": "the checkers of the exercises, one module per chapter",
    "notebook": "what the first cells of a chapter call",
    "cli": "the command `medvlp-lite`",
}
READ = ("studies", "augment", "components", "encoders", "systems", "training", "evaluation")
EXERCISE = re.compile(
    r"\{exercise(?:-start)?\}(?P<title>[^\n]*)\n:label: (?P<label>\S+)\n+(?:\*\*(?P<kind>\w+)\.\*\*)?"
)


def exercises_of(path: Path) -> list[dict[str, str | None]]:
    """The exercises of a chapter in their order, each with label, title and kind (None where it names none)."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = [match.groupdict() for match in EXERCISE.finditer(text)]
    return [{**one, "title": one["title"].strip()} for one in found]


def lines_of(package: Path) -> dict[str, int]:
    """Lines of Python of every room of the library."""
    counted: dict[str, int] = {}
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        counted[room] = counted.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    counted.pop("__init__", None)
    return counted


class MarkdownTable(SphinxDirective):
    """A directive that writes Markdown and has the page's own parser read it."""

    def run(self) -> list[nodes.Node]:
        block = nodes.container()
        self.state.nested_parse(StringList(self.lines(Path(self.env.srcdir)), self.name), 0, block)
        return block.children


class ExerciseTable(MarkdownTable):
    """``{exercise-table}``"""

    def lines(self, root: Path) -> list[str]:
        rows = ["| exercise | kind | what it asks for |", "|---|---|---|"]
        for path in sorted((root / "book").glob("[0-9]*.ipynb")):
            for one in exercises_of(path):
                rows.append(f"| {{ref}}`{one['label']}` | {one['kind'] or ''} | {one['title']} |")
        return rows


class KindTable(MarkdownTable):
    """``{exercise-kinds}``"""

    def lines(self, root: Path) -> list[str]:
        every = [one["kind"] for path in (root / "book").glob("[0-9]*.ipynb") for one in exercises_of(path)]
        rows = [f"| *{kind}* | {meaning} | {every.count(kind)} |" for kind, meaning in KINDS.items()]
        return ["| kind | what you do | in the book |", "|---|---|---|", *rows]


class RoomTable(MarkdownTable):
    """``{room-table}``"""

    def lines(self, root: Path) -> list[str]:
        counted = lines_of(root / "medvlp_lite")
        if set(counted) - set(ROOMS):
            raise self.error(
                f"no sentence says what these rooms are for: {', '.join(sorted(set(counted) - set(ROOMS)))}"
            )
        rows = [
            f"| {'**' if room in READ else ''}`{room}`{'**' if room in READ else ''} | {text} | {counted[room]:,} |"
            for room, text in ROOMS.items()
            if room in counted
        ]
        return ["| room | what it holds | lines |", "|---|---|--:|", *rows, f"| all | | {sum(counted.values()):,} |"]


class LibraryLines(SphinxRole):
    """``{library-lines}`read` ``: lines of the rooms that a student reads; any other text: of all rooms."""

    def run(self):
        counted = lines_of(Path(self.env.srcdir, "medvlp_lite"))
        rooms = READ if self.text == "read" else counted
        return [nodes.Text(f"{sum(counted.get(room, 0) for room in rooms):,}")], []


def setup(app):
    app.add_directive("exercise-table", ExerciseTable)
    app.add_directive("exercise-kinds", KindTable)
    app.add_directive("room-table", RoomTable)
    app.add_role("library-lines", LibraryLines())
    return {"parallel_read_safe": True, "parallel_write_safe": True}

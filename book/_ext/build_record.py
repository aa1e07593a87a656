"""What a build did: the profile, the time and memory of every chapter, and that no chapter leaves a file behind.

``{build-table}`` shows this build; ``{profile-table}`` shows it beside the profiles measured earlier, which stand in
``book/measured.json``. The numbers of this build are written to ``measured.json`` beside its pages.
"""

import json
import os
import platform
import shutil
from pathlib import Path

from docutils import nodes
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

CELL_SECONDS = {"smoke": 600, "read": 600, "full": -1}
MEASURED = Path("book", "measured.json")
LOG = logging.getLogger(__name__)


def profile() -> str:
    """The profile that this build runs in."""
    return os.environ.get("MEDVLP_PROFILE") or "read"


def set_time_limit(app, config) -> None:
    """Give every cell the time limit of the profile; -1 is none."""
    config.nb_execution_timeout = CELL_SECONDS.get(profile(), 600)


def look_before(app) -> None:
    """Remember the files of book/, and name the folder in which every chapter leaves its peak memory."""
    folder = Path(app.outdir, "..", "memory").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["MEDVLP_MEMORY"] = str(folder)
    app.files_before = files_of(app)


def files_of(app) -> set[Path]:
    kept = {"__pycache__", ".ipynb_checkpoints", ".virtual_documents"}
    return {path for path in Path(app.srcdir, "book").rglob("*") if not kept & set(path.parts)}


def look_after(app, env) -> None:
    """Warn, which fails a strict build, of what chapters left in book/; then write down what this build measured."""
    for path in sorted(files_of(app) - app.files_before):
        LOG.warning("a chapter left %s in book/", path.relative_to(app.srcdir))
    Path(app.outdir).mkdir(parents=True, exist_ok=True)
    Path(app.outdir, MEASURED.name).write_text(json.dumps({profile(): measured(env)}, indent=2), encoding="utf-8")


def measured(env) -> dict:
    """Seconds and peak memory (GiB, None where unknown) of every executed page, by its name, and the machine."""
    folder = Path(os.environ["MEDVLP_MEMORY"])
    pages = {}
    for docname, data in sorted(NbMetadataCollector.get_doc_data(env).items()):
        if ran := data.get("exec_data"):
            memory = folder / f"{Path(docname).name}.txt"
            peak = round(float(memory.read_text()) / 1024, 2) if memory.is_file() else None
            pages[docname] = {"seconds": round(ran["runtime"], 1), "gib": peak, "succeeded": ran["succeeded"]}
    return {"machine": f"{platform.machine()} CPU, {os.cpu_count()} cores", "pages": pages}


class Pending(nodes.General, nodes.Element):
    """Stands where a table goes, until every page has been executed."""


class PendingTable(SphinxDirective):
    """Both tables: they can be filled only when all pages have been executed."""

    def run(self) -> list[nodes.Node]:
        NbMetadataCollector.set_doc_data(self.env, self.env.docname, "has_exec_table", True)
        return [Pending(kind=self.name)]


class FillTables(SphinxPostTransform):
    """Puts the tables in, once the times are known."""

    default_priority = 8

    def run(self, **kwargs) -> None:
        for node in list(self.document.findall(Pending)):
            rows = {"build-table": build_rows, "profile-table": profile_rows}[node["kind"]](self.env)
            node.replace_self(table_of(rows))


def build_rows(env) -> list[list[str]]:
    """A header, one row for each executed page, and a row of totals."""
    pages = measured(env)["pages"]
    rows = [["page", "time", "peak memory", "executed"]]
    for docname, page in pages.items():
        number = env.toc_secnumbers.get(docname, {}).get("") or ()
        title = " ".join([*map(str, number), env.titles[docname].astext()])
        rows.append([title, minutes(page["seconds"]), gib(page["gib"]), "✓ yes" if page["succeeded"] else "✗ no"])
    return [*rows, ["all pages", minutes(total(pages)), gib(largest(pages)), f"profile {profile()}"]]


def profile_rows(env) -> list[list[str]]:
    """A header and one row for each profile, with this build's own numbers for the profile that it runs in."""
    file = Path(env.srcdir, MEASURED)
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rows = [["profile", "all chapters", "longest chapter", "peak memory", "measured on"]]
    for name in CELL_SECONDS:
        found = measured(env) if name == profile() else kept.get(name)
        if found and found["pages"]:
            pages, where = found["pages"], found["machine"] + (", this build" if name == profile() else "")
            longest = max(page["seconds"] for page in pages.values())
            rows.append([name, minutes(total(pages)), minutes(longest), gib(largest(pages)), where])
        else:
            rows.append([name, *["not measured"] * 3, "—"])
    return rows


def total(pages: dict) -> float:
    return sum(page["seconds"] for page in pages.values())


def largest(pages: dict) -> float | None:
    return max((page["gib"] for page in pages.values() if page["gib"] is not None), default=None)


def minutes(seconds: float) -> str:
    return "{}\u00a0min {:02d}\u00a0s".format(*divmod(round(seconds), 60))


def gib(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f} GiB"


def table_of(rows: list[list[str]]) -> nodes.table:
    """A table of plain text; its first row is the header."""
    group = nodes.tgroup(cols=len(rows[0]))
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]
    for part, lines in ((nodes.thead(), rows[:1]), (nodes.tbody(), rows[1:])):
        for line in lines:
            row = nodes.row()
            row += [nodes.entry("", nodes.paragraph(text=text)) for text in line]
            part += row
        group += part
    return nodes.table("", group, classes=["colwidths-auto"])


def setup(app):
    app.add_node(Pending)
    app.add_directive("build-table", PendingTable)
    app.add_directive("profile-table", PendingTable)
    app.add_post_transform(FillTables)
    app.connect("config-inited", set_time_limit)
    app.connect("builder-inited", look_before)
    app.connect("env-updated", look_after)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""All systems at equal terms: one table from the records, with ties marked, and how each learned.

Built in chapter 03_contrastive_baseline.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from medvlp_lite.evaluation.intervals import mean_ci
from medvlp_lite.figures.style import LINES, MARKERS
from medvlp_lite.records.measures import MEASURES
from medvlp_lite.records.record import RunRecord, load_record
from medvlp_lite.records.statistics import ALPHA, p_value

SYSTEMS = {
    "supervised": "told the labels",
    "filter_attention": "filter's labels, attention head",
    "filter_linear": "filter's labels, linear head",
    "medklip": "MedKLIP",
    "medfilip": "MedFILIP",
    "maco": "MaCo",
    "mskpt_chest": "MSK-PT, all three",
    "mskpt_chest_global": "MSK-PT, global",
    "convirt": "ConVIRT",
}
"""The rows of the table, with their titles; the first is a bound and competes for no mark."""
COLUMNS = {
    "zero-shot AUC": "AUC",
    "prompts chosen": "prompt AUC",
    "probe 1 %": "probe AUC, 1 %",
    "probe 10 %": "probe AUC, 10 %",
    "probe 100 %": "probe AUC, 100 %",
    "pointing": "pointing",
    "IoU": "IoU",
}
"""The columns, with the measures of the records."""


def known_records(names: Mapping[str, str] = SYSTEMS) -> dict[str, RunRecord]:
    """The committed records of today's phantom among these rows."""
    found = {name: load_record(name) for name in names}
    return {name: record for name, record in found.items() if record and record.of_today}


def values_by_seed(record: RunRecord, measure: str) -> dict[int, float]:
    """A measure of every seed; empty where the record does not hold it."""
    try:
        return {run["seed"]: MEASURES[measure].read(run) for run in record.metrics["runs"]}
    except (KeyError, TypeError):
        return {}


def ties(columns: Mapping[str, Mapping[int, float]]) -> set[str]:
    """The rows that are best or not told apart from the best by a paired t-test over shared seeds (p >= .05, uncorrected)."""
    known = {name: values for name, values in columns.items() if values}
    if not known:
        return set()
    best = max(known, key=lambda name: np.mean(list(known[name].values())))
    shared = {name: sorted(known[best].keys() & values.keys()) for name, values in known.items()}
    gaps = {name: [known[best][seed] - known[name][seed] for seed in seeds] for name, seeds in shared.items()}
    return {name for name, gap in gaps.items() if name == best or not p_value(gap) < ALPHA}


def systems_table(records: Mapping[str, RunRecord] | None = None, bound: str = "supervised") -> str:
    """The table as HTML: mean over seeds with half of its 95 % interval; bold where a row is best or tied with the best.

    ``bound`` stands first and is not compared, nor is a row of one draw. A row whose validation curve still moved at the end carries a mark.
    """
    records = known_records() if records is None else records
    found = {title: {n: values_by_seed(r, measure) for n, r in records.items()} for title, measure in COLUMNS.items()}
    compared = {
        title: {n: v for n, v in column.items() if n != bound and len(v) > 1} for title, column in found.items()
    }
    marked = {title: ties(column) for title, column in compared.items()}
    head = "".join(f'<th scope="col">{title}</th>' for title in ("system", *COLUMNS, "draws"))
    rows = []
    for name, record in records.items():
        cells = [_cell(found[title][name], name in marked[title]) for title in COLUMNS]
        note = "" if record.converged else " †"
        rows.append(
            f'<tr><th scope="row">{SYSTEMS.get(name, name)}{note}</th>{"".join(cells)}<td>{len(record.seeds)}</td></tr>'
        )
    return f'<table class="systems"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _cell(values: Mapping[int, float], best: bool) -> str:
    if not values:
        return "<td>–</td>"
    interval = mean_ci(list(values.values()))
    half = "" if np.isnan(interval.half) else f' <span class="spread">± {interval.half:.3f}</span>'
    text = f"{interval.value:.3f}{half}"
    return f"<td><strong>{text}</strong></td>" if best else f"<td>{text}</td>"


def plot_learning(records: Mapping[str, RunRecord], *, title: str, names: Mapping[str, str] = SYSTEMS) -> Figure:
    """Training loss, as a share of its first mean, and validation measure of each row by images seen; every draw is a line."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.4), layout="constrained")
    for place, (name, record) in enumerate(records.items()):
        for draw, run in enumerate(record.metrics["runs"]):
            curve, label = run["curve"], names.get(name, name) if draw == 0 else None
            look = {"color": f"C{place}", "linestyle": LINES[place % len(LINES)], "linewidth": 1.3}
            left.plot(np.array(curve["images"]) / 1e3, np.array(curve["loss"]) / curve["loss"][0], **look, label=label)
            points = curve.get("validation", {})
            if points:
                right.plot(
                    np.array(points["images"]) / 1e3, points["values"], marker=MARKERS[place], markersize=4, **look
                )
    left.set(xlabel="thousand images seen", ylabel="training loss, first = 1")
    right.set(xlabel="thousand images seen", ylabel="validation measure")
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:g}")
    figure.suptitle(textwrap.fill(title, 64), fontsize="medium", fontweight="bold", x=0.01, ha="left")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize="small")
    return figure

"""Rows of the records beside each other, in words and as a figure, whether or not all of them have been run.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from medvlp_lite.evaluation.intervals import mean_ci
from medvlp_lite.figures.curves import WIDTH
from medvlp_lite.figures.style import MARKERS
from medvlp_lite.figures.systems import values_by_seed
from medvlp_lite.records.claims import NOT_RUN
from medvlp_lite.records.measures import MEASURES
from medvlp_lite.records.record import RunRecord


def in_words(values: Sequence[float], sign: bool = False) -> str:
    """The mean over draws with its 95 % interval; "not run yet" for none, and no interval for one."""
    if not len(values):
        return NOT_RUN
    interval, number = mean_ci(values), "{:+.3f}" if sign else "{:.3f}"
    bounds = "one draw, no interval" if len(values) == 1 else f"{number}, {number}".format(interval.low, interval.high)
    return f"{number} [{{}}]".format(interval.value, bounds)


def difference(records: Mapping[str, RunRecord], before: str, after: str, measure: str) -> list[float]:
    """By how much ``measure`` is larger in the row ``after``, in each draw that both have; empty where a row is missing."""
    found = [values_by_seed(records[name], measure) if name in records else {} for name in (before, after)]
    return [found[1][seed] - found[0][seed] for seed in sorted(found[0].keys() & found[1].keys())]


def wide_enough(limits: tuple[float, float], measure: str) -> tuple[float, float]:
    """Limits of an axis, widened to at least four times the smallest difference in ``measure`` that matters."""
    short = max(0.0, 4 * MEASURES[measure].delta - (limits[1] - limits[0])) / 2
    return limits[0] - short, limits[1] + short


def plot_rows(
    records: Mapping[str, RunRecord], names: Mapping[str, str], panels: Mapping[str, Mapping[str, str]], *,
    title: str, chance: Mapping[str, float] | None = None,
) -> Figure:  # fmt: skip
    """Every row of ``names`` (row -> label) in every panel (axis label -> series -> measure): mean, 95 % interval, each draw a dot.

    The label says how many draws a row has; one without a record keeps its line, empty. ``chance`` draws a line in panels.
    """
    height = 1.3 + 0.27 * len(names)
    figure, grid = plt.subplots(
        1, len(panels), figsize=(WIDTH, height), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (label, series) in zip(grid[0], panels.items()):
        for place, (kind, measure) in enumerate(series.items()):
            look = {"color": f"C{place}", "mfc": f"C{place}" if place == 0 else "white"}
            offset = 0.3 * (place - (len(series) - 1) / 2)
            axes.plot([], [], MARKERS[place], label=kind, **look)
            for line, name in enumerate(names):
                values = list(values_by_seed(records[name], measure).values()) if name in records else []
                if values:
                    axes.plot(values, [line + offset] * len(values), ".", color="0.6", markersize=4)
                    interval = mean_ci(values)
                    axes.plot([interval.low, interval.high], [line + offset] * 2, color=look["color"], linewidth=1.3)
                    axes.plot(interval.value, line + offset, MARKERS[place], markersize=6, **look)
        if label in (chance or {}):
            axes.axvline(chance[label], color="0.5", linewidth=1, linestyle=":", label="chance")
        axes.margins(x=0.1)
        axes.set(xlabel=label, xlim=wide_enough(axes.get_xlim(), measure))
        axes.grid(axis="y", color="0.92")
    grid[0, 0].set_yticks(range(len(names)), [f"{label} ({_draws(records.get(n))})" for n, label in names.items()])
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(textwrap.fill(title, 64), fontsize="medium", fontweight="bold", x=0.01, ha="left")
    if any(len(series) > 1 for series in panels.values()):
        handles = {t: h for axes in grid[0] for h, t in zip(*axes.get_legend_handles_labels())}
        figure.legend(handles.values(), handles, loc="outside lower left", ncols=4, fontsize="small")
    return figure


def _draws(record: RunRecord | None) -> str:
    count = len(record.seeds) if record else 0
    return NOT_RUN if not count else f"{count} draw{'s' * (count > 1)}"

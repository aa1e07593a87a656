"""Curves and intervals: loss, ROC, calibration, comparisons with spread.

Every figure is at most 6.5 inches wide, so that its text stays readable on a page, and its legend stands below the axes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from medvlp_lite.evaluation.classification import calibration_curve, roc_points
from medvlp_lite.evaluation.intervals import Interval
from medvlp_lite.figures.style import LINES, MARKERS

WIDTH = 6.4  # inches


def legend_below(axes: Axes, *, drop: float = 0.55, columns: int = 3, **options: Any) -> None:
    """The legend of ``axes``, ``drop`` inches below their lower left corner: under tick labels and axis title, not over data."""
    below = axes.transAxes + ScaledTranslation(0, -drop, axes.figure.dpi_scale_trans)
    axes.legend(
        loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, ncols=columns, fontsize="small",
        borderaxespad=0, columnspacing=1.2, handlelength=1.8, **options,
    )  # fmt: skip


def plot_losses(
    losses: Mapping[str, Sequence[float]],
    *,
    title: str,
    chance: float | Mapping[str, float] | None = None,
    window: int = 15,
) -> Axes:
    """Smoothed loss per step for each named run.

    ``chance`` draws the level of a system that has learned nothing: one for all, or one for each run by its name.
    """
    _, axes = plt.subplots(figsize=(WIDTH, 3.2))
    levels = dict(chance) if isinstance(chance, Mapping) else {} if chance is None else {"": chance}
    for (name, values), line in zip(losses.items(), LINES * len(losses)):
        span = max(1, min(window, len(values) // 4))
        smooth = np.convolve(values, np.ones(span) / span, mode="valid")
        axes.plot(np.arange(len(smooth)) + span, smooth, line, label=name)
    for name, level in levels.items():
        text = f"{name}: nothing learned" if name else "nothing learned"
        axes.axhline(level, color="0.4", linewidth=1, linestyle=":")
        axes.text(0.99, level, text, transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize="small")
    axes.set(xlabel="optimiser step", ylabel="loss", title=title)
    if len(losses) > 1:
        legend_below(axes)
    return axes


def plot_roc(
    labels: np.ndarray,
    scores: np.ndarray,
    aucs: Mapping[str, Interval],
    names: Sequence[str],
    *,
    title: str,
    shown: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """ROC curves (C-2): those of the classes ``shown`` (all by default) by colour and dash with AUC and interval, others grey."""
    axes = axes or plt.subplots(figsize=(4.6, 4.4))[1]
    shown = list(aucs) if shown is None else [name for name in shown if name in aucs]
    for name in aucs:
        points = roc_points(*(part[:, list(names).index(name)] for part in (labels, scores)))
        if name in shown:
            place = shown.index(name)
            axes.plot(*points, LINES[place % len(LINES)], color=f"C{place}", label=f"{name} {aucs[name]}")
        else:
            axes.plot(*points, color="0.8", linewidth=1, zorder=1)
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":", label="chance 0.500")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title, aspect="equal")
    legend_below(axes, columns=1, title="AUC [95 % interval]", alignment="left")
    return axes


def plot_intervals(
    rows: Mapping[str, Mapping[str, Interval]],
    *,
    title: str,
    xlabel: str,
    chance: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """A dot with its interval for every row; several named series per row stand one below the other.

    ``limits`` bounds the axis; an interval that is wider goes on beyond the frame.
    """
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    height = 1.5 + max(0.26, 0.11 * len(series) + 0.06) * len(rows)
    _, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    for place, name in enumerate(series):
        offset = (place - (len(series) - 1) / 2) * 0.7 / max(len(series), 2)
        points = [(r + offset, row[name]) for r, row in enumerate(rows.values()) if name in row]
        y, values = [p for p, _ in points], [i.value for _, i in points]
        errors = np.abs([[i.value - i.low for _, i in points], [i.high - i.value for _, i in points]])
        axes.errorbar(
            values,
            y,
            xerr=np.nan_to_num(errors),
            fmt=MARKERS[place],
            capsize=2.5,
            label=name,
            markersize=5,
            linewidth=1.2,
        )
    if chance is not None:
        axes.axvline(chance, color="0.5", linewidth=1, linestyle=":", label="chance")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if limits:
        axes.set_xlim(*limits)
    axes.set(xlabel=xlabel)
    axes.set_title(textwrap.fill(title, 52))
    if len(series) > 1 or chance is not None:
        wide = any(len(name) > 20 for name in series) or sum(map(len, series)) > 40
        legend_below(axes, columns=2 if wide else 4)
    return axes


def plot_calibration(
    runs: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str, bins: int = 10, axes: Axes | None = None
) -> Axes:
    """Observed share of positives against predicted probability; the diagonal is perfect calibration."""
    axes = axes or plt.subplots(figsize=(4.4, 4.2))[1]
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfect")
    for place, (name, (labels, probabilities)) in enumerate(runs.items()):
        curve = calibration_curve(labels, probabilities, bins)
        axes.plot(
            curve["predicted"], curve["observed"], LINES[place % 4], marker=MARKERS[place], label=name, markersize=5
        )
    axes.set(
        xlabel="predicted probability", ylabel="observed share", title=title, xlim=(0, 1), ylim=(0, 1), aspect="equal"
    )
    legend_below(axes, columns=1)
    return axes

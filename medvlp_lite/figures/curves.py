"""Curves and intervals: loss, ROC, calibration, confusion, comparisons with spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from medvlp_lite.evaluation.classification import calibration_curve, roc_points
from medvlp_lite.evaluation.intervals import Interval
from medvlp_lite.figures.style import LINES, MARKERS


def plot_losses(
    losses: Mapping[str, Sequence[float]], *, title: str, chance: float | None = None, window: int = 15
) -> Axes:
    """Smoothed loss per step for each named run; ``chance`` draws the level of a system that has learned nothing."""
    _, axes = plt.subplots(figsize=(6.4, 3.6))
    for (name, values), line in zip(losses.items(), LINES * len(losses)):
        span = max(1, min(window, len(values) // 4))
        smooth = np.convolve(values, np.ones(span) / span, mode="valid")
        axes.plot(np.arange(len(smooth)) + span, smooth, line, label=name)
    if chance is not None:
        axes.axhline(chance, color="0.4", linewidth=1)
        axes.text(axes.get_xlim()[1], chance, " nothing learned", va="center", color="0.3", fontsize="small")
    axes.set(xlabel="optimiser step", ylabel="loss", title=title)
    if len(losses) > 1:
        axes.legend()
    return axes


def plot_roc(
    labels: np.ndarray, scores: np.ndarray, aucs: Mapping[str, Interval], names: Sequence[str], *, title: str
) -> Axes:
    """One ROC curve per class, told apart by colour and dash, with its AUC and interval in the legend (C-2)."""
    _, axes = plt.subplots(figsize=(7.6, 4.4))
    ordered = sorted(aucs, key=lambda name: -aucs[name].value)
    for rank, name in enumerate(ordered):
        column = list(names).index(name)
        false_positive, true_positive = roc_points(labels[:, column], scores[:, column])
        axes.plot(false_positive, true_positive, LINES[rank % len(LINES)], label=f"{name} {aucs[name]}")
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="chance 0.500")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title, aspect="equal")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small", title="AUC [95 % interval]")
    return axes


def plot_intervals(
    rows: Mapping[str, Mapping[str, Interval]],
    *,
    title: str,
    xlabel: str,
    chance: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """A dot with its interval for every row; several named series per row stand side by side.

    ``limits`` bounds the axis; an interval that is wider goes on beyond the frame.
    """
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    _, axes = plt.subplots(figsize=(6.8, 0.9 + 0.3 * len(rows) + 0.12 * len(series)))
    for place, name in enumerate(series):
        offset = (place - (len(series) - 1) / 2) * 0.22
        points = [(r + offset, row[name]) for r, row in enumerate(rows.values()) if name in row]
        y, values = [p for p, _ in points], [i.value for _, i in points]
        errors = np.abs([[i.value - i.low for _, i in points], [i.high - i.value for _, i in points]])
        axes.errorbar(values, y, xerr=np.nan_to_num(errors), fmt=MARKERS[place], capsize=3, label=name, markersize=5)
    if chance is not None:
        axes.axvline(chance, color="0.5", linewidth=1, linestyle=":", label="chance")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    if limits:
        axes.set_xlim(*limits)
    axes.set(xlabel=xlabel, title=title)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small")
    return axes


def plot_calibration(runs: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str, bins: int = 10) -> Axes:
    """Observed share of positives against predicted probability; the diagonal is perfect calibration."""
    _, axes = plt.subplots(figsize=(4.6, 4.2))
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfect")
    for place, (name, (labels, probabilities)) in enumerate(runs.items()):
        curve = calibration_curve(labels, probabilities, bins)
        axes.plot(
            curve["predicted"], curve["observed"], LINES[place % 4], marker=MARKERS[place], label=name, markersize=5
        )
    axes.set(
        xlabel="predicted probability", ylabel="observed share", title=title, xlim=(0, 1), ylim=(0, 1), aspect="equal"
    )
    axes.legend(fontsize="small")
    return axes


def plot_confusion(
    counts: np.ndarray, names: Sequence[str], *, title: str, rows: str = "truth", columns: str = "answer"
) -> Axes:
    """Counts with row shares as shade: what stands in row r, column c was r and was called c."""
    _, axes = plt.subplots(figsize=(1.6 + 0.75 * len(names), 1.2 + 0.6 * len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    sns.heatmap(
        shares, annot=counts.astype(int), fmt="d", cmap="Blues", vmin=0, vmax=1, xticklabels=names, yticklabels=names,
        cbar_kws={"label": f"share of the {rows} row"}, ax=axes,
    )  # fmt: skip
    axes.set(xlabel=columns, ylabel=rows, title=title)
    return axes

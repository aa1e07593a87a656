"""MaCo's dial of masks and weightings, its map beside its controls, and its weights on the lungs, from records.

Built in chapter 05_masked_contrastive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from medvlp_lite.evaluation.intervals import Interval, mean_ci
from medvlp_lite.figures.curves import WIDTH
from medvlp_lite.figures.style import LINES, MARKERS
from medvlp_lite.figures.systems import values_by_seed
from medvlp_lite.records import MEASURES, Comparison, RunRecord
from medvlp_lite.records.claims import NOT_RUN
from medvlp_lite.records.measures import small
from medvlp_lite.records.statistics import CONTRADICTED, INCONCLUSIVE, NO_DIFFERENCE, SUPPORTED, verdict_of

WEIGHTINGS = {
    "none": "_contrastive", "split": "_split", "joint": "", "joint, mean 1": "_normalised", "first version": "_arxiv",
}  # fmt: skip
MASKS = {"single patches": "maco", "squares of 3 x 3": "maco_block"}
DIAL = {(mask, weighting): start + end for mask, start in MASKS.items() for weighting, end in WEIGHTINGS.items()}
"""The rows of the dial by masks and weighting; those without weighting stand first."""
DIAL_MEASURES = {"AUC": ("AUC", "zero-shot AUC"), "phrase CNR": ("phrase CNR, no weights", "CNR of phrase grounding")}
"""What the dial is read in: the measure of a weighted row, that of a row without weights, and the panel's title."""
CONTROLS = {
    "own": "own map",
    "transplanted": "another patient with it",
    "healthy": "a patient without it",
    "other question": "another question",
    "weights alone": "weight map alone",
    "mean map": "mean of training maps",
    "no weights": "own, not weighted",
    "shuffled weights": "own, weights moved",
    "lesion prior": "own, times usual place",
}
"""The maps of ``evaluation.importance.map_controls`` in words."""
ALONE = "one draw"
SAYS = {
    SUPPORTED: "it raises it with {}",
    CONTRADICTED: "it lowers it with {}",
    NO_DIFFERENCE: "it makes no difference that matters with {}",
    INCONCLUSIVE: "it is undecided with {}",
    ALONE: "there is one draw so far, and no interval, with {}",
}


def _legend(figure: Figure | SubFigure, axes: Axes, columns: int) -> None:
    """What the axes name, below the whole figure."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=columns, fontsize="small")


def written(values: Sequence[float], digits: int = 3) -> str:
    """A mean over draws with half of its 95 % interval; one draw, or none, is said in words."""
    if not len(values):
        return NOT_RUN
    interval = mean_ci(list(values))
    spread = "(one draw)" if len(values) == 1 else f"± {interval.half:.{digits}f}"
    return f"{interval.value:.{digits}f} {spread}"


def dial_effects(records: Mapping[str, RunRecord], measure: str = "AUC") -> dict[tuple[str, str], Interval]:
    """What each weighting changes against none under the same masks, over shared draws; cells that were not run are left out."""
    found = {}
    for (mask, weighting), row in DIAL.items():
        plain = DIAL[mask, "none"]
        if row == plain:
            continue
        try:
            effect = Comparison(plain, row, measure, DIAL_MEASURES[measure][0]).effect(records)
        except LookupError:
            continue
        if effect.seeds:
            found[mask, weighting] = effect.interval
    return found


def dial_sentence(records: Mapping[str, RunRecord], measure: str = "AUC") -> str:
    """What the dial says of weighting, in one sentence that holds whatever was run and however it came out."""
    found, title = dial_effects(records, measure), DIAL_MEASURES[measure][1]
    if not found:
        return f"No weighted row was run beside its unweighted one yet, so the dial says nothing of {title}."
    low, high = (pick(found.values(), key=lambda one: one.value).value for pick in (min, max))
    moves = f"{low:+.3f} to {high:+.3f}" if len(found) > 1 else f"{low:+.3f}"
    cells: dict[str, list] = {verdict: [] for verdict in SAYS}
    for cell, one in found.items():
        cells[ALONE if np.isnan(one.low) else verdict_of(one, MEASURES[measure].delta)].append(cell)
    parts = "; ".join(SAYS[verdict].format(_listed(own)) for verdict, own in cells.items() if own)
    all_cells = len(DIAL) - len(MASKS)
    matters = cells[SUPPORTED] or cells[CONTRADICTED]
    nowhere = len(cells[NO_DIFFERENCE]) == all_cells
    answer = "it can matter" if matters else "it does not matter" if nowhere else "the question is open"
    return (
        f"{len(found)} of {all_cells} weighted cells were run beside the unweighted row of their masks. Weighting moves {title} "
        f"by {moves}: {parts}. So {answer}."
    )


def _listed(cells: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{weighting} ({mask})" for mask, weighting in cells)


def plot_dial(records: Mapping[str, RunRecord]) -> Figure:
    """Masks x weightings: each draw a small mark, the mean with its 95 % interval, a cross where a row was not run."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.3), layout="constrained")
    for axes, (measure, (unweighted, title)) in zip(panels, DIAL_MEASURES.items()):
        for place, mask in enumerate(MASKS):
            for x, weighting in enumerate(WEIGHTINGS):
                record = records.get(DIAL[mask, weighting])
                name = unweighted if weighting == "none" else measure
                values = list(values_by_seed(record, name).values()) if record else []
                _draws(axes, x + 0.24 * place - 0.12, values, place, level=weighting == "none")
            look = {"color": f"C{place}", "marker": MARKERS[place], "linestyle": "none"}
            axes.plot([], [], **look, label=mask)
        axes.plot([], [], "x", color="0.4", label=NOT_RUN)
        axes.set_xticks(range(len(WEIGHTINGS)), list(WEIGHTINGS), rotation=40, ha="right")
        middle, half = np.mean(axes.get_ylim()), np.ptp(axes.get_ylim()) / 2
        half = max(half, 4 * MEASURES[measure].delta)  # else a difference that does not matter would fill the panel
        axes.set(title=title, xlim=(-0.5, len(WEIGHTINGS) - 0.5), ylim=(middle - half, middle + half))
    _legend(figure, panels[0], 3)
    return figure


def _draws(axes: Axes, x: float, values: Sequence[float], place: int, level: bool = False) -> None:
    """One cell of the dial; ``level`` draws its mean across the panel."""
    if not values:
        axes.plot(x, 0.02, "x", color=f"C{place}", transform=axes.get_xaxis_transform(), clip_on=False)
        return
    interval = mean_ci(values)
    error = np.nan_to_num(interval.half)
    axes.errorbar(x, interval.value, error, fmt=MARKERS[place], color=f"C{place}", capsize=3, markersize=6)
    axes.plot([x + 0.09] * len(values), values, ".", color=f"C{place}", markersize=3, alpha=0.6)
    if level:
        axes.axhline(interval.value, color=f"C{place}", linestyle=LINES[place + 1], linewidth=0.9)


def control_values(record: RunRecord | None, key: str) -> dict[str, list[float]]:
    """A measure ("cnr", "miou", "pointing") of each control's map by draw, mean over small findings; empty where not measured."""
    runs = record.metrics["runs"] if record else []
    return {
        control: [small(control, key, root="map_controls")(run) for run in runs if "map_controls" in run]
        for control in CONTROLS
    }


def plot_controls(records: Mapping[str, RunRecord | None]) -> Figure:
    """CNR and pointing game of a map beside its controls; ``records`` by label, every draw a mark, a line where "own" stands."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.6), sharey=True, layout="constrained")
    for axes, (key, title) in zip(panels, {"cnr": "CNR", "pointing": "pointing game"}.items()):
        for place, (label, record) in enumerate(records.items()):
            values = control_values(record, key)
            height = 0.22 * (place - (len(records) - 1) / 2)
            points = [(one, row + height) for row, own in enumerate(values.values()) for one in own]
            look = {"color": f"C{place}", "marker": MARKERS[place], "linestyle": "none", "markersize": 5}
            axes.plot(*(zip(*points) if points else ((), ())), **look, label=label if points else f"{label}: {NOT_RUN}")
            if points:
                axes.axvline(np.mean(values["own"]), color=f"C{place}", linestyle=LINES[place + 1], linewidth=0.9)
        axes.set(title=title, xlabel="mean over small findings")
    panels[0].set_yticks(range(len(CONTROLS)), list(CONTROLS.values()))
    panels[0].set_ylim(len(CONTROLS) - 0.5, -0.5)
    _legend(figure, panels[0], 2)
    return figure


def outline_lungs(axes: Axes, area: np.ndarray, side: int | None = None) -> None:
    """Where most phantoms have lung, from the share of lung in each patch (h, h), on the patch grid or an image of ``side``."""
    cells = len(area)
    centres = (np.arange(cells) + 0.5) * (side or cells) / cells - 0.5
    axes.contour(centres, centres, area, levels=[0.5], colors="cyan", linewidths=1)
    axes.set(xticks=[], yticks=[])


def plot_weights(
    maps: Mapping[str, np.ndarray], area: np.ndarray, panels: Mapping[str, Mapping[str, Sequence]], *, label: str,
    xlabel: str, levels: Mapping[str, float],
) -> Figure:  # fmt: skip
    """Maps of patches (h, h) in one colour scale with the lungs outlined, above panels of curves.

    ``panels``: title -> name -> lines (x, y), one for each draw; a line of one point is a mark. ``levels``: title -> a dotted
    line at what untrained weights have. ``label`` names the colour scale.
    """
    figure = plt.figure(figsize=(WIDTH, 4.9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.4))
    limits = min(map(np.min, maps.values())), max(map(np.max, maps.values()))
    upper = above.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, values) in zip(upper, maps.items()):
        shown = axes.imshow(values, cmap="magma", vmin=limits[0], vmax=limits[1])
        outline_lungs(axes, area)
        axes.set_title(title)
    above.colorbar(shown, ax=upper, label=label, shrink=0.9)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    lower = below.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, lines) in zip(lower, panels.items()):
        for name, draws in lines.items():
            for x, y in draws:
                axes.plot(x, y, **_look(names.index(name)), marker=MARKERS[names.index(name)] if len(x) < 2 else None)
        axes.axhline(levels[title], color="0.4", linestyle=":")
        axes.set(xlabel=xlabel, title=title)
    for place, name in enumerate(names):
        lower[0].plot([], [], **_look(place), marker=MARKERS[place], label=name)
    lower[0].plot([], [], ":", color="0.4", label="where training starts")
    _legend(below, lower[0], 2)
    return figure


def _look(place: int) -> dict[str, object]:
    return {"color": f"C{place}", "linestyle": LINES[place % len(LINES)], "markersize": 5}

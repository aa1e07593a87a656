"""Radiographs with what is known about them drawn on top: masks as outlines, boxes as frames, heat maps as shade.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medvlp_lite.figures.curves import WIDTH
from medvlp_lite.figures.style import LINES
from medvlp_lite.studies import Study


def draw_study(study: Study, axes: Axes, *, title: str | None = None, outlines: bool = True) -> Axes:
    """One radiograph; every present finding with a mask or boxes is outlined and named in the legend below.

    Image left is the patient's right, as radiologists hang a film.
    """
    image = study.image
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    title = title if title is not None else study.study_id
    axes.set_title(_wrapped(title, axes), loc="left", fontsize="small", fontweight="normal")
    sns.despine(ax=axes, left=True, bottom=True)
    if outlines:
        _outline_findings(study, axes, *image.shape)
    return axes


def _outline_findings(study: Study, axes: Axes, height: int, width: int) -> None:
    shown = [f for f in study.findings if f.present and (f.mask is not None or f.boxes)]
    colours = sns.color_palette("bright", max(len(shown), 1))
    for place, finding in enumerate(shown):
        style = {"color": colours[place], "linestyle": LINES[place % len(LINES)]}
        if finding.mask is not None and finding.mask.any():
            region = finding.region(height, width).astype(float)
            axes.contour(region, levels=[0.5], colors=[style["color"]], linestyles=style["linestyle"], linewidths=1.3)
        for box in finding.boxes:
            corner = (box.x * width - 0.5, box.y * height - 0.5)
            axes.add_patch(
                Rectangle(corner, box.width * width, box.height * height, fill=False, linewidth=1.5, **style)
            )
        axes.plot([], [], label=_wrapped(describe_finding(finding), axes, 4), **style)
    if shown:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.01), fontsize="small", borderaxespad=0.2, handlelength=1.4)


def _wrapped(text: str, axes: Axes, spared: int = 0) -> str:
    """A text in lines that are as wide as the axes, less ``spared`` letters."""
    letters = round(axes.get_window_extent().width / axes.figure.dpi * 12) - spared
    return "\n".join(textwrap.fill(line, max(letters, 8), break_long_words=False) for line in text.split("\n"))


def describe_finding(finding) -> str:
    """Severity, entity, side and place in one line."""
    words = (finding.severity, finding.entity, finding.side and f"({finding.side})", finding.position)
    return " ".join(word for word in words if word)


def show_studies(
    studies: Sequence[Study],
    *,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    outlines: bool = True,
    side: float | None = None,
) -> Figure:
    """A grid of radiographs with their findings outlined, each ``side`` inches wide; None fills the page's width.

    Raises ValueError when there is none to show.
    """
    if not studies:
        raise ValueError("no study to show")
    columns = min(columns, len(studies))
    side = side or (WIDTH - 0.2) / max(columns, 2)
    rows = -(-len(studies) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(columns * side, rows * side), squeeze=False)
    figure.subplots_adjust(left=0, right=1, wspace=0.06)
    for place, axes in enumerate(grid.flat):
        if place < len(studies):
            draw_study(studies[place], axes, title=titles[place] if titles else None, outlines=outlines)
        else:
            axes.set_axis_off()
    legends = [axes.get_legend() for axes in grid.flat if axes.get_legend()]
    title_lines = max(axes.get_title(loc="left").count("\n") + 1 for axes in grid.flat)
    below = max((legend.get_window_extent().height for legend in legends), default=0) / figure.dpi
    below += 0.15 + 0.15 * title_lines
    figure.set_size_inches(columns * side, rows * (side + below))
    figure.subplots_adjust(top=1, bottom=below / (rows * (side + below)), hspace=below / side)
    return figure


def draw_heatmap(
    image: np.ndarray,
    heat: np.ndarray,
    axes: Axes,
    *,
    title: str = "",
    region: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """A heat map (h, w) of any grid over an image (H, W); the more heat, the less of the image shows through.

    The grid is stretched, never smoothed, so that the reader sees how coarse it is. A white frame marks the hottest cell,
    which the pointing game scores; the true region is outlined. ``limits`` are the values that are drawn clear and full;
    None takes the map's own smallest and largest, which makes any map look sharp.
    """
    height, width = image.shape
    low, high = limits or (heat.min(), heat.max())
    share = np.clip((heat - low) / max(high - low, 1e-12), 0, 1)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(heat, cmap="plasma", vmin=low, vmax=high, alpha=0.75 * share, extent=extent, interpolation="nearest")
    cell_height, cell_width = height / heat.shape[0], width / heat.shape[1]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    corner = column * cell_width - 0.5, row * cell_height - 0.5
    for colour, line in (("black", 3), ("white", 1.4)):
        axes.add_patch(Rectangle(corner, cell_width, cell_height, fill=False, edgecolor=colour, linewidth=line))
    if region is not None and region.any():
        axes.contour(region.astype(float), levels=[0.5], colors=["cyan"], linewidths=1.2)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, loc="left", fontsize="small", fontweight="normal")
    return axes


def heat_bar(axes: Sequence[Axes], label: str) -> Colorbar:
    """One colour bar for heat maps that were drawn with the same limits, at the right of ``axes``."""
    bar = axes[0].figure.colorbar(axes[0].images[-1], ax=list(axes), shrink=0.8, aspect=30, pad=0.02)
    bar.set_label(label)
    return bar

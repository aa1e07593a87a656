"""A report with what was read in it: words marked where they stand, and the label matrix as a picture.

Built in chapter 02_reports_to_triplets.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medvlp_lite.figures.curves import legend_below
from medvlp_lite.reports.lexicon import load
from medvlp_lite.reports.sentence import Mention
from medvlp_lite.reports.vocabulary import vocabulary

STATES = {True: "present", False: "absent", None: "unsure"}


def highlight(report: str, mentions: Iterable[Mention]) -> str:
    """HTML of a report: each mention's words marked by colour, line and a label, so that no one needs the colour.

    ``mentions`` are those of this report, with its character offsets. A normal structure is labelled with the findings
    that it excludes; what overlaps is marked once, with all labels. Raises ValueError when a span lies outside the report.
    """
    parts, position = [], 0
    for start, end, labels in _marked(report, mentions):
        state = labels[0][0]
        text = "; ".join(dict.fromkeys(label for _, label in labels))
        parts.append(escape(report[position:start]))
        parts.append(f'<span class="said {state}">{escape(report[start:end])}<small>{escape(text)}</small></span>')
        position = end
    parts.append(escape(report[position:]))
    key = " ".join(f'<span class="said {name}">{name}</span>' for name in STATES.values())
    return (
        f'<div class="medvlp-report"><style>{STYLE}</style><p class="key">What the report says is {key}</p>'
        f"<p>{''.join(parts)}</p></div>"
    )


def _marked(report: str, mentions: Iterable[Mention]) -> list[tuple[int, int, list[tuple[str, str]]]]:
    """Stretches to mark, left to right, each with the states and labels of the mentions in it."""
    stretches: list[tuple[int, int, list[tuple[str, str]]]] = []
    findings = load().concepts
    for mention in sorted(mentions, key=lambda mention: mention.span):
        (start, end), label = mention.span, (STATES[mention.present], _label(mention))
        if not 0 <= start < end <= len(report):
            raise ValueError(f"the mention of {mention.concept!r} at {mention.span} lies outside the report")
        if mention.concept not in findings:  # "unremarkable": said of a structure, no finding
            continue
        if stretches and start < stretches[-1][1]:
            first, last, labels = stretches[-1]
            stretches[-1] = first, max(last, end), [*labels, label]
        else:
            stretches.append((start, end, [label]))
    return stretches


def _label(mention: Mention) -> str:
    words = [STATES[mention.present]]
    if mention.implied:
        words = [f"no {mention.concept}"]
    return ", ".join(word for word in (*words, mention.severity, mention.side) if word)


STYLE = (
    ".medvlp-report{max-width:46rem}"
    ".medvlp-report p{white-space:pre-line;line-height:2;margin:.3rem 0}"
    ".medvlp-report .said{padding:.1em .25em;border-radius:.2em;border-bottom:.16em solid}"
    ".medvlp-report .said small{font-size:.75em;font-weight:600;margin-left:.35em}"
    ".medvlp-report .present{background:rgb(213 94 0 / 20%);border-bottom-color:#d55e00}"
    ".medvlp-report .absent{background:rgb(0 114 178 / 20%);border-bottom-color:#3d94cf;border-bottom-style:dashed}"
    ".medvlp-report .unsure{background:rgb(204 121 167 / 26%);border-bottom-color:#c0609a;border-bottom-style:dotted}"
)


def draw_statements(text: str, statements: Iterable[tuple[int, int, bool | None]], *, width: int = 84) -> Figure:
    """One line of text with what was read in it: (start, end, present) each, framed and labelled with its state.

    ``width`` is the number of characters that fill the picture. Raises ValueError for a longer text.
    """
    if len(text) > width:
        raise ValueError(f"the text has {len(text)} characters, more than the {width} of the picture")
    figure = Figure(figsize=(6.3, 0.75))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, 2))
    axes.set_axis_off()
    for place, letter in enumerate(text):
        axes.text(place + 0.5, 1.4, letter, family="monospace", ha="center", va="center", fontsize=9)
    looks = {True: ("#d55e00", "-"), False: ("#0072b2", "--"), None: ("#c0609a", ":")}
    for start, end, present in statements:
        colour, line = looks[present]
        frame = Rectangle(
            (start, 1), end - start, 0.8, edgecolor=colour, facecolor=(*to_rgb(colour), 0.15), linestyle=line
        )
        axes.add_patch(frame)
        axes.text((start + end) / 2, 0.55, STATES[present], color=colour, ha="center", va="center", fontsize=9)
    return figure


def plot_adjacency(matrix: np.ndarray, *, title: str) -> Axes:
    """The label matrix of equation K-3, (51, 75): 1 as an orange plus, 0 as a blue minus, unknown (NaN) left grey.

    Only rows and columns with a known cell are named. Raises ValueError on another shape.
    """
    positions, entities = vocabulary()["positions"], vocabulary()["entities"]
    if matrix.shape != (len(positions), len(entities)):
        raise ValueError(f"matrix must be {len(positions)} positions x {len(entities)} entities, got {matrix.shape}")
    _, axes = plt.subplots(figsize=(5.0, 5.6))
    axes.set_facecolor("0.93")
    for value, color, sign, name in ((0, "#0072b2", "$-$", "stated absent"), (1, "#d55e00", "$+$", "stated present")):
        rows, columns = np.nonzero(matrix == value)
        axes.scatter(columns, rows, s=46, marker="s", color=color)
        axes.scatter(columns, rows, s=20, marker=sign, color="white", linewidths=0.4)
        axes.scatter([], [], s=46, marker="s", color=color, label=f"{name} ({sign})")
    axes.scatter([], [], s=46, marker="s", color="0.93", edgecolors="0.6", label="unknown")
    known = ~np.isnan(matrix)
    used_rows, used_columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    axes.set_yticks(used_rows, [""] * len(used_rows))
    axes.set_xticks(used_columns, [""] * len(used_columns))
    axes.grid(color="white", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set(xlim=(-0.9, len(entities) - 0.1), ylim=(len(positions) - 0.1, -0.9))
    axes.set_title(title, pad=24)
    line = {"arrowstyle": "-", "linewidth": 0.6, "color": "0.5"}
    beside, below = axes.get_yaxis_transform(), axes.get_xaxis_transform()
    for row, spot in zip(used_rows, spread_labels(used_rows, 1.6)):
        axes.annotate(
            positions[row],
            (0, row),
            (-0.04, spot),
            beside,
            beside,
            arrowprops=line,
            ha="right",
            va="center",
            fontsize=9,
        )
    for column, spot in zip(used_columns, spread_labels(used_columns, 2.7)):
        axes.annotate(
            entities[column], (column, 0), (spot, -0.04), below, below, arrowprops=line, ha="center", va="top",
            rotation=90, fontsize=9,
        )  # fmt: skip
    axes.set_xlabel(f"{len(entities)} entities")
    axes.xaxis.set_label_position("top")
    axes.set_ylabel(f"{len(positions)} positions")
    axes.yaxis.set_label_position("right")
    legend_below(axes, drop=1.5)
    return axes


def spread_labels(places: np.ndarray, gap: float) -> np.ndarray:
    """Sorted places moved apart until neighbours are ``gap`` from each other, for labels that must not overlap."""
    spots = places.astype(float)
    for _ in range(200):
        short = np.maximum(gap - np.diff(spots), 0) / 2
        spots[:-1] -= short
        spots[1:] += short
    return spots

"""The ledger: claims counted, drawn as intervals, and as a table that the page's own script sorts and filters.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes

from medvlp_lite.evaluation.intervals import Interval
from medvlp_lite.records import SIGNS, TITLES, Comparison, Result
from medvlp_lite.records.claims import COLLAPSED, CONTROL_FAILED, NO_CONTROL, NOT_RUN

STATIC = "../_static/"
COLOURS = {
    "supported": "#0072b2", "contradicted": "#c65a11", "no difference": "#1f7a4d", "inconclusive": "#5f5f5f",
    CONTROL_FAILED: "#8a3a8a", NO_CONTROL: "#5f5f5f", COLLAPSED: "#9a8a6a",
}  # fmt: skip
MARKERS = dict(zip(COLOURS, (">", "<", "s", "o", "X", "o", "d")))
MEANING = {
    "supported": "the interval lies above 0: the effect that the paper claims is there",
    "contradicted": "the interval lies below 0: the effect has the opposite sign",
    "no difference": "the interval lies inside ±δ: if there is an effect, it is too small to matter",
    "inconclusive": "the interval reaches both ways, or there is one draw and no interval: this test cannot tell",
    COLLAPSED: "a row hardly ever gives one of the classes as its answer; no verdict is drawn from it",
    CONTROL_FAILED: "the test did not find an effect that must be there, or found one that must not",
    NO_CONTROL: "no row exists that shows that this test could see such an effect; the interval is listed, without a verdict",
    NOT_RUN: "a row is missing; the table says which",
}


def counts_table(results: Sequence[Result]) -> str:
    """How many claims of each system got which verdict, with what each verdict means, as an HTML table."""
    counts = Counter((result.verdict, result.claim.system) for result in results)
    heads = "".join(f'<th scope="col">{title}</th>' for title in TITLES.values())
    rows = []
    for verdict in SIGNS:
        cells = "".join(f"<td>{_count(counts[verdict, system], verdict, system)}</td>" for system in TITLES)
        rows.append(
            f'<tr><th scope="row">{_badge(verdict)}</th>{cells}<td class="meaning">{MEANING[verdict]}</td></tr>'
        )
    sums = "".join(f"<td>{sum(counts[v, system] for v in SIGNS)}</td>" for system in TITLES)
    return (
        f'{_style()}<table class="ledger-counts"><thead><tr><th scope="col">verdict</th>{heads}<th scope="col">it means</th></tr>'
        f'</thead><tbody>{"".join(rows)}<tr><th scope="row">all</th>{sums}<td class="meaning"></td></tr></tbody></table>'
    )  # fmt: skip


def _style() -> str:
    return f'<link rel="stylesheet" href="{STATIC}ledger.css">'


def _badge(verdict: str) -> str:
    return f'<span class="verdict" data-verdict="{verdict}">{SIGNS[verdict]} {verdict}</span>'


def _count(number: int, verdict: str, system: str) -> str:
    link = f'<a href="#claims" data-show-verdict="{verdict}" data-show-system="{system}">{number}</a>'
    return link if number else "0"


def forest(results: Sequence[Result], title: str, *, collapsed: bool = False) -> Axes:
    """Effects with 95 % intervals in units of delta, each under its statement; verdicts by colour and shape, the paper's effect beside.

    Claims that were not run are left out, and those with a collapsed row too unless ``collapsed``. Raises ValueError when none is left.
    """
    import matplotlib.pyplot as plt

    shown = [result for result in results if result.effect and (collapsed or not result.collapsed)]
    if not shown:
        raise ValueError("no claim has an effect to draw")
    texts = [fill(result.claim.statement, 62) for result in shown]
    heights = [0.27 + 0.17 * (1 + text.count("\n")) for text in texts]
    bottoms = -np.cumsum(heights)
    inside, below, above = sum(heights), 1.4, 0.3  # inches
    figure = plt.figure(figsize=(4.5, below + inside + above))
    whole = figure.get_size_inches()[1]
    axes = figure.add_axes((0.03, below / whole, 0.94, inside / whole))
    axes.axvspan(-1, 1, color="#e6e6e6", zorder=0, linewidth=0)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_xscale("asinh", linear_width=1)
    for result, text, bottom, height in zip(shown, texts, bottoms, heights):
        axes.text(0, bottom + height - 0.05, text, fontsize=9, va="top", transform=axes.get_yaxis_transform())
        _draw(axes, result, bottom + 0.12)
    reach = max(3, *(abs(bound) / result.claim.delta for result in shown for bound in _bounds(result)))
    axes.set(xlim=(-1.3 * reach, 1.3 * reach), ylim=(bottoms[-1], 0), yticks=[])
    ticks = [tick for tick in (1, 3, 10, 30, 100) if tick < 1.3 * reach]
    axes.set_xticks([-tick for tick in reversed(ticks)] + [0, *ticks], minor=False)
    axes.set_xticklabels([f"{tick:+g}".replace("-", "−") if tick else "0" for tick in axes.get_xticks()], fontsize=9)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("difference, in the paper's direction, in units of δ", fontsize=9)
    axes.set_title(title, fontsize=10)
    axes.spines["left"].set_visible(False)
    _legend(axes, shown, -0.5 / inside)
    return axes


def _bounds(result: Result) -> list[float]:
    paper = [result.claim.paper[1] - result.claim.paper[0]] if result.claim.paper else []
    return [bound for bound in (result.interval.value, result.interval.low, result.interval.high, *paper) if math.isfinite(bound)]  # fmt: skip


def _draw(axes: Axes, result: Result, height: float) -> None:
    colour, delta, interval = COLOURS[result.verdict], result.claim.delta, result.interval
    if math.isfinite(interval.low):
        axes.plot([interval.low / delta, interval.high / delta], [height] * 2, color=colour, linewidth=1.8)
    if result.claim.paper:
        axes.plot(
            (result.claim.paper[1] - result.claim.paper[0]) / delta, height, "D", mfc="none", mec="k", markersize=6.5
        )
    axes.plot(interval.value / delta, height, **_mark(result.verdict))


def _mark(verdict: str) -> dict:
    colour = COLOURS[verdict]
    face = "white" if verdict in (NO_CONTROL, COLLAPSED) else colour
    return {"marker": MARKERS[verdict], "mfc": face, "mec": colour, "markersize": 7, "linestyle": "none"}


def _legend(axes: Axes, shown: Sequence[Result], top: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    present = [verdict for verdict in COLOURS if any(result.verdict == verdict for result in shown)]
    handles = [Line2D([], [], label=verdict, **_mark(verdict)) for verdict in present]
    handles.append(Patch(color="#e6e6e6", label="too small to matter (±δ)"))
    if any(result.claim.paper for result in shown):
        handles.append(Line2D([], [], label="the paper's effect", marker="D", mfc="none", mec="k", linestyle="none"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, top), fontsize=9, ncols=2, columnspacing=1)


def claims_table(results: Sequence[Result], *, tools: bool = True) -> str:
    """Claims as an HTML table, one row each; with ``tools``, the script that sorts and filters it."""
    heads = "".join(_head(key, label) for key, label in HEADS.items())
    rows = "".join(_row(place, result) for place, result in enumerate(results))
    table = f'<table class="ledger"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    if not tools:
        return f"{_style()}{table}"
    systems = "".join(f'<option value="{key}">{title}</option>' for key, title in TITLES.items())
    verdicts = "".join(f"<option>{verdict}</option>" for verdict in SIGNS)
    return (
        f'{_style()}<div class="ledger-tools" hidden>'
        f'<label>system <select name="system"><option value="">all</option>{systems}</select></label>'
        f'<label>verdict <select name="verdict"><option value="">all</option>{verdicts}</select></label>'
        '<label>words <input type="search" name="words"></label>'
        '<label>order <select name="order"><option value="place">as in the papers</option><option value="verdict">verdict</option>'
        '<option value="effect">our difference</option><option value="paper">the paper\'s difference</option>'
        '<option value="detectable">what it could see</option></select></label>'
        '<button type="button" name="clear">show all</button><output aria-live="polite"></output></div>'
        f'{table}<script src="{STATIC}ledger.js"></script>'
    )


HEADS = {
    "place": "claim",
    "paper": "paper",
    "effect": "ours [95 %]",
    "verdict": "verdict",
    "detectable": "could see",
}


def _head(key: str, label: str) -> str:
    return f'<th scope="col" data-key="{key}">{label}</th>'


def _row(place: int, result: Result) -> str:
    claim, interval = result.claim, result.interval
    keys = {
        "place": place, "verdict": list(SIGNS).index(result.verdict), "effect": _per_delta(interval.value, claim.delta),
        "paper": _per_delta(claim.paper[1] - claim.paper[0], claim.delta) if claim.paper else "",
        "detectable": _per_delta(result.effect.detectable, claim.delta) if result.effect else "",
    }  # fmt: skip
    data = "".join(f' data-{key}="{value}"' for key, value in keys.items())
    cells = {
        "claim": _claim_cell(result), "paper": _paper_cell(result), "ours": _ours_cell(result),
        "verdict": _verdict_cell(result), "could see": _power_cell(result),
    }  # fmt: skip
    body = "".join(f'<td data-label="{label}">{cell}</td>' for label, cell in cells.items())
    return f'<tr id="{claim.id}" data-system="{claim.system}" data-says="{result.verdict}"{data}>{body}</tr>'


def _per_delta(value: float, delta: float) -> str:
    return f"{value / delta:.3f}" if math.isfinite(value) else ""


def _claim_cell(result: Result) -> str:
    claim = result.claim
    chapter = f'<a href="{claim.chapter}.html">chapter&nbsp;{int(claim.chapter[:2])}</a>'
    more = {"id": claim.id, "the paper": claim.paper_text, "source": claim.source, "limits": claim.limits}
    if claim.comparison:
        more["rows"] = _rows(claim.comparison)
        more["positive control"] = _control(claim.positive, result.positive)
        more["negative control"] = _control(claim.negative, result.negative)
    listed = "".join(f"<dt>{key}</dt><dd>{escape(text)}</dd>" for key, text in more.items() if text)
    setting = "paper's setting" if claim.setting == "paper's" else "our setting"
    measured = f", {escape(claim.comparison.measure)}" if claim.comparison else ""
    needs = f"<p class='small'>needs {escape(result.missing)}</p>" if result.missing else ""
    return (
        f"<p>{escape(claim.statement)} ({chapter})</p>{needs}"
        f"<details><summary>{setting}{measured}</summary><dl>{listed}</dl></details>"
    )


def _rows(comparison: Comparison) -> str:
    both = ((comparison.baseline, comparison.baseline_measure), (comparison.treatment, comparison.measure))
    return " → ".join(f"{row}: {measure}" for row, measure in both)


def _control(comparison: Comparison | None, verdict: str) -> str:
    return f"{_rows(comparison)}; {verdict or NOT_RUN}" if comparison else "none"


def _paper_cell(result: Result) -> str:
    claim = result.claim
    if claim.paper:
        before, after = claim.paper
        return f"{_number(after - before, sign=True)} <p class='small'>{_number(before)} → {_number(after)}</p>"
    absent = "not in the paper" if claim.paper_text.startswith("not ") else "in words"
    return f"<p class='small'>{'another measure' if any(map(str.isdigit, claim.paper_text)) else absent}</p>"


def _ours_cell(result: Result) -> str:
    if not result.effect:
        return ""
    seeds = len(result.effect.seeds)
    before, after = np.mean(result.effect.before), np.mean(result.effect.after)
    return f"{_interval(result.interval)} <p class='small'>{_number(before)} → {_number(after)}, {seeds} seed{'s' * (seeds > 1)}</p>"


def _verdict_cell(result: Result) -> str:
    notes = []
    if result.effect:
        if result.raw != result.verdict:
            notes.append(f"interval alone: {result.raw}")
        notes.append(f"Holm: {result.after_holm}")
        notes += [f"<em>collapsed</em>: {', '.join(result.collapsed)}"] if result.collapsed else []
        notes += ["<em>not converged</em>"] if result.converged is False else []
        notes += ["<em>confirmation</em>"] if result.confirmation else []
    return _badge(result.verdict) + "".join(f"<p class='small'>{note}</p>" for note in notes)


def _power_cell(result: Result) -> str:
    if not result.effect:
        return ""
    positive = "✓" if result.positive == "supported" else "✕" if result.positive else "–"
    negative = "✕" if result.negative == "supported" else "✓" if result.negative else "–"
    delta = f"{result.claim.delta:.2f}".removeprefix("0")
    return f"{_number(result.effect.detectable)} <p class='small'>δ&nbsp;{delta}, +{positive}&nbsp;−{negative}</p>"


def _number(value: float, sign: bool = False) -> str:
    """Three decimals without a leading zero; "?" for NaN."""
    if not math.isfinite(value):
        return "?"
    text = f"{abs(value):.3f}".removeprefix("0")
    minus, plus = "−", "+" if sign else ""
    return f"{minus if value < 0 else plus}{text}"


def _interval(interval: Interval) -> str:
    bounds = f"&nbsp;[{_number(interval.low)},&nbsp;{_number(interval.high)}]" if math.isfinite(interval.low) else ""
    return f'<span class="value">{_number(interval.value, sign=True)}</span>{bounds}'

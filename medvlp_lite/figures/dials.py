"""A dial: one setting from end to end, what the rows of the records reach at each place, and the answer in words.

Every text says so where a row has no record, one draw only, or has collapsed. Built in chapter 06_similarity_labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from medvlp_lite.evaluation.intervals import Interval, mean_ci
from medvlp_lite.figures.curves import WIDTH
from medvlp_lite.figures.style import LINES, MARKERS
from medvlp_lite.figures.systems import values_by_seed
from medvlp_lite.records import Comparison, Result, RunRecord
from medvlp_lite.records.claims import NOT_RUN
from medvlp_lite.records.measures import MEASURES
from medvlp_lite.records.statistics import verdict_of

Records = Mapping[str, RunRecord]


def mean_over_draws(record: RunRecord, measure: str) -> Interval | None:
    """A measure's mean with its 95 % interval, NaN bounds for one draw; None where the record does not hold it."""
    values = list(values_by_seed(record, measure).values())
    return mean_ci(values) if values else None


def written(value: Interval | None) -> str:
    """The mean with half of its interval, the mean alone for one draw, or a dash."""
    if value is None:
        return "–"
    return f"{value.value:.3f}" + ("" if np.isnan(value.half) else f" ± {value.half:.3f}")


def state_of(names: Iterable[str], records: Records) -> str:
    """What the records hold of these rows, as a clause: how many of them, of how many draws, which are not drawn because they collapsed."""
    names = list(dict.fromkeys(names))
    found = [records[name] for name in names if name in records]
    if not found:
        return f"none of the {len(names)} rows has a record yet"
    counts = sorted({len(record.seeds) for record in found})
    many = "one draw each, so no interval" if counts == [1] else f"{counts[0]} draws each"
    many = many if len(counts) == 1 else f"{counts[0]} to {counts[-1]} draws; one draw has no interval"
    fallen = [record.name for record in found if record.collapsed]
    return f"{len(found)} of {len(names)} rows {'have' if len(found) > 1 else 'has'} a record ({many})" + (
        f"; collapsed, so not drawn: {', '.join(fallen)}" if fallen else ""
    )


def answer(comparison: Comparison, records: Records, words: Mapping[str, str]) -> str:
    """``words`` by verdict on a comparison, as a clause with its numbers; what is missing where there is no verdict."""
    try:
        effect = comparison.effect(records)
    except LookupError:
        return "not known yet, for want of a record"
    rows = (comparison.baseline, comparison.treatment)
    if fallen := [row for row in dict.fromkeys(rows) if records[row].collapsed]:
        return f"no answer, because {' and '.join(fallen)} collapsed"
    if not effect.seeds:
        return "not known yet, for want of a draw that both rows have"
    numbers = f"{comparison.measure} {np.mean(effect.before):.3f} to {np.mean(effect.after):.3f}"
    if len(effect.seeds) == 1:
        return f"no answer from one draw ({numbers})"
    verdict = verdict_of(effect.interval, MEASURES[comparison.measure].delta)
    return f"{words.get(verdict, 'the draws cannot tell')} ({numbers}, difference {effect.interval})"


def said(result: Result) -> str:
    """A claim's verdict with its difference, as a clause."""
    if not result.effect:
        return NOT_RUN
    count = len(result.effect.seeds)
    if count == 1:
        return f"no verdict from one draw; {result.interval.value:+.3f}"
    return f"{result.verdict}; {result.interval} over {count} draws"


def plot_dial(
    series: Mapping[str, Mapping[float, str]],
    measures: Mapping[str, str],
    records: Records,
    *,
    title: str,
    xlabel: str,
    levels: Mapping[str, str] | None = None,
    log: bool = False,
) -> Figure:
    """One panel per measure (keys; values are axis names): each series, rows by place on the dial, as a line with intervals.

    ``levels`` are rows without a place, by name: thin lines across. What has no record, or has collapsed, is left out.
    """
    sound = {name: record for name, record in records.items() if not record.collapsed}
    figure, axes = plt.subplots(1, len(measures), figsize=(WIDTH, 3.3), squeeze=False, layout="constrained")
    handles, places = {}, sorted({place for rows in series.values() for place in rows})
    for ax, (measure, label) in zip(axes.flat, measures.items()):
        for number, (name, rows) in enumerate(series.items()):
            known = {place: mean_over_draws(sound[row], measure) for place, row in rows.items() if row in sound}
            known = {place: mean for place, mean in known.items() if mean}
            if not known:
                continue
            half = np.nan_to_num([mean.half for mean in known.values()])
            handles[name] = ax.errorbar(
                list(known), [mean.value for mean in known.values()], half,
                fmt=MARKERS[number] + LINES[number % 4], color=f"C{number}", capsize=3, markersize=5, linewidth=1.4,
            )  # fmt: skip
        for number, (name, row) in enumerate((levels or {}).items(), start=len(series)):
            mean = mean_over_draws(sound[row], measure) if row in sound else None
            if mean:
                handles[name] = ax.axhline(mean.value, color=f"C{number}", linestyle=LINES[number % 4], linewidth=1.2)
        if log:
            ax.set_xscale("log")
        ax.set_xticks(places, [f"{place:,g}" for place in places])
        ax.minorticks_off()
        ax.set(ylabel=label, xlabel=xlabel)
    figure.suptitle(title, fontsize="medium", fontweight="bold", x=0.01, ha="left")
    figure.legend(handles.values(), handles, loc="outside lower left", ncols=2, fontsize="small")
    return figure

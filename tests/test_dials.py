"""A dial from made-up records, and what is said where they are missing, few or collapsed."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest

from medvlp_lite.figures import dials
from medvlp_lite.records import Comparison
from medvlp_lite.records.record import RunRecord

WORDS = {"supported": "yes", "contradicted": "the other way", "no difference": "no"}
LABELS = Comparison("none", "all", "AUC", "AUC")


def record(name, *aucs, confusion=None):
    runs = [{"seed": seed, "macro_auc": {"value": auc}, "confusion": confusion} for seed, auc in enumerate(aucs)]
    return RunRecord(name, "long", list(range(len(aucs))), "same", metrics={"runs": runs})


def test_an_answer_follows_the_sign_of_the_difference():
    low, high = record("none", 0.60, 0.61, 0.62), record("all", 0.80, 0.81, 0.83)
    assert dials.answer(LABELS, {"none": low, "all": high}, WORDS).startswith("yes (AUC 0.610 to 0.813, difference")
    assert dials.answer(LABELS, {"none": high, "all": low}, WORDS).startswith("the other way (")
    same = record("all", 0.601, 0.609, 0.621)
    assert dials.answer(LABELS, {"none": low, "all": same}, WORDS).startswith("no (")
    wild = record("all", 0.9, 0.4, 0.7)
    assert dials.answer(LABELS, {"none": low, "all": wild}, WORDS).startswith("the draws cannot tell (")


def test_no_answer_is_drawn_from_what_is_missing_short_or_collapsed():
    low, one = record("none", 0.6), record("all", 0.9)
    assert dials.answer(LABELS, {"none": low}, WORDS) == "not known yet, for want of a record"
    assert dials.answer(LABELS, {"none": low, "all": one}, WORDS) == "no answer from one draw (AUC 0.600 to 0.900)"
    fallen = record("all", 0.9, 0.8, confusion=[[5, 0], [5, 0]])
    assert "all collapsed" in dials.answer(LABELS, {"none": low, "all": fallen}, WORDS)


def test_the_state_of_rows_counts_records_draws_and_the_collapsed():
    assert dials.state_of(["a", "b"], {}) == "none of the 2 rows has a record yet"
    one = {"a": record("a", 0.5)}
    assert dials.state_of(["a", "b"], one) == "1 of 2 rows has a record (one draw each, so no interval)"
    fallen = {**one, "b": record("b", 0.5, 0.6, confusion=[[5, 0], [5, 0]])}
    assert dials.state_of(["a", "b"], fallen).endswith(
        "(1 to 2 draws; one draw has no interval); collapsed, so not drawn: b"
    )


def test_a_dial_draws_what_is_known_and_sound():
    rows = {"a": record("a", 0.5, 0.6), "b": record("b", 0.7), "c": record("c", 0.9, confusion=[[5, 0], [5, 0]])}
    series = {"one": {0: "a", 50: "b", 100: "c"}, "two": {0: "missing"}}
    figure = dials.plot_dial(series, {"AUC": "AUC"}, rows, title="t", xlabel="share", levels={"control": "b"})
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["one", "control"], "a series without a record has no place in the legend"
    line, _, _ = figure.axes[0].containers[0]
    assert line.get_xdata().tolist() == [0, 50] and line.get_ydata() == pytest.approx([0.55, 0.7])
    figure.canvas.draw()
    assert figure.get_tightbbox().width <= 6.6
    plt.close(figure)

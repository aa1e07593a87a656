"""The table of all systems and their learning curves, from made-up records."""

import numpy as np
import pytest

from medvlp_lite.figures.systems import COLUMNS, SYSTEMS, plot_learning, systems_table, ties, values_by_seed
from medvlp_lite.records.measures import MEASURES
from medvlp_lite.records.record import RunRecord


def record(name, *aucs, last=0.0):
    """Draws with these AUC, and a validation curve that moves by ``last`` at the end."""
    curve = {"images": [64, 128], "loss": [2.0, 1.0]}
    curve["validation"] = {"measure": "macro_auc", "images": [64, 128], "values": [0.8, 0.8 + last]}
    runs = [{"seed": seed, "macro_auc": {"value": auc}, "curve": curve} for seed, auc in enumerate(aucs)]
    return RunRecord(name, "long", list(range(len(aucs))), "", metrics={"runs": runs})


def test_every_row_and_measure_exists():
    from medvlp_lite.experiments import ROWS

    assert set(SYSTEMS) <= set(ROWS) and set(COLUMNS.values()) <= set(MEASURES)
    assert len({ROWS[name].draw for name in SYSTEMS}) == 1, "equal terms"


def test_a_tie_is_what_a_paired_test_cannot_tell_from_the_best():
    noise = np.array([0.0, 0.03, -0.02, 0.01, 0.02])  # of the draws, which both share
    close = {"a": dict(enumerate(0.8 + noise)), "b": dict(enumerate(0.79 + noise + [0, 1e-3, 0, -1e-3, 0]))}
    assert ties(close) == {"a"}, "a small difference in every draw is no tie"
    far = {"a": dict(enumerate(0.8 + noise)), "b": dict(enumerate(0.79 - noise))}
    assert ties(far) == {"a", "b"}
    assert ties({"a": {}, "b": {0: 0.5}}) == {"b"} and ties({"a": {}}) == set()


def test_the_table_bolds_the_best_but_not_the_bound_and_marks_what_has_not_converged():
    table = systems_table({
        "supervised": record("supervised", 0.95, 0.96, 0.94),
        "medklip": record("medklip", 0.90, 0.91, 0.92, last=0.05),
        "convirt": record("convirt", 0.70, 0.71, 0.72),
    })  # fmt: skip
    rows = {line.split("</th>")[0]: line for line in table.split("<tr>")[2:]}
    assert list(rows) == ['<th scope="row">told the labels', '<th scope="row">MedKLIP †', '<th scope="row">ConVIRT']
    assert "<strong>0.910" in table and table.count("<strong>") == 1
    assert "0.950 <span" in table and "<td>–</td>" in table, "what a record does not hold is a dash"


def test_rows_of_one_draw_are_not_compared():
    assert "<strong>" not in systems_table({name: record(name, 0.9) for name in ("medklip", "convirt")})


def test_a_measure_that_a_record_lacks_has_no_value():
    assert values_by_seed(record("convirt", 0.7), "AUC") == {0: 0.7}
    assert values_by_seed(record("convirt", 0.7), "pointing") == {}


def test_learning_curves_show_every_draw_and_name_each_row_once():
    figure = plot_learning({"medklip": record("medklip", 0.9, 0.91), "convirt": record("convirt", 0.7)}, title="Curves")
    left, right = figure.axes
    assert len(left.lines) == len(right.lines) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["MedKLIP", "ConVIRT"]
    assert left.lines[0].get_ydata()[0] == pytest.approx(1)

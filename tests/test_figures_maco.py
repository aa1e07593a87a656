"""The dial, the controls and the weights of MaCo's chapter, from made-up records."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from medvlp_lite.experiments import ROWS
from medvlp_lite.figures.maco import (
    CONTROLS,
    DIAL,
    control_values,
    dial_effects,
    dial_sentence,
    plot_controls,
    plot_dial,
    plot_weights,
    written,
)
from medvlp_lite.records.record import RunRecord

NOISE = np.array([0.0, 0.02, -0.01])  # of the draws, which all rows share


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def record(name, aucs, own=None):
    """Draws with these AUC; ``own`` is the CNR of the own map, 0.1 below it that of every control."""
    runs = [{"seed": seed, "macro_auc": {"value": float(auc)}} for seed, auc in enumerate(aucs)]
    if own is not None:
        maps = {kind: {"cnr": own - 0.1 * (kind != "own"), "pointing": 0.2} for kind in CONTROLS}
        large = {kind: {"cnr": 9.0, "pointing": 9.0} for kind in CONTROLS}
        runs[0]["map_controls"] = {"nodule": maps, "cardiomegaly": large}
    return RunRecord(name, "long", list(range(len(aucs))), "", metrics={"runs": runs})


def test_the_dial_turns_masks_and_weighting_and_nothing_else():
    for (mask, weighting), name in DIAL.items():
        options = dict(ROWS[name].options)
        reading = {"first version": "arxiv", "joint, mean 1": "joint_normalised"}.get(weighting, weighting)
        assert options.pop("weighting", "joint") == reading
        assert options.pop("block", 1) == (1 if mask == "single patches" else 3)
        assert options.pop("hr", True) == (weighting != "first version")
        plain = {k: v for k, v in ROWS["maco"].options.items() if k != "weighting"}
        assert options == plain and ROWS[name].parents == ROWS["maco"].parents


def test_a_mean_is_written_with_its_interval_or_says_why_it_has_none():
    assert written([]) == "not run yet" and written([0.5]) == "0.500 (one draw)"
    assert written([0.5, 0.5, 0.5]) == "0.500 ± 0.000"


def test_the_dial_compares_rows_of_the_same_masks():
    known = {"maco_contrastive": record("a", 0.6 + NOISE), "maco_block": record("b", 0.9 + NOISE)}
    assert dial_effects(known) == {}
    known["maco"] = record("c", 0.65 + NOISE)
    ((cell, effect),) = dial_effects(known).items()
    assert cell == ("single patches", "joint") and effect.value == pytest.approx(0.05)


@pytest.mark.parametrize(
    "aucs, says, answer",
    [
        (0.65 + NOISE + [0, 1e-3, 0], "it raises it with joint", "it can matter"),
        (0.55 + NOISE + [0, 1e-3, 0], "it lowers it with joint", "it can matter"),
        (0.6 + NOISE[::-1], "it is undecided with joint", "question is open"),
        (0.6 + NOISE + [0, 1e-4, -1e-4], "it makes no difference that matters with joint", "question is open"),
        ([0.7], "one draw so far, and no interval, with joint", "question is open"),
    ],
)
def test_the_sentence_of_the_dial_follows_the_result(aucs, says, answer):
    known = {"maco_contrastive": record("a", 0.6 + NOISE[: len(aucs)]), "maco": record("b", aucs)}
    sentence = dial_sentence(known)
    assert says in sentence and sentence.endswith(f"{answer}.") and sentence.startswith("1 of 8 weighted cells")


def test_a_dial_that_makes_no_difference_anywhere_says_so_and_an_empty_one_says_nothing():
    same = {
        name: record(name, 0.6 + NOISE + place * np.array([0, 1e-5, 0])) for place, name in enumerate(DIAL.values())
    }
    assert dial_sentence(same).endswith("So it does not matter.")
    assert "says nothing" in dial_sentence({})


def test_the_dial_marks_what_was_not_run():
    panel = plot_dial({"maco_contrastive": record("a", 0.6 + NOISE)}).axes[0]
    crosses = [line for line in panel.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert len(crosses) == len(DIAL) - 1


def test_controls_are_means_over_small_findings_of_the_draws_that_have_them():
    known = record("maco", 0.6 + NOISE, own=0.5)
    values = control_values(known, "cnr")
    assert values["own"] == [0.5] and values["transplanted"] == [pytest.approx(0.4)]
    assert set(map(tuple, control_values(None, "cnr").values())) == {()}
    figure = plot_controls({"MaCo": known, "another": None})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["MaCo", "another: not run yet"]
    assert len(figure.axes[0].lines[0].get_xdata()) == len(CONTROLS)


def test_weights_are_drawn_in_one_scale_above_their_curves():
    maps = {"step 0": np.zeros((4, 4)), "step 9": np.eye(4)}
    lines = {"level": {"one": [([0, 9], [1.0, 0.5]), ([9], [0.4])]}, "share": {"two": [([0, 9], [0.3, 0.4])]}}
    figure = plot_weights(maps, np.eye(4), lines, label="weight", xlabel="step", levels={"level": 1.0, "share": 0.3})
    above, below = figure.subfigs
    assert [axes.images[0].get_clim() for axes in above.axes[:2]] == [(0, 1), (0, 1)]
    names = [text.get_text() for text in below.legends[0].get_texts()]
    assert names == ["one", "two", "where training starts"]

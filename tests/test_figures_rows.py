"""Rows beside each other in words and as a figure, from made-up records; one patient before and after a change."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medvlp_lite.figures.changes import changes_of, plot_changes
from medvlp_lite.figures.rows import difference, in_words, plot_rows, wide_enough
from medvlp_lite.phantom import FindingSpec, Patient
from medvlp_lite.records.record import RunRecord


def record(name, aucs):
    """A record with this AUC by seed."""
    runs = [{"seed": seed, "macro_auc": {"value": value}} for seed, value in aucs.items()]
    return RunRecord(name, "long", list(aucs), "", metrics={"runs": runs})


RECORDS = {"a": record("a", {0: 0.7, 1: 0.8, 2: 0.9}), "b": record("b", {1: 0.85})}


def test_words_say_what_is_missing_and_that_one_draw_has_no_interval():
    assert in_words([]) == "not run yet"
    assert in_words([0.7]) == "0.700 [one draw, no interval]" and "nan" not in in_words([0.7])
    assert in_words([0.7, 0.8, 0.9]) == "0.800 [0.552, 1.048]"
    assert in_words([0.1, 0.1], sign=True) == "+0.100 [+0.100, +0.100]"


def test_a_difference_is_taken_draw_by_draw():
    assert difference(RECORDS, "a", "b", "AUC") == [pytest.approx(0.05)]
    assert difference(RECORDS, "a", "none", "AUC") == difference(RECORDS, "a", "b", "pointing") == []


def test_rows_keep_their_line_without_a_record_and_only_several_draws_have_an_interval():
    names = {"a": "first", "b": "second", "c": "third"}
    figure = plot_rows(
        RECORDS, names, {"AUC": {"one": "AUC"}, "map": {"own": "pointing", "usual": "location prior"}}, title="t"
    )
    left = figure.axes[0]
    labels = [text.get_text() for text in left.get_yticklabels()]
    assert labels == ["first (3 draws)", "second (1 draw)", "third (not run yet)"]
    intervals = [line.get_xdata() for line in left.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
    assert intervals[0] == pytest.approx([0.552, 1.048], abs=1e-3) and np.isnan(intervals[1]).all()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "own", "usual"]
    low, high = left.get_xlim()
    assert high - low >= 0.04 and wide_enough((0.5, 0.51), "AUC") == pytest.approx((0.485, 0.525))
    assert wide_enough((0.5, 0.9), "AUC") == (0.5, 0.9)
    plt.close(figure)


PATIENT = Patient(3, findings=(FindingSpec("consolidation", "severe", "left", "mid"),))


def test_changes_of_a_patient_remove_move_and_regrade_the_finding():
    changes = changes_of(PATIENT, "consolidation")
    assert list(changes) == ["severe", "removed", "other side", "mild"]
    assert changes["removed"].findings == () and changes["other side"].find("consolidation").side == "right"
    with pytest.raises(ValueError, match="edema on one side"):
        changes_of(Patient(3, findings=(FindingSpec("edema"),)), "edema")


class Whiteness:
    """Scores every finding by how white the image is, in units of its own, and points to the whitest cell."""

    device, config = torch.device("cpu"), SimpleNamespace(image_size=64)

    def eval(self):
        return self

    def score(self, images, queries):
        return 100 * images.mean(dim=(1, 2, 3))[:, None] * torch.arange(1, 1 + len(queries))

    def heatmap(self, images, queries):
        return F.avg_pool2d(images, 8).expand(-1, len(queries), -1, -1)


def test_the_picture_shows_the_score_the_others_and_where_the_finding_is():
    figure = plot_changes(Whiteness(), {"consolidation": PATIENT}, ("consolidation", "nodule"), (0, 2))
    first, removed, other, mild, *_ = figure.axes
    titles = [ax.get_title(loc="left") for ax in (first, removed, other, mild)]
    assert titles[0].startswith("severe consolidation\nscore +") and titles[1].startswith("removed\n+")
    own = [float(title.split("\n")[1].replace("score ", "").split(",")[0]) for title in titles]
    assert own[1] < own[0] and f"others ±{2 * (own[0] - own[1]):.0f}" == f"others ±{float(titles[1].split('±')[1]):.0f}"
    assert first.collections and other.collections and not removed.collections, "no outline where there is no finding"
    plt.close(figure)

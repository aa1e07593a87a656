"""A report's words marked where they stand, and the label matrix as a picture."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup

from medvlp_lite.figures.reports import draw_statements, highlight, plot_adjacency, spread_labels
from medvlp_lite.reports import adjacency, extract, mentions

REPORT = (
    "FINDINGS: Small left effusion < 5 mm. No pneumothorax. Possible edema.\nIMPRESSION: The heart is normal in size."
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def marked(html):
    spans = BeautifulSoup(html, "html.parser").select("p:not(.key) .said")
    return [(span.contents[0], span["class"][1], span.small.text) for span in spans]


def test_each_statement_is_marked_with_its_state_in_words():
    assert marked(highlight(REPORT, mentions(REPORT))) == [
        ("effusion", "present", "present, mild, left"),
        ("pneumothorax", "absent", "absent"),
        ("edema", "unsure", "unsure"),
        ("normal in size", "absent", "no cardiomegaly"),
    ]


def test_the_report_itself_is_kept_and_escaped():
    page = BeautifulSoup(highlight(REPORT, mentions(REPORT)), "html.parser")
    for label in page.select("small"):
        label.decompose()
    assert page.select("p")[1].text == REPORT
    assert highlight("a <script>", []).count("<script>") == 0


def test_a_mention_of_another_report_is_refused():
    with pytest.raises(ValueError, match="outside the report"):
        highlight("No.", mentions(REPORT))


def test_the_matrix_names_what_is_known_only():
    axes = plot_adjacency(adjacency(extract(REPORT)), title="one report")
    names = {text.get_text() for text in axes.texts}
    assert {"left_pleural", "pleural_unspec", "heart_size", "effusion", "pneumothorax", "cardiomegaly"} <= names
    assert "edema" not in names and "spine" not in names
    points = sum(len(collection.get_offsets()) for collection in axes.collections)
    assert points == 2 * np.isfinite(adjacency(extract(REPORT))).sum()


def test_labels_are_moved_apart():
    spots = spread_labels(np.array([3, 4, 5, 20, 50]), 2.0)
    assert np.diff(spots).min() > 1.99 and abs(spots[1] - 4) < 0.01 and list(spots[3:]) == [20, 50]


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="51 positions x 75 entities"):
        plot_adjacency(np.zeros((75, 51)), title="turned")


def test_statements_are_framed_and_named():
    axes = draw_statements("No edema, left effusion.", [(3, 8, False), (15, 23, True)]).axes[0]
    assert [text.get_text() for text in axes.texts if len(text.get_text()) > 1] == ["absent", "present"]
    assert [(frame.get_x(), frame.get_width()) for frame in axes.patches] == [(3, 5), (15, 8)]
    with pytest.raises(ValueError, match="90 characters"):
        draw_statements("x" * 90, [])

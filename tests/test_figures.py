import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from medvlp_lite.evaluation.classification import Interval, auc_table
from medvlp_lite.figures.curves import plot_calibration, plot_intervals, plot_losses, plot_roc
from medvlp_lite.figures.embeddings import plot_map, project
from medvlp_lite.figures.grounding import describe_finding, draw_heatmap, heat_bar, show_studies
from medvlp_lite.figures.style import use_style
from medvlp_lite.studies import Box, Finding, Study


@pytest.fixture(autouse=True)
def close_figures():
    use_style()
    yield
    plt.close("all")


def test_curves_draw_with_title_and_axis_names():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (80, 2)).astype(float)
    scores = labels + generator.normal(size=labels.shape)
    table = auc_table(labels, scores, ["a", "b"], resamples=20)
    drawn = [
        plot_losses({"one": list(range(40, 0, -1)), "two": [1.0] * 40}, title="falls", chance=3.0),
        plot_roc(labels, scores, table.per_class, ["a", "b"], title="roc"),
        plot_intervals({"a": {"x": Interval(0.6, 0.5, 0.7), "y": Interval(0.8, float("nan"), float("nan"))}}, title="t", xlabel="AUC", chance=0.5),
        plot_calibration({"one": (labels[:, 0], generator.random(80))}, title="calibration"),
    ]  # fmt: skip
    for axes in drawn:
        assert axes.get_title(loc="left") and axes.get_xlabel()


def test_figures_fit_the_page_and_legends_stand_below_the_data():
    losses = plot_losses({"one": [2.0] * 40, "two": [1.0] * 40}, title="t", chance={"one": 3.0, "two": 2.0})
    rows = {f"finding {n}": {"x": Interval(0.6, 0.5, 0.7), "y": Interval(0.8, 0.7, 0.9)} for n in range(12)}
    for axes in (losses, plot_intervals(rows, title="a title that is not short at all", xlabel="AUC", chance=0.5)):
        axes.figure.canvas.draw()
        legend = axes.get_legend().get_window_extent()
        assert legend.y1 < axes.xaxis.get_label().get_window_extent().y0
        assert axes.figure.get_tightbbox().width <= 6.6
        assert min(text.get_fontsize() for text in axes.get_legend().get_texts()) >= 8.95
    assert [text.get_text() for text in losses.texts] == ["one: nothing learned", "two: nothing learned"]


def test_roc_names_the_shown_classes_only():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (80, 3)).astype(float)
    aucs = auc_table(labels, labels, ["a", "b", "c"], resamples=20).per_class
    axes = plot_roc(labels, labels, aucs, ["a", "b", "c"], title="roc", shown=["c"])
    assert [t.get_text().split()[0] for t in axes.get_legend().get_texts()] == ["c", "chance"]
    assert len(axes.lines) == 4


def test_maps_name_the_largest_groups_and_grey_the_rest():
    groups = ["a"] * 9 + ["b"] * 8 + ["c"] * 2
    axes = plot_map(np.zeros((19, 2)), groups, title="map", most=2)
    assert {t.get_text() for t in axes.get_legend().get_texts()} == {"others", "a", "b"}


def test_a_heat_map_marks_the_cell_that_is_scored_and_leaves_the_cold_ones_clear():
    heat = np.zeros((4, 4))
    heat[1, 2] = 1
    axes = draw_heatmap(np.full((16, 16), 90, np.uint8), heat, plt.gca(), limits=(0, 2))
    shade = axes.images[-1]
    assert shade.get_alpha()[0, 0] == 0 and shade.get_alpha()[1, 2] == 0.375  # half of the scale
    assert {patch.get_xy() for patch in axes.patches} == {(7.5, 3.5)}
    assert heat_bar([axes], "attention").vmax == 2


def test_maps_are_seeded_and_refuse_what_is_too_small():
    vectors = np.random.default_rng(0).normal(size=(30, 6))
    threads = torch.get_num_threads()
    for method in ("tsne", "umap"):
        assert np.allclose(project(vectors, method, seed=1), project(vectors, method, seed=1))
    assert torch.get_num_threads() == threads
    assert plot_map(project(vectors), ["a"] * 15 + ["b"] * 15, title="map").get_legend() is not None
    with pytest.raises(ValueError, match="at least 5 points"):
        project(vectors[:3])
    with pytest.raises(ValueError, match="'tsne' or 'umap'"):
        project(vectors, "pca")


def test_studies_are_drawn_with_masks_boxes_and_names():
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:8, 4:8] = True
    findings = (
        Finding("mass", severity="mild", side="left", position="upper", mask=mask),
        Finding("nodule", boxes=(Box(0.1, 0.1, 0.3, 0.3),)),
        Finding("edema", False, mask=mask),
    )
    study = Study("a", "a", "x", np.full((16, 16), 90, np.uint8), findings=findings)
    figure = show_studies([study, study], columns=2)
    legend = figure.axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["mild mass (left) upper", "nodule"]
    assert describe_finding(findings[1]) == "nodule"
    figure = show_studies([study] * 4, titles=["a title that is longer than its radiograph is wide"] * 4, columns=2)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert all("\n" in title for title in titles) and figure.get_tightbbox().width <= 6.6
    with pytest.raises(ValueError, match="no study to show"):
        show_studies([])
    draw_heatmap(study.image, np.eye(4), plt.gca(), title="heat", region=mask)

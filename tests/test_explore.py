import io

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from medvlp_lite.figures.explore import explore, explore_grid

GREY = [np.full((8, 6), value, dtype=np.uint8) for value in (0, 90, 200)]
WORDS = {"alt": "A grey rectangle.", "caption": "The rectangle gets brighter."}


def soup(explorer):
    return BeautifulSoup(explorer._repr_mimebundle_()["text/html"], "html.parser")


def test_static_form_holds_every_picture_and_needs_nothing_else():
    page = soup(explore(GREY, ["dark", "middle", "bright"], name="brightness", **WORDS))
    images = page.find_all("img")
    assert [image["alt"] for image in images] == [f"A grey rectangle. {word}." for word in ("dark", "middle", "bright")]
    assert [image.has_attr("hidden") for image in images] == [False, True, True]
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert not page.find_all(["link", "iframe"]) and not page.find("script").get("src")
    assert "http" not in str(page).replace("data:image", "")
    slider = page.find("input", type="range")
    assert slider["aria-label"] == "brightness" and slider["aria-valuetext"] == "dark" and slider["max"] == "2"
    assert page.find(class_="medvlp-sliders").has_attr("hidden"), "without scripts there must be no dead slider"
    assert page.find("figcaption").text == WORDS["caption"]


def test_pictures_keep_their_pixels():
    explorer = explore(GREY, "abc", **WORDS)
    back = [np.asarray(Image.open(io.BytesIO(png))) for png in explorer.pictures]
    assert all((a == b).all() for a, b in zip(back, GREY))


def test_live_form_follows_the_slider_and_holds_one_picture():
    explorer = explore(GREY, "abc", **WORDS)
    assert "application/vnd.jupyter.widget-view+json" in explorer._repr_mimebundle_()
    image, slider, _ = explorer.widget().children
    slider.value = 2
    assert image.value == explorer.pictures[2]


def test_grid_orders_pictures_by_row_then_column():
    frames = [[np.full((4, 4), 10 * row + column, dtype=np.uint8) for column in range(3)] for row in range(2)]
    explorer = explore_grid(frames, ["mild", "severe"], ["a", "b", "c"], names=("severity", "finding"), **WORDS)
    page = soup(explorer)
    assert page.find_all("img")[4]["alt"].endswith("severe, b.")
    assert [slider["aria-label"] for slider in page.find_all("input")] == ["severity", "finding"]
    image, rows, columns, _ = explorer.widget().children
    rows.value, columns.value = 1, 2
    assert (np.asarray(Image.open(io.BytesIO(image.value))) == 12).all()


def test_matplotlib_figures_are_drawn_and_closed():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots()
    axis.plot([0, 1])
    explorer = explore([figure], ["line"], **WORDS)
    assert not plt.fignum_exists(figure.number)
    width = Image.open(io.BytesIO(explorer.pictures[0])).width
    assert soup(explorer).find("img")["style"] == f"min-width:{round(width * 0.67)}px"
    assert not soup(explore(GREY, "abc", **WORDS)).find("img").has_attr("style")


def test_text_is_escaped():
    page = soup(explore(GREY[:1], ['<b>"x"'], alt='a "quoted" picture', caption="p < 0.05 & more"))
    assert page.find("img")["alt"] == 'a "quoted" picture <b>"x".' and not page.find("b")


@pytest.mark.parametrize(
    "frames, labels, words, message",
    [
        (GREY, ["one"], WORDS, "3 frames do not fit 1 labels"),
        ([], [], WORDS, "0 frames"),
        ([GREY[0] / 255.0], ["a"], WORDS, "uint8 array"),
        ([b"JPEG"], ["a"], WORDS, "PNG"),
        (GREY[:1], ["a"], {"alt": " ", "caption": "c"}, "alt and caption"),
    ],
)
def test_bad_input_is_named(frames, labels, words, message):
    with pytest.raises(ValueError, match=message):
        explore(frames, labels, **words)


def test_ragged_grid_names_the_row():
    with pytest.raises(ValueError, match="row 1 of frames has 1 pictures for 2 column labels"):
        explore_grid([GREY[:2], GREY[:1]], "ab", "xy", **WORDS)

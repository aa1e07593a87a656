"""A slider over pictures that works twice: as a widget in a live notebook, and without a kernel on a static page.

Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from math import prod
from typing import Any

import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"


def explore(frames: Sequence[Any], labels: Sequence[str], *, alt: str, caption: str, name: str = "step") -> Explorer:
    """A slider over K pictures.

    ``frames`` are uint8 arrays (H, W) or (H, W, 3), matplotlib figures (closed once drawn) or PNG bytes; ``labels`` are K
    texts, one beside each picture; ``name`` says what the slider changes; ``alt`` describes the picture to who cannot see
    it. Raises ValueError when a frame is none of these, or when the counts differ.
    """
    return Explorer((Axis(name, tuple(map(str, labels))),), tuple(map(_png, frames)), alt, caption)


def explore_grid(
    frames: Sequence[Sequence[Any]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    alt: str,
    caption: str,
    names: tuple[str, str] = ("row", "column"),
) -> Explorer:
    """Two sliders over R x C pictures, ``frames[r][c]``, for example severity by finding. Otherwise as ``explore``.

    Raises ValueError when a row does not have C pictures.
    """
    for row, pictures in enumerate(frames):
        if len(pictures) != len(column_labels):
            raise ValueError(f"row {row} of frames has {len(pictures)} pictures for {len(column_labels)} column labels")
    axes = Axis(names[0], tuple(map(str, row_labels))), Axis(names[1], tuple(map(str, column_labels)))
    return Explorer(axes, tuple(_png(frame) for pictures in frames for frame in pictures), alt, caption)


@dataclass(frozen=True)
class Axis:
    """One slider: what it changes, and the text at each of its steps."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Explorer:
    """Pictures on one or two sliders; the last axis changes fastest. Show it as the last value of a cell."""

    axes: tuple[Axis, ...]
    pictures: tuple[bytes, ...]
    alt: str
    caption: str

    def __post_init__(self) -> None:
        shape = " x ".join(str(len(axis.labels)) for axis in self.axes)
        if not self.pictures or prod(len(axis.labels) for axis in self.axes) != len(self.pictures):
            raise ValueError(f"{len(self.pictures)} frames do not fit {shape} labels; give one picture for each label")
        if not self.alt.strip() or not self.caption.strip():
            raise ValueError("alt and caption must say in words what the pictures show; got an empty text")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = {"text/plain": f"{self.caption} ({len(self.pictures)} pictures)", "text/html": self.html()}
        widget = self.widget()
        if widget is not None:
            live = widget._repr_mimebundle_()
            bundle |= {kind: view for kind, view in live.items() if kind.endswith("widget-view+json")}
        return bundle

    def widget(self) -> Any:
        """The live form, which needs a kernel; None where ipywidgets is not installed."""
        try:
            import ipywidgets
        except ImportError:
            return None
        image = ipywidgets.Image(value=self.pictures[0], format="png", layout={"max_width": "100%"})
        sliders = [
            ipywidgets.SelectionSlider(
                options=[(label, i) for i, label in enumerate(axis.labels)], description=axis.name
            )
            for axis in self.axes
        ]

        def show(_: Any) -> None:
            index = np.ravel_multi_index([s.value for s in sliders], [len(axis.labels) for axis in self.axes])
            image.value = self.pictures[index]

        for slider in sliders:
            slider.observe(show, names="value")
        return ipywidgets.VBox([image, *sliders, ipywidgets.HTML(escape(self.caption))])

    def html(self) -> str:
        """The static form: every picture inside, no kernel and no network; the first picture where scripts are off."""
        combinations = list(product(*(axis.labels for axis in self.axes)))
        pictures = "".join(
            f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" '
            f'alt="{escape(self.alt)} {escape(", ".join(labels))}."{_least_width(png)} {"hidden" if index else ""}>'
            for index, (png, labels) in enumerate(zip(self.pictures, combinations))
        )
        sliders = "".join(
            f"<label><span>{escape(axis.name)}: <output>{escape(axis.labels[0])}</output></span>"
            f'<input type="range" min="0" max="{len(axis.labels) - 1}" value="0" step="1" '
            f'aria-label="{escape(axis.name)}" aria-valuetext="{escape(axis.labels[0])}" '
            f'data-labels="{escape(chr(31).join(axis.labels))}"></label>'
            for axis in self.axes
        )
        first = escape(", ".join(combinations[0]))
        return (
            f'<figure class="medvlp-explore"><style>{STYLE}</style>'
            f'<div class="medvlp-pictures">{pictures}</div><div class="medvlp-sliders" hidden>{sliders}</div>'
            f"<noscript><p>Shown: {first}. The slider over all {len(self.pictures)} pictures needs JavaScript.</p></noscript>"
            f"<figcaption>{escape(self.caption)}</figcaption><script>{SCRIPT}</script></figure>"
        )


def _least_width(png: bytes) -> str:
    """A plot keeps two thirds of its width, so that type of 9 points stays readable on a phone; a radiograph may shrink."""
    if b"Matplotlib" not in png[:400]:
        return ""
    return f' style="min-width:{round(int.from_bytes(png[16:20], "big") * 0.67)}px"'


def _png(frame: Any) -> bytes:
    """One frame as PNG bytes."""
    if isinstance(frame, bytes):
        if not frame.startswith(PNG_START):
            raise ValueError("a frame given as bytes must be a PNG file; got other bytes")
        return frame
    buffer = io.BytesIO()
    if hasattr(frame, "savefig"):
        import matplotlib.pyplot as plt

        frame.savefig(buffer, format="png", bbox_inches="tight", facecolor="white")
        plt.close(frame)
        return buffer.getvalue()
    array = np.asarray(frame)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(
            f"a frame must be a uint8 array (H, W) or (H, W, 3), a matplotlib figure or PNG bytes; got {type(frame).__name__} "
            f"{array.dtype} {array.shape}"
        )
    from PIL import Image

    Image.fromarray(array).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


STYLE = (
    ".medvlp-explore{margin:0;max-width:100%}"
    ".medvlp-explore img{display:block;min-width:min(100%,22rem);max-width:100%;height:auto;margin:0}"
    ".medvlp-explore .medvlp-pictures{overflow-x:auto}"
    ".medvlp-explore [hidden]{display:none!important}"
    ".medvlp-explore label{display:flex;flex-wrap:wrap;gap:.2rem .8rem;align-items:center;margin:.5rem 0}"
    ".medvlp-explore label span{min-width:12rem}"
    ".medvlp-explore input{flex:1 1 12rem;max-width:24rem;min-width:0;accent-color:#2a8c82}"
    ".medvlp-explore output{font-weight:600}"
)

SCRIPT = """
document.querySelectorAll(".medvlp-explore:not([data-ready])").forEach((figure) => {
  const pictures = figure.querySelectorAll("img");
  const inputs = [...figure.querySelectorAll("input")];
  function show() {
    const index = inputs.reduce((sum, input) => sum * (Number(input.max) + 1) + Number(input.value), 0);
    pictures.forEach((picture, i) => { picture.hidden = i !== index; });
    inputs.forEach((input) => {
      const label = input.dataset.labels.split("\\u001f")[input.value];
      input.setAttribute("aria-valuetext", label);
      input.closest("label").querySelector("output").textContent = label;
    });
  }
  inputs.forEach((input) => input.addEventListener("input", show));
  figure.querySelector(".medvlp-sliders").hidden = false;
  figure.dataset.ready = "yes";
  show();
});
"""

"""Draws every system of the book as one picture: ``python book/_static/diagrams/make.py`` writes the SVG files beside it.

A picture is a list of boxes in rows and a list of arrows, in units of which the page is 360 wide. Shape says what a box is, a
dashed outline that it exists in training only. All text stands on light ground, so that one file serves light and dark pages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import NamedTuple

WIDTH, GAP, PAD, LINE = 360, 27, 6, 15
TYPE = 12  # size; titles are bold
GREY, INK = "#737a83", "#1d2529"  # lines between boxes must be seen on white and on the dark page
LOOKS = {  # ground, outline and its width
    "data": ("#ffffff", "#5c666e", 1.3),
    "trained": ("#e6eef3", "#2c5a75", 2.4),
    "fixed": ("#ecece8", "#62625c", 1.3),
    "loss": ("#fbdcc8", "#b04a12", 1.8),
    "answer": ("#ffffff", "#2c5a75", 2.4),
}
LEGEND = ("data", "trained", "fixed", "answer", "loss", "training only")
STYLE = (
    f"text{{font:{TYPE}px 'Helvetica Neue',Arial,'Liberation Sans',sans-serif;fill:{INK};text-anchor:middle}}"
    f".t{{font-weight:600}}.l{{text-anchor:start}}"
    f".a{{fill:none;stroke:{GREY};stroke-width:1.8}}.d{{stroke-dasharray:5 3}}.h{{fill:{GREY}}}"
    + "".join(f".{k}{{fill:{g}}}.{k}-{{fill:none;stroke:{o};stroke-width:{w}}}" for k, (g, o, w) in LOOKS.items())
)


@dataclass(frozen=True)
class Box:
    """A box of ``kind`` (one of ``LOOKS``, with "training" where it is not there at test time) in a row; a title and lines."""

    name: str
    row: int
    x: float
    width: float
    kind: str
    lines: tuple[str, ...]
    y: float = 0.0

    @property
    def look(self) -> str:
        return self.kind.split()[0]

    @property
    def training(self) -> bool:
        return self.look == "loss" or "training" in self.kind

    @property
    def height(self) -> float:
        return LINE * len(self.lines) + 2 * PAD


class Diagram(NamedTuple):
    """One system: what it is, its boxes, and arrows "from > to", with where they leave and arrive where that is not plain."""

    title: str
    description: str
    boxes: tuple[Box, ...]
    arrows: tuple[str, ...]


def placed(diagram: Diagram) -> dict[str, Box]:
    """The boxes by name, each with its ``y``: rows stand below each other, boxes of a row share their middle."""
    found, top = {}, 2.0
    for row in sorted({box.row for box in diagram.boxes}):
        boxes = [box for box in diagram.boxes if box.row == row]
        tallest = max(box.height for box in boxes)
        found |= {box.name: replace(box, y=top + (tallest - box.height) / 2) for box in boxes}
        top += tallest + GAP
    return found


def path_of(arrow: str, boxes: dict[str, Box]) -> list[tuple[float, float]]:
    """The corners of an arrow: straight down, sideways within a row, into a side, or with a bend above its end."""
    ends, _, places = arrow.partition("@")
    start, end = (boxes[name.strip()] for name in ends.split(">"))
    middle, xs = end.y + end.height / 2, [float(place) for place in places.split()]
    if start.row == end.row:
        left = start.x > end.x
        return [(start.x + (0 if left else start.width), middle), (end.x + (end.width if left else 0), middle)]
    x = xs[0] if xs else (max(start.x, end.x) + min(start.x + start.width, end.x + end.width)) / 2
    bottom = start.y + start.height
    if len(xs) == 2:
        return [(x, bottom), (x, end.y - GAP / 2), (xs[1], end.y - GAP / 2), (xs[1], end.y)]
    if end.x <= x <= end.x + end.width:
        return [(x, bottom), (x, end.y)]
    return [(x, bottom), (x, middle), (end.x if x < end.x else end.x + end.width, middle)]


def outline(box: Box, inset: float) -> str:
    """The shape of a box as path data: a sheet with a folded corner, square, with cut corners, or with round ends."""
    x, y, w, h = box.x + inset, box.y + inset, box.width - 2 * inset, box.height - 2 * inset
    if box.look == "data":
        return f"M{x:g} {y:g}h{w - 9:g}l9 9v{h - 9:g}h{-w:g}z"
    if box.look == "fixed":
        return f"M{x + 8:g} {y:g}h{w - 16:g}l8 8v{h - 16:g}l-8 8h{16 - w:g}l-8 -8v{16 - h:g}z"
    r = 3 if box.look == "trained" else min(h / 2, 14)
    arcs = [f"a{r:g} {r:g} 0 0 1 {dx:g} {dy:g}" for dx, dy in ((r, r), (-r, r), (-r, -r), (r, -r))]
    right, down = w - 2 * r, h - 2 * r
    return f"M{x + r:g} {y:g}h{right:g}{arcs[0]}v{down:g}{arcs[1]}h{-right:g}{arcs[2]}v{-down:g}{arcs[3]}z"


def drawn_box(box: Box) -> str:
    dash = " d" if box.training else ""
    out = f'<path class="{box.look}" d="{outline(box, 0)}"/><path class="{box.look}-{dash}" d="{outline(box, 2)}"/>'
    for number, text in enumerate(box.lines):
        x, y, bold = box.x + box.width / 2, box.y + PAD + LINE * number + 11.5, "" if number else ' class="t"'
        out += f'<text{bold} x="{x:g}" y="{y:g}">{escape(text)}</text>'
    return out


def drawn_arrow(arrow: str, boxes: dict[str, Box]) -> str:
    points = path_of(arrow, boxes)
    (x0, y0), (x, y) = points[-2:]
    dx, dy = ((x > x0) - (x < x0), (y > y0) - (y < y0))
    shaft = [*points[:-1], (x - 6 * dx, y - 6 * dy)]
    dash = " d" if any(boxes[name.strip()].training for name in arrow.split("@")[0].split(">")) else ""
    line = "M" + "L".join(f"{px:g} {py:g}" for px, py in shaft)
    wing = f"l{-8 * dx - 4 * dy:g} {-8 * dy - 4 * dx:g}l{8 * dy:g} {8 * dx:g}z"
    return f'<path class="a{dash}" d="{line}"/><path class="h" d="M{x:g} {y:g}{wing}"/>'


def legend(top: float) -> str:
    """Six swatches on a light plate."""
    out = f'<rect class="data" x="0" y="{top:g}" width="{WIDTH}" height="66" rx="4"/>'
    for number, name in enumerate(LEGEND):
        x, y = 8 + 113 * (number % 3), top + 4 + 31 * (number // 3)
        kind = name if name in LOOKS else "trained training"
        swatch = Box(name, 0, x, 30, kind, ("",), y)
        out += drawn_box(swatch).split("<text")[0] + f'<text class="l" x="{x + 36}" y="{y + 18:g}">{name}</text>'
    return out


def svg(diagram: Diagram) -> str:
    """The whole picture."""
    boxes = placed(diagram)
    end = max(box.y + box.height for box in boxes.values()) + 14
    parts = [*(drawn_arrow(arrow, boxes) for arrow in diagram.arrows), *map(drawn_box, boxes.values()), legend(end)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {end + 68:g}" role="img">'
    names = f"<title>{escape(diagram.title)}</title><desc>{escape(diagram.description)}</desc>"
    return "\n".join([head, names, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


DIAGRAMS = {
    "convirt": Diagram(
        "ConVIRT, and the bound that is told labels",
        "An image encoder and a text encoder each give one vector of 128 numbers; InfoNCE (C-1) contrasts all pairs of a "
        "batch. Beside it the bound: the same image encoder, with one attention and one logit for each of twelve findings, "
        "trained on true labels (K-8).",
        (
            Box("labels", 0, 0, 80, "data training", ("labels", "12 findings")),
            Box("image", 0, 92, 150, "data", ("image", "1 × 112 × 112")),
            Box("report", 0, 252, 108, "data", ("report", "test: sentences")),
            Box("bound", 1, 18, 106, "trained", ("image encoder", "ResNet", "14 × 14 × 128")),
            Box("encoder", 1, 134, 108, "trained", ("image encoder", "ResNet", "14 × 14 × 128")),
            Box("text", 1, 252, 108, "trained", ("text encoder", "BERT, 1 layer", "L words × 96")),
            Box("head", 2, 18, 106, "trained", ("head", "attention of", "each finding", "→ 12 logits")),
            Box("v", 2, 134, 108, "trained", ("projection", "linear, mean", "→ 128, length 1")),
            Box("t", 2, 252, 108, "trained", ("projection", "mean, linear", "→ 128, length 1")),
            Box("compare", 3, 134, 226, "trained", ("cosine of all pairs", "B × B, temperature learned")),
            Box("scores", 3, 18, 90, "answer", ("scores", "and maps")),
            Box("existence", 4, 0, 124, "loss", ("existence", "the bound (K-8)")),
            Box("answer", 4, 134, 108, "answer", ("score, map", "of sentences")),
            Box("nce", 4, 252, 108, "loss", ("InfoNCE", "(C-1)")),
        ),
        (
            "image > bound @ 108", "image > encoder", "report > text", "bound > head", "encoder > v", "text > t",
            "v > compare", "t > compare", "head > scores", "head > existence @ 116", "labels > existence @ 9",
            "compare > answer", "compare > nce",
        ),
    ),
    "medklip": Diagram(
        "MedKLIP",
        "Descriptions of twelve entities become queries. A decoder lets them look at the local features of the image. One head "
        "says whether an entity is there (K-8), one where (K-9); a report filter reads both from the report.",
        (
            Box("image", 0, 0, 112, "data", ("image", "1 × 112 × 112")),
            Box("entities", 0, 124, 112, "data", ("descriptions", "12 entities")),
            Box("report", 0, 248, 112, "data training", ("report",)),
            Box("encoder", 1, 0, 112, "trained", ("image encoder", "ResNet", "14 × 14 × 128")),
            Box("words", 1, 124, 112, "fixed", ("text model", "word vectors", "12 × 256 (K-4)")),
            Box("filter", 1, 248, 112, "fixed training", ("report filter", "51 places × 12", "1, 0, ? (K-3)")),
            Box("mlp", 2, 0, 112, "trained", ("MLP per place", "→ 196 × 128", "(K-2)")),
            Box("queries", 2, 124, 112, "trained", ("linear", "→ 12 × 128", "queries")),
            Box("decoder", 3, 0, 236, "trained", ("decoder", "2 layers: queries look at places", "→ 12 × 128 (K-6, K-7)")),
            Box("exist", 4, 18, 104, "trained", ("head: there?", "→ 12 × 2")),
            Box("where", 4, 134, 102, "trained training", ("head: where?", "→ 12 × 256")),
            Box("answer", 5, 0, 108, "answer", ("score", "map: attention", "(K-12)")),
            Box("position", 5, 134, 102, "loss", ("position", "(K-9)", "× 0.3 (K-10)")),
            Box("places", 5, 252, 96, "fixed training", ("text model", "1 true place,", "7 others:", "8 × 256 (K-5)")),
            Box("existence", 6, 0, 236, "loss", ("existence", "entities the report names (K-8)")),
        ),
        (
            "image > encoder", "entities > words", "report > filter", "encoder > mlp", "words > queries", "mlp > decoder",
            "queries > decoder", "decoder > exist @ 70", "decoder > where", "decoder > answer @ 9", "exist > answer @ 66",
            "exist > existence @ 118", "where > position", "filter > places @ 300", "places > position",
            "filter > existence @ 354",
        ),
    ),
    "maco": Diagram(
        "MaCo",
        "Half of the patches are hidden. A decoder reconstructs them (M-3), and the visible half is contrasted with the report, "
        "weighted by an importance that depends on which patches were visible (M-8).",
        (
            Box("image", 0, 0, 238, "data", ("image", "1 × 112 × 112")),
            Box("report", 0, 250, 110, "data", ("report", "test: phrases")),
            Box("halve", 1, 18, 220, "fixed", ("half size, in patches", "56 × 56: 196 of 4 × 4")),
            Box("sample", 1, 270, 90, "fixed training", ("draw some", "sentences")),
            Box("hide", 2, 62, 176, "fixed training", ("hide half (M-1)", "98 of 196 stay visible")),
            Box("encoder", 3, 18, 122, "trained", ("image encoder", "ViT, 4 blocks", "98 visible × 96")),
            Box("importance", 3, 148, 90, "trained", ("importance", "1 per image", "(M-5, M-6)")),
            Box("text", 3, 250, 110, "trained", ("text encoder", "BERT, 1 layer", "L words × 96")),
            Box("decoder", 4, 18, 90, "trained training", ("decoder", "1 block", "→ 196 × 64")),
            Box("v", 4, 118, 90, "trained", ("projection", "mean, linear", "→ 128 (M-7)")),
            Box("t", 4, 250, 110, "trained", ("projection", "mean, linear", "→ 128 (M-7)")),
            Box("compare", 5, 118, 242, "trained", ("similarity of all pairs", "B × B, temperature learned (M-4)")),
            Box("pixels", 6, 0, 108, "loss", ("reconstruct", "hidden (M-3)", "× 0.9 (M-9)")),
            Box("answer", 6, 118, 108, "answer", ("score (M-11)", "map (M-10)")),
            Box("contrast", 6, 240, 120, "loss", ("contrast", "weighted (M-8)", "× 0.1 (M-9)")),
        ),
        (
            "image > halve", "image > pixels @ 9", "report > sample", "report > text @ 260", "halve > hide", "halve > encoder @ 40",
            "hide > encoder @ 104", "hide > importance", "sample > text", "encoder > decoder", "encoder > v", "text > t",
            "v > compare", "importance > compare @ 223", "t > compare", "decoder > pixels", "compare > answer",
            "compare > contrast",
        ),
    ),
    "medfilip": Diagram(
        "MedFILIP",
        "A report filter turns reports into structured labels, a knowledge base explains them, and images are matched with the "
        "resulting texts (F-8). What each pair should score follows from how alike a frozen text model finds the labels (F-5).",
        (
            Box("image", 0, 0, 112, "data", ("image", "1 × 112 × 112")),
            Box("report", 0, 124, 112, "data training", ("report",)),
            Box("question", 0, 248, 112, "data", ("category", "asked at test")),
            Box("filter", 1, 124, 112, "fixed training", ("report filter", "M labels of B", "images (F-1)")),
            Box("wording", 2, 124, 236, "fixed", ("label text", "severity location category, where", "category is explanation (F-3, F-4)")),
            Box("encoder", 3, 0, 112, "trained", ("image encoder", "ResNet", "14 × 14 × 128")),
            Box("text", 3, 124, 112, "trained", ("text encoder", "BERT, 1 layer", "M × L × 96")),
            Box("alike", 3, 248, 112, "fixed training", ("text model", "how alike?", "M × M cosines")),
            Box("v", 4, 0, 112, "trained", ("projection", "linear, mean", "→ 128 (F-6)")),
            Box("t", 4, 124, 112, "trained", ("projection", "mean, linear", "→ 128 (F-6)")),
            Box("target", 4, 248, 112, "fixed training", ("soft labels", "max over own", "B × M (F-5)")),
            Box("compare", 5, 0, 236, "trained", ("cosine of all pairs (F-7)", "B × M, scale learned")),
            Box("answer", 6, 0, 112, "answer", ("score (F-9)", "and map")),
            Box("matching", 6, 124, 236, "loss", ("matching (F-8)", "squared error + cross-entropy")),
        ),
        (
            "image > encoder", "report > filter", "filter > wording", "question > wording", "wording > text", "wording > alike",
            "encoder > v", "text > t", "alike > target", "v > compare", "t > compare", "compare > answer", "compare > matching",
            "target > matching",
        ),
    ),
    "mskpt": Diagram(
        "MSK-PT, stage 1 (a reconstruction)",
        "Image and report are aligned three times: words with patches of their own pair (P-8), whole images with whole reports "
        "(P-4), and both with sixteen prototypes (P-12).",
        (
            Box("image", 0, 0, 166, "data", ("image", "1 × 112 × 112")),
            Box("report", 0, 194, 166, "data", ("report", "test: sentences")),
            Box("encoder", 1, 0, 166, "trained", ("image encoder", "ResNet: 14 × 14 × 128")),
            Box("text", 1, 194, 166, "trained", ("text encoder", "BERT, 1 layer: L × 96")),
            Box("patches", 2, 0, 166, "trained", ("projection (P-2)", "196 patches × 128")),
            Box("words", 2, 194, 166, "trained", ("projection (P-2)", "L words × 128")),
            Box("token", 3, 84, 192, "loss", ("words and patches", "of the same pair (P-8)")),
            Box("means", 4, 0, 360, "fixed", ("mean over patches, mean over words", "one vector of 128 for each image and report")),
            Box("compare", 5, 0, 226, "fixed", ("cosine of all pairs", "B × B, temperature 0.07")),
            Box("prototypes", 5, 240, 120, "trained training", ("16 prototypes", "(P-9 to P-11)")),
            Box("answer", 6, 0, 108, "answer", ("score, map", "of sentences")),
            Box("pairs", 6, 120, 106, "loss", ("whole pairs", "(P-4)")),
            Box("swap", 6, 240, 120, "loss", ("categories", "(P-12)")),
        ),
        (
            "image > encoder", "report > text", "encoder > patches", "text > words", "patches > token @ 125", "words > token @ 235",
            "patches > means @ 42", "words > means @ 318", "means > compare", "means > prototypes", "compare > answer",
            "compare > pairs", "prototypes > swap",
        ),
    ),
    "staging": Diagram(
        "MSK-PT, stage 2 (a reconstruction)",
        "A student stages pneumoconiosis from the image alone. It learns from few labels, weighted by certainty (P-16), and from "
        "the frozen stage-1 system through two banks of stored features (P-21).",
        (
            Box("stages", 0, 0, 82, "data training", ("stages", "few labels")),
            Box("image", 0, 94, 146, "data", ("image", "1 × 112 × 112")),
            Box("pairs", 0, 252, 108, "data training", ("labelled", "reports, images")),
            Box("strong", 1, 124, 98, "fixed training", ("strong view", "warp, mirror", "(P-3)")),
            Box("teacher", 1, 252, 108, "fixed training", ("teacher", "stage 1", "→ 128 (P-2)")),
            Box("encoder", 2, 18, 222, "trained", ("image encoder", "starts as the teacher’s", "14 × 14 × 128")),
            Box("banks", 2, 272, 88, "fixed training", ("banks", "text 4 × 128", "data 4 × 128", "(P-18, P-19)")),
            Box("pool", 3, 18, 222, "fixed", ("mean and maximum", "→ 256")),
            Box("head", 4, 18, 118, "trained", ("head", "→ 4 stages", "(P-14)")),
            Box("projector", 4, 148, 92, "trained training", ("projector", "2 layers", "→ 128")),
            Box("compare", 5, 148, 212, "fixed training", ("cosine with the banks", "4 logits of each (P-20)", "kept if the teacher’s u < 0.5")),
            Box("answer", 5, 18, 102, "answer", ("stage and u", "unsure: refer", "(P-15, P-23)")),
            Box("labels", 6, 0, 136, "loss", ("cross-entropy", "× (1 − u) (P-16)")),
            Box("distil", 6, 148, 212, "loss", ("distillation (P-21)", "on text bank + on data bank")),
        ),
        (
            "stages > labels @ 9", "image > encoder @ 109", "image > strong", "image > teacher @ 232 268", "pairs > teacher @ 316",
            "strong > encoder", "teacher > banks @ 316", "teacher > compare @ 262", "encoder > pool", "pool > head",
            "pool > projector", "head > answer @ 69", "head > labels @ 128", "projector > compare", "banks > compare @ 316",
            "compare > distil",
        ),
    ),
}  # fmt: skip


if __name__ == "__main__":
    for name, diagram in DIAGRAMS.items():
        Path(__file__).with_name(f"{name}.svg").write_text(svg(diagram), encoding="utf-8", newline="\n")

"""The pictures of the systems: as the generator draws them, readable on any page, and true of the library."""

import re
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import nbformat
import pytest
from rendered import SHORTEST_TEXT

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.phantom import ENTITIES
from medvlp_lite.systems.base import System

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "book" / "_static" / "diagrams"
CHAPTER_OF = {"convirt": 3, "medklip": 4, "maco": 5, "medfilip": 6, "mskpt": 7, "staging": 8}
LARGEST, SMALLEST_TYPE = 12_000, 12
SMALL_EM, TITLE_EM, BORDER = 0.56, 0.6, 3  # widths of a character in its type size; of what a box draws inside its edge
PAGES = ("#ffffff", "#121212")  # light and dark
OWN_WEIGHTS = {"importance"}  # read at test time without an input (M-10)
EQUATION = re.compile(r"\b[CKMFP]-\d+\b")


def generator():
    """The module that draws, without leaving compiled files in a folder that the book publishes."""
    module = sys.modules["diagrams"] = ModuleType("diagrams")
    exec((FOLDER / "make.py").read_text(encoding="utf-8"), module.__dict__)
    return module


make = generator()
pictures = pytest.mark.parametrize("name", make.DIAGRAMS)


# --- what a picture owes its reader; each returns sentences, empty when all is well


def crowded(boxes) -> list[str]:
    """Texts wider than their box, boxes outside the picture, boxes on each other."""
    found = []
    for box in boxes:
        for number, text in enumerate(box.lines):
            wide = len(text) * make.TYPE * (SMALL_EM if number else TITLE_EM)
            if wide > box.width - 2 * BORDER:
                found.append(f"{text!r} is {wide:.0f} wide in a box of {box.width}")
        if box.x < 0 or box.x + box.width > make.WIDTH:
            found.append(f"{box.name} leaves the picture")
    for one, other in combinations(boxes, 2):
        apart = max(one.x - other.x - other.width, other.x - one.x - one.width)
        if max(apart, one.y - other.y - other.height, other.y - one.y - one.height) < 0:
            found.append(f"{one.name} and {other.name} overlap")
    return found


def stray(arrows, boxes) -> list[str]:
    """Arrows that miss the edges of their boxes, or run through another one."""
    found = []
    for arrow in arrows:
        points, ends = make.path_of(arrow, boxes), [name.strip() for name in arrow.split("@")[0].split(">")]
        for name, (x, y) in zip(ends, (points[0], points[-1])):
            box = boxes[name]
            if not (box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height):
                found.append(f"{arrow} misses {name}")
        for (x0, y0), (x1, y1) in pairwise(points):
            for box in boxes.values():
                across = min(x0, x1) < box.x + box.width and box.x < max(x0, x1)
                along = min(y0, y1) < box.y + box.height and box.y < max(y0, y1)
                if across and along:
                    found.append(f"{arrow} runs through {box.name}")
    return found


def unfounded(arrows, boxes) -> list[str]:
    """What is used at test time but fed in training alone, what nothing feeds or reads, data that something feeds."""
    ends = [[boxes[name.strip()] for name in arrow.split("@")[0].split(">")] for arrow in arrows]
    found = []
    for box in boxes.values():
        feeds = [start for start, end in ends if end.name == box.name]
        read = any(start.name == box.name for start, _ in ends)
        if bool(feeds) == (box.look == "data"):
            found.append(f"{box.name} is data with a source, or no data without one")
        if feeds and not box.training and box.name not in OWN_WEIGHTS and all(start.training for start in feeds):
            found.append(f"{box.name} has no source at test time")
        if read == (box.look in ("loss", "answer")):
            found.append(f"{box.name} is an end that something reads, or nothing reads it")
    return found


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return sum(share * v for share, v in zip((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


# --- the checks can fail


def test_the_checks_see_faults():
    def box(name, row, x, width=60, kind="trained", lines=("a",)):
        return make.Box(name, row, x, width, kind, lines)

    good = (box("a", 0, 0, kind="data"), box("b", 1, 0), box("c", 2, 0, kind="answer"), box("d", 1, 80))

    def placed(*boxes):
        return make.placed(make.Diagram("", "", boxes, ()))

    assert crowded(placed(*good).values()) == []
    assert crowded([replace(good[0], lines=("a long title",))]) and crowded([replace(good[0], x=310)])
    assert crowded(placed(*good, box("e", 1, 100)).values()) == ["d and e overlap"]
    boxes = placed(*good)
    assert stray(["a > b", "b > c"], boxes) == [] and stray(["a > c"], boxes) == ["a > c runs through b"]
    assert stray(["a > d @ 20 170"], boxes) == ["a > d @ 20 170 misses d"]
    boxes = placed(*good[:3])
    assert unfounded(["a > b", "b > c"], boxes) == []
    assert len(unfounded(["a > b"], boxes)) == 2
    boxes["b"] = replace(boxes["b"], kind="trained training")
    assert unfounded(["a > b", "b > c"], boxes) == ["c has no source at test time"]


# --- the pictures


def test_the_stored_pictures_are_what_the_generator_draws():
    assert {path.stem for path in FOLDER.glob("*.svg")} == set(make.DIAGRAMS) == set(CHAPTER_OF)
    for name, diagram in make.DIAGRAMS.items():
        stored = (FOLDER / f"{name}.svg").read_bytes()
        assert stored == make.svg(diagram).encode(), f"{name}.svg is stale; run python {FOLDER / 'make.py'}"
        assert len(stored) <= LARGEST, f"{name}.svg has {len(stored)} bytes"
        tags = [tag.tag.split("}")[1] for tag in ElementTree.fromstring(stored)]
        assert tags[:2] == ["title", "desc"] and not {"image", "script", "use"} & set(tags)


@pictures
def test_texts_fit_and_nothing_runs_into_another(name):
    diagram = make.DIAGRAMS[name]
    boxes = make.placed(diagram)
    assert len(boxes) == len(diagram.boxes)
    assert crowded(boxes.values()) + stray(diagram.arrows, boxes) + unfounded(diagram.arrows, boxes) == []


def test_text_and_lines_are_seen_on_light_and_dark_pages():
    assert make.TYPE >= SMALLEST_TYPE
    assert all(contrast(make.GREY, page) > 4 for page in PAGES)
    for look, (ground, edge, _) in make.LOOKS.items():
        assert contrast(make.INK, ground) >= 4.5 and contrast(edge, ground) >= 3, look
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


# --- what they say


SHAPES = {
    "convirt": lambda s: [grid(s), f"L words × {s.text_encoder.width}", f"→ {s.config.dim}, length 1"],
    "medklip": lambda s: [
        grid(s),
        "{} × {} (K-4)".format(*s.entity_vectors.shape),
        f"{len(s.position_vectors)} places × {len(s.entity_vectors)}",
        f"8 × {s.position_head.out_features} (K-5)",
        f"→ {len(s.entity_vectors)} × {s.config.width} (K-6, K-7)",
        f"→ 196 × {s.token_mlp[-1].out_features}",
        f"{len(s.decoder.layers)} layers: queries look at places",
        f"× {s.config.position_weight} (K-10)",
    ],
    "maco": lambda s: [
        f"{s.patches // 2} visible × {s.image_encoder.width}",
        f"56 × 56: {s.patches} of {s.image_encoder.stride} × {s.image_encoder.stride}",
        f"ViT, {len(s.image_encoder.blocks)} blocks",
        f"→ {s.patches} × {s.target_patch**2}",
        f"{len(s.decoder.blocks)} block",
        f"→ {s.config.dim} (M-7)",
        f"× {s.config.lam} (M-9)",
    ],
    "medfilip": lambda s: [grid(s), f"M × L × {s.text_encoder.width}", f"→ {s.config.dim} (F-6)"],
    "mskpt": lambda s: [
        f"ResNet: {grid(s)}",
        f"BERT, 1 layer: L × {s.text_encoder.width}",
        f"196 patches × {s.config.dim}",
        f"{len(s.prototypes.vectors)} prototypes",
    ],
    "staging": lambda s: [
        grid(s),
        f"→ {s.head.in_features}",
        f"→ {s.head.out_features} stages",
        "text {} × {}".format(*s.text_bank.shape),
        "data {} × {}".format(*s.data_bank.shape),
    ],
}


def grid(system) -> str:
    side = system.config.image_size // system.image_encoder.stride
    return f"{side} × {side} × {system.image_encoder.width}"


@pictures
def test_the_sizes_are_those_of_the_systems_as_they_come(name):
    kind = System.registry[name]
    named = {"medklip": {"entities": ENTITIES}, "medfilip": {"categories": ENTITIES}}.get(name, {})
    expected = SHAPES[name](kind(ReportTokenizer.train(["No effusion."]), kind.Config(**named)))
    said = {text for box in make.DIAGRAMS[name].boxes for text in box.lines}
    assert set(expected) <= said, set(expected) - said


@pictures
def test_equations_exist_and_every_loss_names_its_own(name):
    known = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "medvlp_lite").rglob("*.py"))
    for box in make.DIAGRAMS[name].boxes:
        named = EQUATION.findall(" ".join(box.lines))
        assert named or box.look != "loss", f"{box.name} names no equation"
        assert set(named) <= set(EQUATION.findall(known)), box.name


@pictures
def test_the_chapter_shows_its_picture_with_words_for_who_cannot_see_it(name):
    (path,) = (ROOT / "book").glob(f"0{CHAPTER_OF[name]}_*.ipynb")
    first = nbformat.read(path, as_version=4).cells[0].source
    alt, source, caption = re.search(r":class: diagram\n\n!\[(.+?)\]\((.+?)\)\n\n(.+?)\n:::", first, re.DOTALL).groups()
    assert (path.parent / source).resolve() == FOLDER / f"{name}.svg"
    assert len(alt) > SHORTEST_TEXT and " " in alt and len(caption) > SHORTEST_TEXT

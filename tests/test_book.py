"""The rendered book: complete, readable offline and by everyone, and never older than the code behind it."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from rendered import HTML, ROOT, SHORTEST_TEXT, chapters

WIDEST_PRINT = 76

# --- what one page owes its reader; each returns sentences, empty when all is well


def outside_sources(page) -> list[str]:
    """Scripts, styles, pictures and frames that would be fetched from the network."""
    found = [
        tag.get("src") or tag.get("href")
        for tag in page.find_all(["script", "link", "img", "iframe", "source", "video", "audio", "object", "embed"])
        if re.match(r"(https?:)?//", tag.get("src") or tag.get("href") or "")
        and not set(tag.get("rel", [])) & {"canonical", "author", "search", "next", "prev", "license"}
    ]
    styles = [tag.text for tag in page.find_all("style")] + [tag["style"] for tag in page.find_all(style=True)]
    found += [url for style in styles for url in re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", style)]
    return found


def figure_faults(page) -> list[str]:
    """Pictures that someone who cannot see them, or who reads only captions, would learn nothing from."""
    found = []
    for image in page.select(".bd-article img"):
        alt, source = (image.get("alt") or "").strip(), image.get("src", "")[:60]
        if len(alt) <= SHORTEST_TEXT or " " not in alt or "_images/" in alt:
            found.append(f"picture {source} has the alt text {alt!r}, which does not say what it shows")
        if not image.find_parent(class_="cell_output"):
            continue
        figure = image.find_parent("figure")
        caption = figure.find("figcaption") if figure else None
        text = re.sub(r"^Fig\. [\d.]+\s*", "", caption.get_text(" ", strip=True)) if caption else ""
        if len(text or image.get("title", "")) <= SHORTEST_TEXT:
            found.append(f"picture {source} ({alt[:40]}) has no caption")
    return found


def output_faults(page) -> list[str]:
    """Warnings and errors left in what the cells print."""
    found = [
        f"stderr: {tag.get_text(' ', strip=True)[:80]}"
        for tag in page.select(".cell_output .stderr, .cell_output .traceback")
    ]
    for output in page.select(".cell_output"):
        hit = re.search(r"Traceback \(most recent call last\)|\bWARNING\b|\w*Warning:", output.get_text())
        if hit:
            found.append(f"output says {hit.group()!r}")
    return found


def wide_prints(page) -> list[str]:
    """Printed lines that do not fit beside the contents; tables drawn as HTML are not printed."""
    lines = [
        line for tag in page.select(".cell_output .output > .highlight pre") for line in tag.get_text().splitlines()
    ]
    return [f"prints {len(line)} characters: {line[:50]!r}" for line in lines if len(line) > WIDEST_PRINT]


def checker_faults(page) -> list[str]:
    """Solutions that a checker does not call solved, and exercises that are solved before anyone has answered."""
    found = []
    for solution in page.select(".solution"):
        said = [tag.get_text().split("\n") for tag in solution.select(".cell_output")]
        if solution.select(".cell_input") and not any("Solved." in lines for lines in said):
            found.append(f"the solution {solution.get('id')} is not called solved")
        found += [f"{solution.get('id')} is called solved twice in a cell" for s in said if s.count("Solved.") > 1]
    early = [
        tag
        for tag in page.select(".cell_output")
        if "Solved." in tag.get_text() and not tag.find_parent(class_="solution")
    ]
    return found + [f"solved without an answer: {tag.get_text(' ', strip=True)[:60]}" for tag in early]


def dead_links(name: str, page) -> list[str]:
    """Links to pages, files or places that do not exist in the book."""
    found = []
    for link in page.find_all("a", href=True):
        parts = urlsplit(link["href"])
        if parts.scheme or parts.netloc or link["href"] == "#":
            continue
        target = (HTML / name).parent / unquote(parts.path) if parts.path else HTML / name
        if not target.exists():
            found.append(f"{link['href']} does not exist")
        elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in anchors(target.resolve()):
            found.append(f"{link['href']} names no place on that page")
    return found


@cache
def anchors(path: Path) -> set[str]:
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    return {tag["id"] for tag in page.find_all(id=True)}


def colab_links(page) -> set[str]:
    return {link["href"] for link in page.find_all("a", href=True) if "colab.research.google.com" in link["href"]}


def fragment(text: str) -> BeautifulSoup:
    return BeautifulSoup(f'<article class="bd-article">{text}</article>', "html.parser")


PRINTED = '<div class="cell_output"><div class="output stream"><div class="highlight"><pre>{}</pre></div></div></div>'
SOLUTION = f'<div class="solution"><div class="cell_input"></div>{PRINTED}</div>'


# --- the checks themselves can fail


@pytest.mark.parametrize(
    "check, bad, good",
    [
        (outside_sources, '<script src="https://cdn.example/x.js"></script>', '<script src="../_static/x.js"></script>'),
        (outside_sources, '<link rel="stylesheet" href="//fonts.example/a.css">', '<link rel="canonical" href="https://a.b/">'),
        (outside_sources, "<style>@import 'https://fonts.example/a.css'</style>", "<style>a{color:red}</style>"),
        (figure_faults, '<img src="a.png" alt="../_images/2f4e8ab9c1d2e3f4.png">', '<img src="a.png" alt="Two lungs, the left one dark.">'),
        (
            figure_faults,
            '<div class="cell_output"><img src="a.png" alt="Two lungs, the left one dark."></div>',
            '<div class="cell_output"><figure><img src="a.png" alt="Two lungs, the left one dark.">'
            "<figcaption>Fig. 1 The left lung is dark.</figcaption></figure></div>",
        ),
        (output_faults, '<div class="cell_output"><pre>UserWarning: old</pre></div>', '<div class="cell_output"><pre>loss 0.1</pre></div>'),
        (output_faults, '<div class="cell_output"><div class="output stderr">x</div></div>', "<p>a Warning: in prose</p>"),
        (wide_prints, PRINTED.format("x" * 77), PRINTED.format("x" * 76 + "\n" + "y" * 76)),
        (checker_faults, SOLUTION.format("Not yet."), SOLUTION.format("Solved.")),
        (checker_faults, SOLUTION.format("Solved.\nSolved."), SOLUTION.format("0.25\nSolved.")),
        (checker_faults, PRINTED.format("Solved."), PRINTED.format("No answer yet. Expected: a number.")),
    ],
)  # fmt: skip
def test_the_checks_see_what_they_look_for(check, bad, good):
    assert check(fragment(bad)) and not check(fragment(good))


# --- the pages


@pytest.mark.book
def test_no_page_is_cut_off_from_the_contents(pages):
    listed = {
        (HTML / "book" / link["href"].split("#")[0]).resolve()
        for link in pages["book/index.html"].select("nav.bd-links a[href]")
        if link["href"] != "#"
    } | {(HTML / "book/index.html").resolve()}
    cut_off = [name for name in pages if (HTML / name).resolve() not in listed]
    assert not cut_off, f"not in the contents: {', '.join(cut_off)}"
    sources = [path for folder in ("book", "data_cards") for path in (ROOT / folder).iterdir()]
    sources = {path.relative_to(ROOT) for path in sources if path.suffix in (".md", ".ipynb")}
    unrendered = [str(path) for path in sorted(sources) if path.with_suffix(".html").as_posix() not in pages]
    assert not unrendered, f"no page was made of {', '.join(unrendered)}"
    assert "book/index.html" in (HTML / "index.html").read_text(encoding="utf-8")


@pytest.mark.book
def test_nothing_is_loaded_from_the_network(pages):
    found = {name: outside_sources(page) for name, page in pages.items()}
    assert not any(found.values()), {name: urls for name, urls in found.items() if urls}


@pytest.mark.book
def test_every_figure_has_alt_text_and_caption(pages):
    found = [f"{name}: {fault}" for name, page in pages.items() for fault in figure_faults(page)]
    assert not found, "\n".join(found)


@pytest.mark.book
def test_no_warning_or_error_is_left_on_a_page(pages):
    found = [f"{name}: {fault}" for name, page in pages.items() for fault in output_faults(page)]
    assert not found, "\n".join(found)


@pytest.mark.book
def test_printed_lines_fit_the_page(pages):
    found = [f"{name}: {fault}" for name, page in pages.items() for fault in wide_prints(page)]
    assert not found, "\n".join(found)


@pytest.mark.book
def test_solutions_are_solved_and_untouched_exercises_are_not(pages):
    found = [f"{name}: {fault}" for name, page in chapters(pages).items() for fault in checker_faults(page)]
    assert not found, "\n".join(found)


@pytest.mark.book
def test_chapters_figures_and_exercises_carry_the_chapters_number(pages):
    for name, page in chapters(pages).items():
        number = str(int(re.search(r"book/(\d+)", name).group(1)))
        assert page.select_one("h1 .section-number").get_text(strip=True) == number, name
        captions = [tag.get_text(strip=True) for tag in page.select(".bd-article .caption-number")]
        assert captions and all(re.match(rf"(Fig\.|Exercise) {number}\.\d+$", text) for text in captions), (
            name,
            captions,
        )
        listed = pages["book/index.html"].select_one(f'nav.bd-links a[href="{name.removeprefix("book/")}"]')
        assert listed.get_text(strip=True).startswith(f"{number} "), name


@pytest.mark.book
def test_the_page_counts_what_a_student_reads(pages):
    page = pages["book/how-to-run.html"]
    rows = [
        [cell.get_text(strip=True) for cell in row.select("td")]
        for row in page.select("#how-the-library-is-organised tr")[1:]
    ]
    read = [row for row in page.select("#how-the-library-is-organised tr") if row.select_one("strong")]
    lines = sum(int(row.select("td")[-1].get_text().replace(",", "")) for row in read)
    assert len(read) == 7 and f"{lines:,} lines" in page.get_text()
    assert {row[0].split(".")[0] for row in rows} >= {
        path.stem for path in (ROOT / "medvlp_lite").glob("[a-z]*") if path.is_dir() and list(path.glob("*.py"))
    }


@pytest.mark.book
def test_every_link_inside_the_book_leads_somewhere(pages):
    found = [f"{name}: {fault}" for name, page in pages.items() for fault in dead_links(name, page)]
    assert not found, "\n".join(found)


@pytest.mark.book
def test_every_page_says_not_for_clinical_use(pages):
    silent = [
        n
        for n, page in pages.items()
        if "Not for clinical use" not in " ".join(tag.get_text(" ") for tag in page.select("footer"))
    ]
    assert not silent, silent


@pytest.mark.book
def test_every_chapter_was_executed_and_measured(pages):
    rows = [
        [cell.get_text(strip=True) for cell in row.select("td")]
        for row in pages["book/status.html"].select("table tr")[1:]
    ]
    executed = {row[0]: row[1:] for row in rows}
    for name, page in chapters(pages).items():
        title = page.select_one(".bd-article h1").get_text().removesuffix("#").strip()
        time, memory, outcome = executed[title]
        assert re.fullmatch(r"\d+\smin \d\d\ss", time) and outcome == "✓ yes", name
        assert os.name == "nt" or memory.endswith("GiB"), f"{name} left no peak memory"


@pytest.mark.book
def test_colab_links_name_tracked_files(pages):
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    start = (
        config["url"].replace("https://github.com/", "https://colab.research.google.com/github/")
        + f"/blob/{config['branch']}/"
    )
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    tracked = set(listing.stdout.split("\0")) if listing.returncode == 0 else None
    for name, page in pages.items():
        links = colab_links(page)
        wanted = {start + name.replace(".html", ".ipynb")} if name in chapters(pages) else set()
        assert links == wanted, f"{name}: Colab links {links}, expected {wanted}"
        for link in links:
            file = link.removeprefix(start)
            assert (ROOT / file).is_file() and (tracked is None or file in tracked), (
                f"{name}: git does not track {file}"
            )

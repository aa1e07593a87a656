"""The rendered book: complete, readable offline and by everyone, and never older than the code behind it."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parent.parent
HTML = Path(os.environ.get("MEDVLP_BOOK", ROOT / "_build" / "html"))
WIDEST_PRINT = 76
NOT_PAGES = {"index.html", "genindex.html", "search.html"}
SHORTEST_TEXT = 15


@pytest.fixture(scope="module")
def pages() -> dict[str, BeautifulSoup]:
    """Every page of the book by its path below HTML."""
    if not (HTML / "index.html").is_file():
        if "MEDVLP_BOOK" in os.environ:
            pytest.fail(f"there is no book in {HTML}; its build failed")
        pytest.skip(f"there is no book in {HTML}; run `make book` first")
    found = {}
    for path in sorted(HTML.rglob("*.html")):
        name = path.relative_to(HTML).as_posix()
        if name not in NOT_PAGES and not name.startswith("_"):
            found[name] = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    return found


def chapters(pages):
    return {name: page for name, page in pages.items() if re.match(r"book/\d", name)}


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
def test_what_a_student_reads_stays_below_6000_lines(pages):
    page = pages["book/how-to-run.html"]
    rows = [
        [cell.get_text(strip=True) for cell in row.select("td")]
        for row in page.select("#how-the-library-is-organised tr")[1:]
    ]
    read = [row for row in page.select("#how-the-library-is-organised tr") if row.select_one("strong")]
    lines = sum(int(row.select("td")[-1].get_text().replace(",", "")) for row in read)
    assert len(read) == 7 and f"{lines:,} lines" in page.get_text() and lines < 6000
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


# --- in a browser

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]

LOOK = """() => {
  const article = document.querySelector(".bd-article");
  const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const c = numbers(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of article.querySelectorAll("p, li, td, th, figcaption, .medvlp-sliders span")) {
    if (!element.innerText || !element.innerText.trim() || !element.offsetParent) continue;
    const color = getComputedStyle(element).color;
    if (!color.startsWith("rgb(")) continue;
    const [a, b] = [luminance(numbers(color)), luminance(ground(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(element.innerText.slice(0, 40));
  }
  return {width: document.documentElement.scrollWidth, window: window.innerWidth, faint: faint.slice(0, 3)};
}"""

FORMULAS = """() => [...document.querySelectorAll(".bd-article div.math")].filter((d) => d.offsetParent).flatMap((block) => {
  const box = block.querySelector("mjx-container"), drawn = box && box.querySelector("svg");
  if (!drawn) return [];
  const name = block.querySelector(".eqno");
  const [outer, view, ink] = [block, box, drawn].map((element) => element.getBoundingClientRect());
  const label = name ? name.getBoundingClientRect() : null;
  const found = [];
  if (box.scrollLeft !== 0) found.push("opens scrolled");
  if (ink.left < view.left - 1 || view.left < 0 || ink.left > outer.left + 3) found.push("does not start at the left");
  if (label && (label.right > window.innerWidth || label.left < 0)) found.push("its name is outside the page");
  if (label && label.top < view.bottom && label.bottom > view.top && label.left < Math.min(ink.right, view.right))
    found.push("its name covers it");
  if (window.innerWidth > 1200 && ink.width > view.width + 1) found.push("is wider than the column");
  return found.map((fault) => (name ? name.innerText : box.textContent.slice(0, 20)) + " " + fault);
})"""

CODE = """() => [...document.querySelectorAll(".bd-article .cell_input pre")]
  .filter((pre) => !pre.closest("details:not([open])") && pre.scrollWidth > pre.clientWidth + 1).map((pre) => pre.innerText.slice(0, 40))"""

PLOTS = """() => [...document.querySelectorAll(".bd-article .cell_output img")]
  .filter((image) => image.offsetParent && (image.style.minWidth || !image.closest(".medvlp-explore")))
  .flatMap((image) => {
    const scale = image.getBoundingClientRect().width / image.naturalWidth;
    const found = [];
    if (image.naturalWidth > 742) found.push(`is drawn ${(image.naturalWidth / 110).toFixed(1)} inches wide`);
    if (scale < 0.65) found.push(`shrinks to ${scale.toFixed(2)}, so that 9-point type has less than 9 pixels`);
    return found.map((fault) => (image.alt || "").slice(0, 40) + " " + fault);
  })"""

MATH = """async () => {
  if (!document.querySelector("span.math, div.math")) return {formulas: 0, drawn: 0, broken: 0, raw: ""};
  for (let i = 0; i < 200 && window.MathJax && !(MathJax.startup && MathJax.startup.promise); i++)
    await new Promise((done) => setTimeout(done, 50));
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const article = document.querySelector(".bd-article").cloneNode(true);
  article.querySelectorAll("pre, code, script, style, mjx-container").forEach((element) => element.remove());
  const raw = article.textContent.match(/\\\\\\(|\\\\\\[|\\\\begin\\{|\\$[^$\\n]{1,60}\\$/);
  return {
    formulas: document.querySelectorAll(".bd-article span.math, .bd-article div.math").length,
    drawn: document.querySelectorAll(".bd-article mjx-container").length,
    broken: document.querySelectorAll("mjx-merror, [data-mml-node='merror']").length,
    raw: raw ? raw[0] : "",
  };
}"""


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine; on Debian and Ubuntu: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


def visit(browser, name: str, file: Path) -> list[str]:
    """Open a page from disk with the network off, light and dark, wide and narrow; what is wrong, one sentence each."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    wanted, errors = [], []

    def only_from_disk(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            wanted.append(route.request.url)
            route.abort()

    context.route("**/*", only_from_disk)
    page = context.new_page()
    page.on("console", lambda message: errors.append(message.text[:120]) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)[:120]))
    page.goto(file.as_uri(), wait_until="load")
    math = page.evaluate(MATH)
    found = [f"asks the network for {url}" for url in wanted] + [f"console: {error}" for error in errors]
    if math["drawn"] < math["formulas"] or math["broken"] or math["raw"]:
        found.append(f"formulas are not drawn: {math}")
    for mode in ("light", "dark"):
        page.evaluate("mode => { document.documentElement.dataset.theme = mode; }", mode)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(30)
            seen = page.evaluate(LOOK)
            if seen["width"] > seen["window"]:
                found.append(f"{mode}, {width} px: is {seen['width']} px wide")
            if seen["faint"]:
                found.append(f"{mode}, {width} px: hard to read: {seen['faint']}")
            if mode == "light":
                found += [f"{width} px: formula {fault}" for fault in page.evaluate(FORMULAS)]
                found += [f"{width} px: picture {fault}" for fault in page.evaluate(PLOTS)]
                if width == 1280:
                    found += [f"{width} px: code is cut: {code!r}" for code in page.evaluate(CODE)]
    context.close()
    return [f"{name}: {fault}" for fault in found]


@pytest.mark.book
def test_every_page_in_a_browser_without_network(pages, browser):
    found = [fault for name in pages for fault in visit(browser, name, HTML / name)]
    assert not found, "\n".join(found)


@pytest.mark.book
def test_sliders_work_without_a_kernel(pages, browser):
    with_slider = [name for name, page in pages.items() if page.find(class_="medvlp-explore")]
    for name in with_slider:
        page = browser.new_page()
        page.goto((HTML / name).as_uri())
        figure = page.locator(".medvlp-explore").first
        shown = figure.locator("img:not([hidden])")
        first = shown.get_attribute("alt")
        slider = figure.locator("input").last
        slider.focus()
        slider.press("ArrowRight")
        assert shown.count() == 1 and shown.get_attribute("alt") != first, f"{name}: the slider does not move"
        assert slider.get_attribute("aria-valuetext") in shown.get_attribute("alt")
        page.close()


@pytest.mark.book
def test_questions_on_the_page_answer_by_keyboard(pages, browser):
    with_question = [name for name, page in pages.items() if page.find(class_="selfcheck")]
    for name in with_question:
        page = browser.new_page()
        page.goto((HTML / name).as_uri())
        question = page.locator(".selfcheck").first
        for kind in ("wrong", "right"):
            question.locator(f".{kind} summary").first.focus()
            page.keyboard.press("Enter")
            reason = question.locator(f".{kind}[open] .reason").first
            assert reason.inner_text().lower().startswith(kind) and len(reason.inner_text()) > SHORTEST_TEXT, name
        page.close()


@pytest.mark.book
def test_the_search_finds_words_from_a_folder_on_disk_and_says_what_it_cannot(browser, pages):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((HTML / "search.html").as_uri() + "?q=pneumoconiosis")
    page.wait_for_selector("#search-results li", timeout=10_000)
    assert page.locator("#search-results li a").count() > 2 and not errors
    assert "titles only" in page.locator(".search-note").inner_text()
    page.close()


DRAWN_BADLY = (
    "does not start at the left",
    "wider than the column",
    "code is cut",
    "9.0 inches wide",
    "shrinks to 0.30",
)


def test_the_browser_check_sees_faults(browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(
        '<!doctype html><html data-theme="light"><body><img src="https://cdn.example/a.png">'
        '<article class="bd-article"><p style="width:600px;color:#ddd;background:#fff">faint</p>'
        '<span class="math">\\(a\\)</span>'
        '<div class="math"><mjx-container style="display:block;width:99px;overflow:auto;direction:rtl">'
        '<svg width="900" height="9"></svg></mjx-container></div>'
        '<div class="cell_input"><pre style="width:99px;overflow:auto">' + "x" * 99 + "</pre></div>"
        '<div class="cell_output"><img width="300" src="data:image/svg+xml,'
        "%3Csvg xmlns='http://www.w3.org/2000/svg' width='990' height='9'/%3E\"></div></article></body></html>",
        encoding="utf-8",
    )
    found = "\n".join(visit(browser, "page", file))
    for fault in ("asks the network", "formulas are not drawn", "390 px: is 6", "hard to read", *DRAWN_BADLY):
        assert fault in found


# --- the build itself


def build(folder: Path) -> subprocess.CompletedProcess:
    """Build the book in ``folder`` with the options that the Makefile uses."""
    options = re.search(r"^BUILD_BOOK := \S+/jupyter-book (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(
        1
    )
    program = shutil.which("jupyter-book", path=str(Path(sys.executable).parent)) or "jupyter-book"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [program, *options.split()]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def small_book(tmp_path):
    """This book's frame with one chapter that shows a number from one module."""
    shutil.copy(ROOT / "_config.yml", tmp_path)
    for folder in ("_static", "_ext"):
        shutil.copytree(ROOT / "book" / folder, tmp_path / "book" / folder)
    (tmp_path / "book" / "references.bib").write_text("", encoding="utf-8")
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\noptions: {numbered: 1}\nchapters:\n  - glob: book/[0-9]*\n"
    )
    (tmp_path / "book" / "index.md").write_text("# A small book\n", encoding="utf-8")
    (tmp_path / "library.py").write_text("ANSWER = 41_000\n", encoding="utf-8")
    cells = [
        nbformat.v4.new_markdown_cell("# One chapter"),
        nbformat.v4.new_code_cell("import library\nprint('the answer is', library.ANSWER)"),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "book" / "01_one.ipynb")
    return tmp_path


def test_a_changed_library_shows_at_once_and_an_error_fails_every_time(small_book):
    page = small_book / "_build" / "html" / "book" / "01_one.html"
    first = build(small_book)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "the answer is 41000" in page.read_text(encoding="utf-8")

    (small_book / "library.py").write_text("ANSWER = 42_000\n", encoding="utf-8")
    second = build(small_book)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "the answer is 42000" in page.read_text(encoding="utf-8"), "the page kept the old number"

    (small_book / "library.py").write_text("ANSWER = 1 / 0\n", encoding="utf-8")
    for attempt in ("first", "second"):
        failed = build(small_book)
        assert failed.returncode != 0, f"the {attempt} build of a broken chapter passed"
        said = failed.stdout + failed.stderr
        assert "01_one.ipynb" in said and "ZeroDivisionError" in said, "the message names neither chapter nor error"


GOOD_CELLS = """
# A chapter

$$ a = b \\tag{K-7} $$

See {eq}`K-7`.

:::{selfcheck} What is $1 + 1$?
Two
: Right. Count.

Three
: Wrong. That is $1 + 2$.
:::

::::{exercise} Add
:label: ex-add

**Predict.** What is $2 + 2$?
::::
"""


def test_numbers_names_and_questions_come_out(small_book, browser):
    (small_book / "book" / "02_two.md").write_text(GOOD_CELLS, encoding="utf-8")
    done = build(small_book)
    assert done.returncode == 0, done.stdout + done.stderr
    file = small_book / "_build" / "html" / "book" / "02_two.html"
    page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    assert page.select_one("h1 .section-number").text.strip() == "2"
    assert page.select_one(".eqno").get_text().startswith("(K-7)") and "tag" not in page.select_one("div.math").text
    assert page.select_one('a[href="#equation-k-7"].reference').text == "(K-7)"
    assert page.select_one(".exercise .caption-number").text.strip() == "Exercise 2.1"
    choices = page.select(".selfcheck details")
    assert [choice["class"] for choice in choices] == [["choice", "right"], ["choice", "wrong"]]
    assert (
        len({choice["name"] for choice in choices}) == 1
        and choices[0].select_one(".reason").text.strip() == "Right. Count."
    )
    assert not visit(browser, "two", file)


@pytest.mark.parametrize(
    "text, message",
    [
        (":::{selfcheck} What?\nTwo\n: Right. Count.\n:::", "at least one of each"),
        (":::{selfcheck} What?\nTwo\n: Right. Count.\n\nThree\n: Wrong.\n:::", "give a reason"),
        ("[nowhere](no-such-page.md)", "no-such-page"),
    ],
)
def test_a_fault_on_a_page_fails_the_build(small_book, text, message):
    (small_book / "book" / "index.md").write_text(f"# A small book\n\n{text}\n", encoding="utf-8")
    done = build(small_book)
    assert done.returncode != 0 and message in done.stdout + done.stderr


def test_a_chapter_that_leaves_a_file_behind_fails_the_build(small_book):
    (small_book / "library.py").write_text("ANSWER = open('left.txt', 'w').write('x')\n", encoding="utf-8")
    done = build(small_book)
    assert done.returncode != 0 and "left book/left.txt" in done.stdout + done.stderr


@pytest.mark.parametrize("profile, seconds", [("smoke", 600), ("read", 600), ("full", -1)])
def test_the_time_limit_of_a_cell_follows_the_profile(monkeypatch, profile, seconds):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    monkeypatch.setenv("MEDVLP_PROFILE", profile)
    import build_record

    config = SimpleNamespace(nb_execution_timeout=1)
    build_record.set_time_limit(None, config)
    assert config.nb_execution_timeout == seconds

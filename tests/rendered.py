"""The rendered book as the tests see it: every page parsed, and a browser that opens it from disk with the network off."""

import os
import re
import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parent.parent
HTML = Path(os.environ.get("MEDVLP_BOOK", ROOT / "_build" / "html"))
NOT_PAGES = {"index.html", "genindex.html", "search.html"}
SHORTEST_TEXT = 15


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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

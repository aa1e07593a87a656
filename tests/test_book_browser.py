"""Every page in a browser, opened from a folder on disk without a network: light and dark, wide and narrow."""

import pytest
from rendered import HTML, SHORTEST_TEXT, visit


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

"""The ledger's page: counts, plot and table from results, and the script that sorts and filters."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from bs4 import BeautifulSoup

from medvlp_lite.figures import ledger
from medvlp_lite.records import SIGNS, TITLES, results
from medvlp_lite.records.claims import Effect

STATIC = Path(__file__).parent.parent / "book" / "_static"


@pytest.fixture(scope="module")
def found():
    return list(results().values())


def test_counts_are_those_of_the_claims(found):
    page = BeautifulSoup(ledger.counts_table(found), "html.parser")
    rows = [[cell.get_text() for cell in row.find_all("td")[:4]] for row in page.select("tbody tr")]
    expected = Counter((one.verdict, one.claim.system) for one in found)
    assert rows[:-1] == [[str(expected[verdict, system]) for system in TITLES] for verdict in SIGNS]
    assert sum(map(int, rows[-1])) == len(found)
    assert all(row.select_one(".meaning").get_text() for row in page.select("tbody tr")[:-1])


def test_every_claim_has_a_row_with_what_was_asked_for(found):
    page = BeautifulSoup(ledger.claims_table(found), "html.parser")
    rows = {row["id"]: row for row in page.select("table.ledger tbody tr")}
    assert list(rows) == [one.claim.id for one in found]
    for one in found:
        row = rows[one.claim.id]
        text = " ".join(row.get_text(" ").split())
        assert one.claim.statement in text and row.select_one(f'a[href="{one.claim.chapter}.html"]')
        assert row.select_one(".verdict").get_text() == f"{SIGNS[one.verdict]} {one.verdict}"
        assert ("our setting" in text) == (one.claim.setting == "ours")
        if one.effect:
            assert f"Holm: {one.after_holm}" in text and f"{len(one.effect.seeds)} seed" in text and "δ" in text
        else:
            assert f"needs {one.missing}" in text
        for row_name in one.collapsed:
            assert f"collapsed : {row_name}" in text or row_name in text.split("collapsed")[-1]


def test_marks_and_letters_of_one_row(found):
    one = next(result for result in found if result.claim.id == "medklip.position_loss.pointing")
    effect = Effect((0, 1, 2), (0.5, 0.4, 0.6), (0.49, 0.42, 0.56))
    odd = replace(
        one, claim=replace(one.claim, statement="A < B & C"), effect=effect, converged=False, confirmation=True
    )
    html = ledger.claims_table([odd], tools=False)
    text = BeautifulSoup(html, "html.parser").get_text(" ")
    assert "A &lt; B &amp; C" in html and "not converged" in text and "confirmation" in text and "<script" not in html
    assert "+.044" in text and ".798 → .842" in text and "−.010" in text and "[−.085,\xa0.065]" in text


def test_the_plot_shows_effect_interval_margin_and_paper(found):
    effects = [Effect((0, 1, 2), (0.5, 0.4, 0.6), (0.5 + i / 50, 0.41 + i / 50, 0.6 + i / 50)) for i in (9, 0, -9)]
    claims = [one for one in found if one.claim.system == "medklip" and one.claim.comparison][:9]
    controls = {"positive": "supported", "negative": "no difference", "collapsed": ()}
    own = [replace(one, effect=effects[i % 3], **controls) for i, one in enumerate(claims)]
    axes = ledger.forest(own, "MedKLIP")
    shown = [one for one in own if one.effect and not one.collapsed]
    marks = [line for line in axes.lines if len(line.get_xdata()) == 1]
    papers = [line for line in marks if line.get_marker() == "D"]
    assert len(papers) == sum(one.claim.paper is not None for one in shown)
    assert len(marks) - len(papers) == len(shown)
    first = next(line for line in marks if line.get_marker() == ">")
    one = next(one for one in shown if one.verdict == "supported")
    assert first.get_xdata()[0] == pytest.approx(one.interval.value / one.claim.delta)
    assert axes.figure.get_size_inches()[0] <= 6.5 and axes.figure.get_facecolor() == (1, 1, 1, 1)
    sizes = [text.get_fontsize() for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_legend().get_texts())]
    assert min(sizes) >= 9
    plt.close(axes.figure)


def test_verdicts_differ_in_colour_and_in_shape():
    decided = ("supported", "contradicted", "no difference", "inconclusive", "control failed")
    assert len({ledger.MARKERS[v] for v in decided}) == len({ledger.COLOURS[v] for v in decided}) == len(decided)
    assert len(set(SIGNS.values())) == len(SIGNS) == len(ledger.MEANING)


def test_nothing_to_draw_is_said(found):
    with pytest.raises(ValueError, match="no claim has an effect"):
        ledger.forest([one for one in found if not one.effect or one.collapsed], "none")


@pytest.fixture(scope="module")
def open_page(found, browser, tmp_path_factory):
    """Opens the counts and the table as a file in a browser of the given width, without a server or a network."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(STATIC, folder / "_static")
    (folder / "book").mkdir()
    body = ledger.counts_table(found) + '<h2 id="claims">All</h2>' + ledger.claims_table(found)
    html = f'<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><article class="bd-article">{body}</article>'
    (folder / "book" / "page.html").write_text(html, encoding="utf-8")

    def open_at(width, hash=""):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        page = context.new_page()
        faults = page.faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{(folder / 'book' / 'page.html').as_uri()}{hash}")
        return page

    return open_at


def visible(page, key):
    rows = page.eval_on_selector_all(
        "table.ledger tbody tr", "rows => rows.filter(r => !r.hidden).map(r => ({...r.dataset, id: r.id}))"
    )
    return [row.get(key) for row in rows]


def test_the_table_filters_and_sorts_by_keyboard(open_page, found):
    page = open_page(1000)
    assert len(visible(page, "id")) == 25 and f"{len(found)} claims, the first 25 shown" in page.inner_text("output")
    page.select_option("[name=verdict]", "contradicted")
    expected = [one for one in found if one.verdict == "contradicted"]
    assert visible(page, "id") == [one.claim.id for one in expected]
    page.focus("th[data-key=effect] button")
    page.keyboard.press("Enter")
    effects = [float(value) for value in visible(page, "effect")]
    assert effects == sorted(effects) and page.get_attribute("th[data-key=effect]", "aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert [float(value) for value in visible(page, "effect")] == sorted(effects, reverse=True)
    page.click("[name=clear]")
    assert len(visible(page, "id")) == len(found)
    paper = visible(page, "paper")
    page.select_option("[name=order]", "paper")
    paper = visible(page, "paper")
    assert all(not value for value in paper[paper.index("") :]), "claims without a number of the paper come last"
    page.fill("[name=words]", "unseen description")
    assert 0 < len(visible(page, "id")) < len(found) / 4
    page.click("[data-show-verdict='not run yet'][data-show-system=maco]")
    assert set(visible(page, "says")) == {"not run yet"} and set(visible(page, "system")) == {"maco"}
    assert not page.faults


def test_a_link_to_a_claim_shows_it(open_page, found):
    last = found[-1].claim.id
    page = open_page(1000, f"#{last}")
    assert last in visible(page, "id") and page.locator(f"[id='{last}']").is_visible()


def test_on_a_phone_nothing_is_cut(open_page):
    page = open_page(390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cut = "rows => rows.filter(r => !r.hidden && (b => b.right > 390 || b.width < 60)(r.querySelector('.verdict').getBoundingClientRect())).length"
    assert page.eval_on_selector_all("table.ledger tbody tr", cut) == 0
    top = "r => r.querySelector('.verdict').getBoundingClientRect().top < r.querySelector('p').getBoundingClientRect().top"
    assert page.eval_on_selector("table.ledger tbody tr", top), "the verdict comes first"

"""`report` in a real browser: Debian's Chromium, without a window. Nothing is said on its console, and nothing is loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handwritten import gpu_trace, loop_trace, trace, two_layer_trace
from many_ranks import meeting_trace
from pages import AWKWARD, SHOWN, awkward_trace, wide_trace

import torchprof
from torchprof.advice.finding import Finding, Worth
from torchprof.advice.findings import Findings

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium: apt install chromium, or name one in CHROMIUM")

Page = Any
Open = Callable[..., Page]
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
H100 = torchprof.Ceilings("NVIDIA H100", "float32", 0, flops=50e12, bytes=3e12)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens the report of a trace; at the end, no page may have complained or asked for anything."""
    pages, complaints, requests = [], [], []

    def open_report(trace: torchprof.Trace | torchprof.Ranks, scheme: str = "light", width: int = 1400, **options: Any) -> Page:
        path = tmp_path / "report.html"
        torchprof.report(trace, path, **options)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.add_init_script("window.boo = () => { window.harmed = true; };")  # what awkward names call
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_report
    for page in pages:
        page.close()
    assert complaints == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob"}


def names(page: Page, table: str = "modules") -> list[str]:
    """What the rows that are shown are called, without markers."""
    return list(page.locator(f'.table[data-table="{table}"] tbody tr > th').all_inner_texts())


def drawn(page: Page, figure: str) -> Page:
    """A chart, when plotly has drawn it."""
    place = page.locator(f'.figure[data-figure="{figure}"]')
    place.scroll_into_view_if_needed()
    place.locator("svg.main-svg").first.wait_for()
    return place


def planted(monkeypatch: pytest.MonkeyPatch, *found: Finding) -> None:
    """The findings of every trace are these."""
    monkeypatch.setattr("torchprof.reporting.report.findings", lambda _: Findings(found, {}, {}))


def test_every_chart_is_drawn_and_the_page_is_as_wide_as_the_window(open_page: Open) -> None:
    page = open_page(gpu_trace(), ceilings=H100)
    for figure in ("icicle", "steps", "gpu", "roofline"):
        drawn(page, figure)
    page = open_page(loop_trace(), width=900)
    for figure in ("memory", "steps"):
        drawn(page, figure)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


OVERFLOWING = """[...document.querySelectorAll('.scroll')].filter(place => place.scrollWidth > place.clientWidth)
.map(place => [place.closest('[data-table]').dataset.table, place.scrollWidth, place.clientWidth])"""


def test_no_table_scrolls_where_the_window_is_wide_enough(open_page: Open) -> None:
    came = [[10, 10, 18], [10, 11, 18]]
    ranks = torchprof.Ranks.of([meeting_trace(rank, came, host=f"node{rank}") for rank in range(3)])
    for of in (ranks, gpu_trace(), loop_trace()):
        page = open_page(of, width=2400)
        assert page.evaluate(OVERFLOWING) == []
        for button in page.locator("thead tr > :last-child button").all():  # whose arrow is shown then, at the edge
            button.press("Enter")
        assert page.evaluate(OVERFLOWING) == []


@pytest.mark.parametrize("trace", [trace(), replace(two_layer_trace(), model=None), trace(facts={"aggregate": True})])
def test_traces_that_have_little(open_page: Open, trace: torchprof.Trace) -> None:
    page = open_page(trace)
    assert page.locator("h1").inner_text()
    for place in page.locator(".figure").all():
        drawn(page, place.get_attribute("data-figure"))


def test_a_table_sorts_by_a_header_and_says_so(open_page: Open) -> None:
    page = open_page(gpu_trace())
    rows = torchprof.by_op(gpu_trace()).rows
    button = page.locator('.table[data-table="ops"]').get_by_role("button", name="Self", exact=True)
    header = button.locator("xpath=..")
    for order, descending in (("descending", True), ("ascending", False)):
        button.press("Enter")
        assert header.get_attribute("aria-sort") == order
        times = {row["name"]: row["self"] for row in rows}
        shown = [times[name] for name in names(page, "ops")]
        assert shown == sorted(shown, reverse=descending)
    button.press("Space")
    assert header.get_attribute("aria-sort") == "none"
    assert names(page, "ops") == [row["name"] for row in rows]


def test_a_tree_sorts_below_each_module(open_page: Open) -> None:
    page = open_page(gpu_trace())
    page.locator('.table[data-table="modules"] thead button', has_text="Time").click()
    assert names(page) == ["other", "Net", "fc (Linear)", "act (ReLU)", "outside modules"]


def test_modules_unfold_and_fold_by_the_keyboard(open_page: Open) -> None:
    page = open_page(wide_trace(400))
    assert names(page) == ["Net", "blocks (ModuleList)", "other"]
    twist = page.locator('tr[data-row="1"] .twist')
    assert twist.get_attribute("aria-expanded") == "false"
    twist.press("Enter")
    assert twist.get_attribute("aria-expanded") == "true"
    assert len(names(page)) == 3 + 40
    page.keyboard.press("Space")  # the button is still the one that keys go to
    assert names(page) == ["Net", "blocks (ModuleList)", "other"]
    page.get_by_role("button", name="Unfold all").click()
    assert names(page)[:4] == ["Net", "blocks (ModuleList)", "0 (Block)", "layer0 (Linear)"]
    page.get_by_role("button", name="Fold all", exact=True).click()
    assert names(page) == ["Net", "other"]


def test_a_search_shows_what_is_found_and_what_is_above_it(open_page: Open) -> None:
    page = open_page(wide_trace(400))
    search = page.get_by_role("searchbox", name="Search in Module")
    search.fill("BLOCKS.7.LAYER3")
    assert names(page) == ["Net", "blocks (ModuleList)", "7 (Block)", "layer3 (Linear)"]
    assert page.get_by_role("status").first.inner_text() == "1 found"
    page.get_by_label("as a list").first.check()
    assert names(page) == ["blocks.7.layer3"]
    search.fill("nothing of that name")
    assert names(page) == []


def test_of_many_modules_some_rows_are_made_and_the_others_on_demand(open_page: Open) -> None:
    page = open_page(wide_trace(1500))
    page.get_by_role("button", name="Unfold all").click()
    assert len(names(page)) < 300
    page.get_by_role("button", name="Show 200 more of").first.click()
    assert len(names(page)) > 200


def test_findings_lead_to_rows_and_sections_that_are_then_seen(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    worth = Worth("step time", 10, 20, 100, measured=False, basis="a guess")
    planted(
        monkeypatch, Finding("some_rule", AWKWARD, AWKWARD, "https://example.org", worth, "blocks.7.layer3", (), (AWKWARD,))
    )
    page = open_page(wide_trace(400))
    assert page.locator(".findings h3").inner_text() == SHOWN
    assert page.locator(".worth").inner_text() == "10.0 to 20.0% of the step time, 0.01 us to 0.02 us (estimated: a guess)"
    page.get_by_role("link", name="module blocks.7.layer3").click()
    row = page.locator("tr.found")
    assert row.locator("th").inner_text() == "layer3 (Linear)"
    page.wait_for_function("document.querySelector('tr.found').getBoundingClientRect().top < innerHeight")
    assert page.evaluate("document.activeElement.classList.contains('found')")
    page.get_by_role("link", name="Steps").last.click()
    page.wait_for_function("document.getElementById('steps').getBoundingClientRect().top < innerHeight")


def test_links_within_the_page_have_targets(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, Finding("some_rule", "What", "Do", "javascript:boo()", None, "not.on.the.page", ("train.py:3",)))
    for made in (gpu_trace(), loop_trace(), trace(facts={"phase_ns": [1, 0, 0, 0, 0, 0]})):
        page = open_page(made)
        links = "[...document.querySelectorAll('a[href^=\"#\"]')].map((link) => link.getAttribute('href').slice(1))"
        assert page.evaluate(f"{links}.filter((name) => !document.getElementById(name))") == []
        assert page.locator(".places a").count() == 0  # what is on no page is text
        assert page.locator('a[href^="javascript"]').count() == 0


def test_the_icicle_shows_the_figure_that_is_chosen(open_page: Open) -> None:
    page = open_page(gpu_trace())
    chart = drawn(page, "icicle")
    assert "370 us" in chart.inner_text()
    page.locator("#icicle-by").select_option(label="Device")
    page.wait_for_function("document.querySelector('[data-figure=icicle]').textContent.includes('230 us')")
    assert "fc" in chart.text_content()


def hover(page: Page, figure: str, x: float, y: float = 0.5) -> str:
    """What is said where a chart is pointed at, in parts of its plot."""
    chart = drawn(page, figure)
    place = chart.locator(".nsewdrag").first if chart.locator(".nsewdrag").count() else chart
    box = place.bounding_box()
    page.mouse.move(box["x"] + x * box["width"] - 2, box["y"] + y * box["height"])
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    chart.locator("g.hovertext").first.wait_for()
    return str(chart.locator("g.hovertext").first.text_content())


def test_pointing_at_charts_says_what_is_there(open_page: Open) -> None:
    page = open_page(loop_trace())
    assert "alive, the largest" in hover(page, "memory", 0.98)
    assert "step 1" in hover(page, "steps", 0.5, 0.9)


def test_names_with_markup_stay_text_in_tables_and_charts(open_page: Open) -> None:
    page = open_page(awkward_trace(), title=AWKWARD)
    assert page.locator("h1").inner_text() == SHOWN
    assert SHOWN in page.title()
    assert any(SHOWN in name for name in names(page))
    assert SHOWN in drawn(page, "icicle").text_content()
    assert 'g src=x onerror="boo()">' in hover(page, "memory", 0.4)  # a long path is cut at its beginning
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("'harmed' in window") is False


def luminance(color: str) -> float:
    red, green, blue = (int(part) / 255 for part in color.partition("(")[2].rstrip(")").split(",")[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(page: Page, selector: str) -> float:
    """Of the text of an element with the paper: see the definition of contrast ratio in WCAG 2."""
    ink = page.eval_on_selector(selector, "(found) => getComputedStyle(found).color")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes_and_the_button_switches(open_page: Open, scheme: str) -> None:
    page = open_page(gpu_trace(), scheme)
    for selector in ("h1", ".facts", ".verdict b", ".below", "td", "nav a", "thead button"):
        assert contrast(page, selector) >= 4.5, selector
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(before) > 0.5) == (scheme == "light")
    axis = drawn(page, "steps").locator(".xtick text").first
    color = axis.evaluate("(tick) => tick.style.fill")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert (luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.5) == (scheme == "dark")
    page.wait_for_function(
        "(before) => document.querySelector('[data-figure=steps] .xtick text').style.fill !== before", arg=color
    )
    assert all(contrast(page, selector) >= 4.5 for selector in ("h1", ".facts", ".verdict b", ".below"))


def test_a_page_can_be_printed(open_page: Open) -> None:
    page = open_page(gpu_trace())
    page.emulate_media(media="print")
    assert not page.locator(".bar").is_visible()
    assert page.pdf()[:4] == b"%PDF"

"""What a notebook shows: a table, which folds, and which needs neither scripts nor styles to be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from handwritten import gpu_trace, loop_trace, two_layer_trace
from html_tables import tables_of

import torchprof
from torchprof import Table
from torchprof.analysis.model.rows import Row
from torchprof.analysis.model.totals import Totals
from torchprof.rendering.printed import Printed
from torchprof.tables.summary import Summary, summary_table

AWKWARD = '<script>alert("x")</script>\n\x1b[31m & [red]'
SHOWN = r'<script>alert("x")</script>\n\x1b[31m & [red]'


def tree() -> Table:
    depths = [0, 1, 2, 2, 1]
    rows = [Row(str(at), f"m{at}", "M", depth, at, params=1000 * at) for at, depth in enumerate(depths)]
    return summary_table(rows, Totals(forward=10), ["calls", "params"])


def test_a_table_has_the_texts_that_are_printed() -> None:
    table = torchprof.by_module(two_layer_trace())
    (shown,) = tables_of(table._repr_html_())
    lines = str(table).splitlines()
    assert shown.headers == re.split("  +", lines[1])
    assert [row.cells[0].strip("\u2003") for row in shown.tbody] == ["Net", "fc (Linear)", "act (ReLU)", "unused (Linear)"]
    assert shown.tbody[1].cells[1:] == re.split("  +", lines[4].partition("fc (Linear)")[2].strip())
    assert shown.tfoot[0].cells == ["\n".join(each if isinstance(each, str) else each.line for each in table.footer)]


def test_figures_are_on_the_right_and_names_on_the_left() -> None:
    rows = [{"name": "a", "calls": 1, "module": "fc", "note": "seldom"}]
    (shown,) = tables_of(Table("Op", rows, ("calls", "module"))._repr_html_())
    assert shown.tbody[0].cells == ["a", "1", "fc", "seldom"]
    assert shown.tbody[0].classes == [None, None, "l", "l"]
    style = Table("Op", rows, ("calls",))._repr_html_().partition("</style>")[0]
    assert re.search(r"td\{text-align:right", style)
    assert "font-variant-numeric:tabular-nums" in style
    assert re.search(r">:first-child,\S+ \S+ \.l\{text-align:left\}", style)


def test_a_tree_folds_by_levels() -> None:
    (shown,) = tables_of(tree()._repr_html_())
    assert shown.attributes == {"role": "treegrid"}
    assert [row.attributes["aria-level"] for row in shown.tbody] == ["1", "2", "3", "3", "2"]
    assert [row.attributes.get("aria-expanded") for row in shown.tbody] == ["true", "true", None, None, None]
    assert shown.body["onclick"]
    assert shown.column("Params") == ["-", "1,000", "2,000", "3,000", "4,000"]


def test_without_scripts_and_styles_all_is_visible_and_spaces_show_the_tree() -> None:
    html = tree()._repr_html_()
    bare = re.sub(r"<style>.*?</style>| onclick=\"[^\"]*\"| class=\"[^\"]*\"", "", html, flags=re.DOTALL)
    (shown,) = tables_of(bare)
    assert not any("hidden" in row.attributes for row in shown.tbody)
    depths = [len(row.cells[0]) - len(row.cells[0].lstrip("\u2003")) for row in shown.tbody]
    assert depths == [0, 1, 3, 3, 2], "rows that fold have a button in place of the last space"
    assert "[onclick] button{visibility:visible}" in html, "where the handler is taken out, so is what would call it"


def test_a_list_does_not_fold() -> None:
    (shown,) = tables_of(torchprof.by_op(loop_trace())._repr_html_())
    assert shown.attributes == shown.body == {}
    assert "<button" not in torchprof.by_op(loop_trace())._repr_html_()


def test_parameters_are_rows_below_their_module() -> None:
    (shown,) = tables_of(Summary(two_layer_trace(), list_parameters=True)._repr_html_())
    assert [row.cells[0].strip("\u2003") for row in shown.tbody][1:4] == [
        "fc (Linear)",
        "weight [4, 3] float32",
        "bias [4] float32",
    ]
    assert [row.attributes["aria-level"] for row in shown.tbody][1:4] == ["2", "3", "3"]
    frozen = next(row for row in shown.tbody if "weight [2, 2]" in row.cells[0])
    assert frozen.cells[-1] == "frozen"
    assert len(frozen.cells) == len(shown.headers)


def test_rows_that_have_little_to_say_and_the_one_that_raised_are_told_apart() -> None:
    rows = [Row("", "Net", "Net", 0, 1), Row("a", "a", "A", 1, 1, failed=True, note="raised ValueError"), Row("b", "b", "B", 1)]
    (shown,) = tables_of(summary_table(rows, Totals(forward=10), ["calls"])._repr_html_())
    assert [row.attributes.get("class") for row in shown.tbody] == ["root", "failed", "dim"]


def test_the_class_of_a_module_is_lighter_than_its_name() -> None:
    rows = [Row("a", "a", "Conv2d", 0, 1), Row("b", "0..5", "Block", 0, copies=6)]
    html = summary_table(rows, Totals(), ["calls"])._repr_html_()
    assert "a <i>(Conv2d)</i>" in html
    assert "0..5 <i>(Block)</i> x6" in html


def test_names_are_text_and_nothing_else() -> None:
    rows = [{"name": AWKWARD, "calls": 1, "module": AWKWARD, "note": AWKWARD}]
    html = Table(AWKWARD, rows, ("calls", "module"), (AWKWARD,), details=lambda row: [(AWKWARD, AWKWARD)])._repr_html_()
    assert "<script" not in html
    (shown,) = tables_of(html)
    assert shown.headers[0] == SHOWN
    assert shown.tbody[0].cells == [SHOWN, "1", SHOWN, SHOWN]
    assert shown.tbody[1].cells[0].strip("\u2003") == SHOWN
    assert shown.tfoot[0].cells == [SHOWN]


@pytest.mark.parametrize(
    "made",
    [
        lambda: torchprof.memory(loop_trace()),
        lambda: torchprof.gpu(gpu_trace()),
        lambda: Summary(two_layer_trace()),
        lambda: torchprof.by_step(loop_trace()),
    ],
)
def test_what_prints_several_tables_shows_several(made: Callable[[], Printed]) -> None:
    printed = made()
    html = printed._repr_html_()
    lines = str(printed).splitlines()
    headers = [
        line for above, line, below in zip(lines, lines[1:], lines[2:], strict=False) if (above[0], below[0]) == ("-", "=")
    ]
    assert [table.headers[0] for table in tables_of(html)] == [line.split("  ")[0] for line in headers]
    assert html.count("<style>") == 1
    assert "<pre" not in html


def test_it_is_one_element_without_ids_and_with_nothing_to_load() -> None:
    class Reader(HTMLParser):
        depth, roots = 0, 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "img", "iframe")
            names = {name for name, _ in attrs}
            assert not names & {"id", "src", "href"}
            if tag == "div":
                self.roots += not self.depth
                self.depth += 1

        def handle_endtag(self, tag: str) -> None:
            self.depth -= tag == "div"

    reader = Reader()
    html = torchprof.memory(loop_trace())._repr_html_()
    reader.feed(html)
    assert (reader.depth, reader.roots) == (0, 1)
    assert html.startswith('<div class="torchprof">')
    assert "url(" not in html
    assert "@import" not in html


def test_its_style_is_for_its_own_elements_only() -> None:
    style = re.search(r"<style>(.*?)</style>", tree()._repr_html_(), re.DOTALL)
    assert style is not None
    rules = re.sub(r"@media print\{(.*)\}", r"\1", style.group(1))
    selectors = [selector for rule in re.findall(r"([^{}]+)\{[^{}]*\}", rules) for selector in rule.split(",")]
    assert len(selectors) > 20
    assert all(".torchprof" in selector for selector in selectors)


def test_the_table_of_torchsummary_is_shown_to_the_character() -> None:
    recorded = two_layer_trace()
    recorded.facts.update(batch_size=-1, input_sizes=[[2, 3]])
    found = Summary(recorded, "torchsummary")
    assert f"<pre>{str(found).replace(chr(10), '<br>')}</pre>" in found._repr_html_()


def test_ten_thousand_rows_take_less_than_their_text_twice() -> None:
    rows = [Row("", "Net", "Net", 0, 1)] + [
        Row(f"a{at}", f"a{at}", "Linear", 1, 1, ((8, 128),), ((8, 128),), 4096, 16_512, forward=1234) for at in range(10_000)
    ]
    table = summary_table(rows, Totals(forward=10**9))
    assert len(table._repr_html_().encode()) < 2 * len(str(table).encode())

"""`findings`: what the rules found, in one list, and its text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from handwritten import gpu_trace, trace

import torchprof
from torchprof.advice.finding import Finding, Worth
from torchprof.advice.findings import Findings, worth_text
from torchprof.advice.registry import all_rules

MS = 1_000_000
DATA = Worth("step time", 0, 45 * MS, 150 * MS, measured=True, basis="the time in which data was waited for")
FINDING = Finding("a_rule", "The host waits", "Wait less.", "https://docs.pytorch.org/a/page.html", DATA)


def test_a_good_loop_is_told_so_and_what_was_looked_for() -> None:
    found = torchprof.findings(trace(steps=[{"start": 0, "end": 1000, "forward": 500}]))
    assert not found
    first, looked_for, *_ = str(found).splitlines()
    assert found.not_told
    assert first == "Nothing to improve was found in what the recording tells"
    assert str(Findings((), {"a_rule": "waits"}, {})).splitlines()[0] == "Nothing to improve was found"
    assert looked_for.startswith("Looked for: ")
    assert "waits for data" in looked_for


def test_what_a_trace_does_not_tell_is_named_with_the_reason() -> None:
    found = torchprof.findings(trace(facts={"aggregate": True, "duration_ns": 5}))
    assert found.not_told["copies"] == "the recording was aggregated, which keeps no single ops"
    assert "(the recording was aggregated, which keeps no single ops)" in str(found)
    assert str(Findings((), {}, {"a_rule": "no ops"})).splitlines() == [
        "The trace does not tell what could be better",
        "Not looked for: a_rule (no ops)",
    ]


def test_what_is_worth_most_comes_first() -> None:
    shares = [each.worth.share for each in torchprof.findings(gpu_trace()) if each.worth is not None]
    assert len(shares) > 1
    assert shares == sorted(shares, reverse=True)


def test_the_text_of_a_finding_in_full() -> None:
    finding = replace(FINDING, module="fc", lines=("a.py:1", "b.py:2", "c.py:3", "d.py:4"), details=tuple("12345678"))
    assert str(Findings((finding,), {"a_rule": "waits"}, {})).splitlines() == [
        "1. The host waits",
        "   Worth: up to 30.0% of the step time, 45.0 ms (measured: the time in which data was waited for)",
        "   At: fc, a.py:1, b.py:2, c.py:3 and 1 more",
        *(f"   - {detail}" for detail in "123456"),
        "   - 2 more",
        "   Do: Wait less.",
        "   Why: https://docs.pytorch.org/a/page.html",
    ]


def test_of_several_findings_the_worth_does_not_add_up() -> None:
    text = str(Findings((FINDING, replace(FINDING, worth=None)), {"a_rule": "waits"}, {}))
    assert "page.html\n\n2. The host waits\n   Do: Wait less.\n" in text
    assert "Findings overlap: what they are worth does not add up" in text


def test_long_lines_are_wrapped_further_in_and_addresses_stay_whole() -> None:
    lines = Findings((FINDING,), {"a_rule": "waits"}, {}).to_text(width=40).splitlines()
    assert lines[1:4] == [
        "   Worth: up to 30.0% of the step time,",
        "     45.0 ms (measured: the time in",
        "     which data was waited for)",
    ]
    assert "   Why: https://docs.pytorch.org/a/page.html" in lines


@pytest.mark.parametrize(
    ("worth", "text"),
    [
        (DATA, "up to 30.0% of the step time, 45.0 ms (measured: the time in which data was waited for)"),
        (replace(DATA, low=45 * MS), "30.0% of the step time, 45.0 ms (measured: the time in which data was waited for)"),
        (replace(DATA, low=15 * MS, basis="b"), "10.0 to 30.0% of the step time, 15.0 ms to 45.0 ms (measured: b)"),
        (
            Worth("peak memory", 1024, 2048, 4096, False, "b"),
            "25.0 to 50.0% of the peak memory, 1.0 KiB to 2.0 KiB (estimated: b)",
        ),
        (Worth("peak memory", 0, 2048, 0, False, "b"), "up to 2.0 KiB (estimated: b)"),
    ],
)
def test_worth_in_words(worth: Worth, text: str) -> None:
    assert worth_text(worth) == text


def test_what_is_no_trace_is_refused() -> None:
    with pytest.raises(torchprof.ModuleTypeError, match="not int"):
        torchprof.findings(5)  # type: ignore[arg-type]


def test_every_rule_stands_in_the_file_of_its_name() -> None:
    assert all(rule.find.__module__.endswith(f".{rule.name}") for rule in all_rules())
    assert len(all_rules()) > 0


def test_in_a_notebook_names_stay_text_and_addresses_are_links() -> None:
    finding = replace(FINDING, what="<b>Net</b> waits", details=("cuda:0: 5 ms",), lines=('"><script>.py:1',))
    html = Findings((finding,), {"a_rule": "waits"}, {})._repr_html_()
    assert "<p><b>1. &lt;b&gt;Net&lt;/b&gt; waits</b></p>" in html
    assert "<p>\u2013 cuda:0: 5 ms</p>" in html
    assert '<p><b>Why:</b> <a href="https://docs.pytorch.org/a/page.html">https://docs.pytorch.org/a/page.html</a></p>' in html
    assert "<script>" not in html
    no_link = replace(FINDING, why="javascript:alert(1)")
    assert "<a " not in Findings((no_link,), {"a_rule": "waits"}, {})._repr_html_()

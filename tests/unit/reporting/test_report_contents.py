"""`report`: what is in its file, without a browser: the figures of the tables, and no name as markup."""

from __future__ import annotations

import builtins
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handwritten import gpu_trace, loop_trace, trace, two_layer_trace
from pages import AWKWARD, SHOWN, awkward_trace, embedded, wide_trace

import torchprof
from torchprof.allocator.block_categories import SNAPSHOT_CATEGORIES
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.reporting.figure import CAUSE_COLORS, PHASE_COLORS, category_color

H100 = torchprof.Ceilings("NVIDIA H100", "float32", 0, flops=50e12, bytes=3e12)


def page_of(trace: torchprof.Trace, folder: Path, **options: Any) -> Path:
    page = folder / "report.html"
    torchprof.report(trace, page, **options)
    return page


def column(table: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in table["columns"] if each["name"] == name]
    return dict(found)


def test_the_table_by_module_has_the_texts_and_figures_of_by_module(tmp_path: Path) -> None:
    shown = embedded(page_of(gpu_trace(), tmp_path))["tables"]["modules"]
    table = torchprof.by_module(gpu_trace())
    (grid,) = table.parts()
    assert shown["names"] == list(grid.names)
    assert shown["depths"] == list(grid.depths)
    assert shown["keys"] == ["Net", "fc", "act", "outside modules", "other"]
    for name, printed in zip(table.columns, grid.columns, strict=True):
        assert column(shown, name)["texts"] == list(printed.texts)
        assert column(shown, name)["values"] == pytest.approx([row[name] for row in table.rows], rel=1e-6)
    assert shown["footer"][: len(grid.footer)] == list(grid.footer)


def test_the_peak_of_a_module_has_what_those_below_it_hold(tmp_path: Path) -> None:
    made = trace(
        model=two_layer_trace().model,
        strings=["Net", "Linear"],
        modules=[{"address": 100, "type": 0}, {"address": 101, "type": 1}],
        module_calls=[{"start": 0, "end": 100}, {"start": 10, "end": 90, "module": 1, "parent": 0}],
        allocations=[
            {"start": 5, "bytes": 100, "module_call": 0, "module": 0},
            {"start": 20, "bytes": 30, "module_call": 1, "module": 1},
            {"start": 95, "end": 96, "bytes": 7},
            {"start": 97, "bytes": 1},
        ],
        facts={"memory": True},
    )
    at_peak = dict(zip(*(_of_modules(made, tmp_path, "at_peak")), strict=True))
    assert at_peak == {"Net": 130, "fc": 30, "act": 0, "unused": 0}
    assert torchprof.memory(made).peak.bytes == 137  # of which 7 belong to no module


def _of_modules(trace: torchprof.Trace, folder: Path, name: str) -> tuple[list[str], list[float]]:
    table = embedded(page_of(trace, folder))["tables"]["modules"]
    return table["keys"], column(table, name)["values"]


def test_with_ceilings_modules_have_their_utilization(tmp_path: Path) -> None:
    table = embedded(page_of(gpu_trace(), tmp_path, ceilings=H100))["tables"]["modules"]
    device = dict(zip(table["keys"], column(table, "device")["values"], strict=True))
    mfu = dict(zip(table["keys"], column(table, "mfu")["values"], strict=True))
    assert mfu["fc"] == pytest.approx(2 * 2 * 512 * 1024 * 1024 / (device["fc"] * 1e-9 * 50e12), rel=1e-6)
    assert mfu["act"] is None  # no FLOPs, which is no utilization of 0
    assert any(line.startswith("MFU: of what NVIDIA H100 can compute") for line in table["footer"])


def test_sections_without_data_say_why_and_what_to_record(tmp_path: Path) -> None:
    text = page_of(trace(facts={"memory": False, "shapes": False, "counts_flops": False}), tmp_path).read_text()
    below = text.partition('id="missing"')[2]
    for said in ("memory=True", "prof.step()", "stacks=True", "shapes=True"):
        assert said in below
    assert 'id="gpu"' not in text
    assert 'id="kernels"' not in text


def test_an_aggregated_recording_says_what_it_does_not_have(tmp_path: Path) -> None:
    page = page_of(trace(facts={"aggregate": True}), tmp_path)
    assert "aggregate=True" in page.read_text().partition('id="missing"')[2]


def test_names_are_text_whatever_they_contain(tmp_path: Path) -> None:
    page = page_of(awkward_trace(), tmp_path, title=AWKWARD)
    text = page.read_text()
    ours = text.partition("* plotly.js")[0] + text.rpartition("</script>")[2]  # without plotly's own text
    assert "<script>boo" not in text
    assert "<img" not in ours
    assert "\x1b" not in text
    assert len(re.findall("<script", text)) == text.count("</script") == 5 + text.count("<script>alert")
    data = embedded(page)
    assert f"{SHOWN} ({SHOWN})" in data["tables"]["modules"]["names"] or SHOWN in data["tables"]["modules"]["keys"]
    assert data["tables"]["ops"]["names"] == [SHOWN]
    for hover in data["figures"]["memory"]["data"][-2]["hovertext"]:
        assert "<script" not in hover  # of what plotly reads as HTML, names are escaped


def test_nothing_is_loaded_and_the_browser_is_told_so(tmp_path: Path) -> None:
    text = page_of(loop_trace(), tmp_path).read_text()
    assert "default-src 'none'" in text
    head = text.partition("<script")[0]
    assert not re.findall(r"<link|@import|src=", head)


def test_ten_thousand_modules_fit_on_a_page(tmp_path: Path) -> None:
    page = page_of(wide_trace(10_000), tmp_path)
    assert len(embedded(page)["tables"]["modules"]["names"]) >= 10_000
    assert page.stat().st_size < 10_000_000


def test_of_more_modules_those_of_the_least_time_are_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchprof.reporting.module_tree.MOST_MODULES", 120)
    made = wide_trace(200)
    table = embedded(page_of(made, tmp_path))["tables"]["modules"]
    assert 110 < len(table["names"]) <= 120
    whole = torchprof.by_module(made).rows
    left = len(whole) - len(table["names"])
    assert table["footer"][0].startswith(f"{left} further modules")
    times = {row["path"] or row["name"]: row["time"] for row in whole}
    kept = set(table["keys"])
    longest = max(time for key, time in times.items() if key not in kept)
    assert all(times[key] >= longest for key in kept if ".layer" in key)


def test_a_page_of_a_million_ops_is_small(tmp_path: Path) -> None:
    count = 1_000_000
    made = trace(strings=[f"aten::op{at}" for at in range(50)], signatures=[{"name": at} for at in range(50)])
    starts = np.arange(count, dtype=np.int64) * 10
    ops = np.zeros(count, dtype=made.ops.dtype)
    ops["start"], ops["end"], ops["signature"] = starts, starts + 9, np.arange(count) % 50
    for name in ("parent", "module_call", "sequence_nr"):
        ops[name] = -1
    blocks = np.zeros(count // 2, dtype=made.allocations.dtype)
    blocks["start"], blocks["end"], blocks["bytes"] = starts[::2], starts[::2] + 5000, 64 + starts[::2] % 999
    for name in ("op", "free_op", "module_call", "module"):
        blocks[name] = -1
    steps = np.zeros(1000, dtype=made.steps.dtype)
    steps["start"], steps["end"], steps["number"] = starts[::1000], starts[::1000] + 10_000, np.arange(1000)
    from dataclasses import replace

    made = replace(made, ops=ops, allocations=blocks, steps=steps, facts={"duration_ns": count * 10, "memory": True})
    page = page_of(made, tmp_path)
    assert page.stat().st_size < 6_500_000  # of which plotly.js is 4.8
    peak = next(each for each in embedded(page)["figures"]["memory"]["data"] if each["name"] == "peak")
    assert peak["y"] == [torchprof.memory(made).peak.bytes]


def test_the_file_is_written_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "report.html"
    page.write_text("before")
    monkeypatch.setattr("torchprof.reporting.report.contents", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        torchprof.report(loop_trace(), page)
    assert page.read_text() == "before"
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize("as_path", [str, lambda path: str(path).encode(), Path])
def test_paths_of_every_type(tmp_path: Path, as_path: Any) -> None:
    torchprof.report(loop_trace(), as_path(tmp_path / "page"))
    assert (tmp_path / "page").read_text().startswith("<!DOCTYPE html>")


def test_what_is_no_trace_no_path_or_no_title_is_refused(tmp_path: Path) -> None:
    with pytest.raises(torchprof.ModuleTypeError, match="not int"):
        torchprof.report(3, tmp_path / "page")  # type: ignore[arg-type]
    with pytest.raises(torchprof.ArgumentError, match="path=3"):
        torchprof.report(loop_trace(), 3)  # type: ignore[arg-type]
    with pytest.raises(torchprof.ArgumentError, match="title=3"):
        torchprof.report(loop_trace(), tmp_path / "page", title=3)  # type: ignore[arg-type]
    with pytest.raises(torchprof.ArgumentError, match="ceilings=3"):
        torchprof.report(loop_trace(), tmp_path / "page", ceilings=3)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_without_a_package_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    really = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(torchprof.MissingPackageError, match=rf"{package}.*torchprof-recorder\[report\]"):
        torchprof.report(loop_trace(), tmp_path / "page")


def test_the_memory_of_every_device_that_held_some_is_drawn(tmp_path: Path) -> None:
    few = {"start": 4, "end": 5, "bytes": 1, "device_type": 20, "device_index": 0}
    blocks = [{"start": 1, "bytes": 200}, {"start": 2, "bytes": 70, "device_type": 1, "device_index": 0}]
    made = trace(
        allocations=[*blocks, {"start": 3, "bytes": 7, "device_type": 1, "device_index": 1}, few], facts={"memory": True}
    )
    figures = embedded(page_of(made, tmp_path))["figures"]
    peaks = {name: figure["data"][-1]["y"] for name, figure in figures.items() if name.startswith("memory")}
    assert peaks == {"memory": [200], "memory_1": [70], "memory_2": [7]}


FRAMES = [{"filename": AWKWARD, "line": 7, "name": AWKWARD}, {"filename": "train.py", "line": 3, "name": "step"}]
BLOCKS = [{"size": 512, "state": "active_allocated", "frames": FRAMES}, {"size": 1536, "state": "inactive"}]
SEGMENT = {"device": 0, "address": 4096, "total_size": 2048, "segment_type": "small", "blocks": BLOCKS}


def test_a_memory_snapshot_has_a_page_of_its_memory(tmp_path: Path) -> None:
    account = torchprof.memory({"segments": [SEGMENT], "device_traces": [[]]})
    page = page_of(account, tmp_path)
    data = embedded(page)
    assert "Allocated were <b>512 B</b>" in page.read_text()
    (grid,) = account.end_table.parts()
    assert data["tables"]["end_stacks"]["columns"][0]["texts"] == list(grid.columns[0].texts)
    assert data["tables"]["end_stacks"]["details"] == {"0": ["from train.py:3 step"]}
    assert data["figures"] == {}
    assert "<script>boo" not in page.read_text()


def test_the_colors_of_categories_and_phases_are_those_of_the_style() -> None:
    style = (files("torchprof.reporting") / "templates" / "page.css").read_text()
    for name in (*CATEGORIES, *SNAPSHOT_CATEGORIES):
        assert style.count(f"{category_color(name)}:") == 2, name  # light and dark
    for color in (*PHASE_COLORS.values(), *CAUSE_COLORS.values()):
        assert style.count(f"{color}:") == 2, color

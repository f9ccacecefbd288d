"""From a trace to its report, and from the report to what Chromium shows of it: seconds, and bytes of the file."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SideBySide
from handwritten import module, trace

import torchprof
from torchprof.trace.model import Model
from torchprof.trace.schema import Phase

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
BLOCKS, STEPS, LIFETIME = 200, 100, 2_000_000


def large_trace(count: int) -> torchprof.Trace:
    """So many ops, each with a block that it allocates, in 100 steps of a model of 200 blocks."""
    infos = [module("", "Net", -1, 1), module("h", "ModuleList", 0, 2)]
    infos += [module(f"h.{at}", "Block", 1, 3 + at) for at in range(BLOCKS)]
    made = trace(
        model=Model(tuple(infos)),
        strings=[f"aten::op{at}" for at in range(300)],
        signatures=[{"name": at % 300} for at in range(2000)],
        modules=[{"address": info.address} for info in infos],
    )
    row = np.arange(count)
    per_step, start = count // STEPS, row * 1000
    call_of = row // per_step * (BLOCKS + 1) + 1 + row % per_step * BLOCKS // per_step
    ops = np.zeros(count, made.ops.dtype)
    ops["start"], ops["end"], ops["signature"], ops["module_call"] = start, start + 900, row % 2000, call_of
    ops["parent"], ops["sequence_nr"], ops["flags"] = -1, -1, int(Phase.FORWARD) << 4
    calls = np.zeros(STEPS * (BLOCKS + 1), made.module_calls.dtype)
    call = np.arange(len(calls))
    step, block = call // (BLOCKS + 1), call % (BLOCKS + 1) - 1
    is_root = block < 0
    first = step * per_step + np.maximum(block, 0) * per_step // BLOCKS
    last = step * per_step + np.where(is_root, per_step, (block + 1) * per_step // BLOCKS)
    calls["start"], calls["end"], calls["op"] = first * 1000, last * 1000 - 50 + 40 * is_root, -1
    calls["module"], calls["parent"] = np.where(is_root, 0, block + 2), np.where(is_root, -1, step * (BLOCKS + 1))
    blocks = np.zeros(count, made.allocations.dtype)
    blocks["start"], blocks["end"], blocks["bytes"] = start, start + LIFETIME, 64 + start % 9999
    blocks["op"], blocks["free_op"], blocks["module_call"], blocks["module"] = row, -1, call_of, calls["module"][call_of]
    steps = np.zeros(STEPS, made.steps.dtype)
    steps["number"] = np.arange(STEPS)
    steps["start"], steps["end"] = steps["number"] * per_step * 1000, (steps["number"] + 1) * per_step * 1000
    facts = {"duration_ns": count * 1000, "memory": True}
    return replace(made, ops=ops, module_calls=calls, allocations=blocks, steps=steps, facts=facts)


def opened(page: Path) -> float:
    """Milliseconds until Chromium has loaded the page, drawn its tables and is ready to draw its charts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        shown = browser.new_page()
        shown.goto(page.as_uri())
        shown.wait_for_selector("html[data-ready]")
        taken = shown.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        browser.close()
    return float(taken)


def test_write(side_by_side: SideBySide, tmp_path: Path) -> None:
    made = large_trace(side_by_side.size(1_000_000, 20_000))
    page = tmp_path / "report.html"

    def write() -> float:
        begin = time.perf_counter()
        torchprof.report(replace(made), page)  # a trace that remembers nothing
        return time.perf_counter() - begin

    write()
    note = {"report": f"{page.stat().st_size / 1e6:.1f} MB"}
    side_by_side("from a trace of 1,000,000 ops to its report", {"report": write}, unit="s", rounds=3, notes=note)


@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium")
def test_open(side_by_side: SideBySide, tmp_path: Path) -> None:
    large, small = tmp_path / "large.html", tmp_path / "small.html"
    torchprof.report(large_trace(side_by_side.size(1_000_000, 20_000)), large)
    torchprof.report(trace(), small)
    peers = {"1,000,000 ops": lambda: opened(large), "none: plotly alone": lambda: opened(small)}
    side_by_side("until a report is there", peers, unit="ms", rounds=5)

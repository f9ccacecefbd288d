"""Figures of the report: their values are those of the tables and accounts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from handwritten import gpu_trace, loop_trace, trace, two_layer_trace

import torchprof
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.reporting.gpu_chart import gpu_chart
from torchprof.reporting.icicle import icicle
from torchprof.reporting.memory_chart import memory_chart
from torchprof.reporting.module_tree import module_table
from torchprof.reporting.roofline_chart import _numbers, roofline_chart
from torchprof.reporting.steps_chart import MOST_BARS, steps_chart
from torchprof.reporting.verdict import of_devices, of_memory, of_steps

H100 = torchprof.Ceilings("NVIDIA H100", "float32", 0, flops=50e12, bytes=3e12)


def named(figure: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in figure["data"] if each["name"] == name]
    return dict(found)


def test_memory_over_time_is_that_of_the_account() -> None:
    account = torchprof.memory(two_layer_trace())
    figure, _ = memory_chart(account)
    held = named(figure, "held")
    assert held["x"] == [0.0, 0.01, 0.02, 0.03, 0.04, 0.04]  # milliseconds
    assert held["y"] == [0, 3000, 4000, 1000, 1500, 1500]
    assert (named(figure, "peak")["x"], named(figure, "peak")["y"]) == ([0.02], [account.peak.bytes])
    stacked = [each["y"] for each in figure["data"] if each.get("stackgroup")]
    assert [sum(column) for column in zip(*stacked, strict=True)] == held["y"]


def test_pointing_at_a_moment_says_what_is_alive() -> None:
    figure, _ = memory_chart(torchprof.memory(loop_trace()))
    at_end = named(figure, "held")["hovertext"][-1]
    assert at_end.startswith("<b>32 B</b> at 0.20 us")
    assert "32 B" in at_end.partition("alive")[2]


def test_of_many_changes_the_moments_of_the_most_are_kept_and_it_is_said() -> None:
    rng = np.random.default_rng(0)
    starts = np.sort(rng.integers(0, 10**6, 20_000))
    blocks = [
        {"start": int(start), "end": int(start + life), "bytes": int(size)}
        for start, life, size in zip(starts, rng.integers(1, 5000, 20_000), rng.integers(1, 10**6, 20_000), strict=True)
    ]
    account = torchprof.memory(trace(allocations=blocks, facts={"memory": True}))
    found = account.moments(points=100)
    assert len(found.times) <= 102
    assert found.held.sum(axis=1).max() == account.peak.bytes
    assert int(found.times[found.held.sum(axis=1).argmax()]) == account.peak.time
    allocated = np.array([[block["start"], block["end"], block["bytes"]] for block in blocks])
    for time, held in zip(found.times[1:].tolist(), found.held.sum(axis=1)[1:].tolist(), strict=True):
        alive = allocated[(allocated[:, 0] <= time) & (allocated[:, 1] > time)]
        at_once = allocated[(allocated[:, 0] == time), 2].sum() + allocated[(allocated[:, 1] == time), 2].sum()
        assert abs(int(alive[:, 2].sum()) - held) <= at_once
    _, said = memory_chart(account)
    assert "Each point is the moment at which the most was held, of 80 allocations and frees in a row" in said[0]


def test_what_is_alive_is_listed_by_module_and_category() -> None:
    account = torchprof.memory(loop_trace())
    last = account.moments().alive[-1]
    assert sum(each.bytes for each in last) == 32
    assert all(each.category in CATEGORIES for each in last)
    assert account.moments(named=0).alive[-1] == []


def test_steps_are_bars_of_their_phases() -> None:
    table = torchprof.by_step(gpu_trace())
    figure, said = steps_chart(table)
    for name, header in (("forward", "Forward"), ("backward", "Backward"), ("optimizer", "Optimizer"), ("other", "Other")):
        assert named(figure, header)["y"] == [row[name] for row in table.rows]
    assert named(figure, "Device busy")["y"] == [437_000, 437_000, 457_000]
    bars = [each["y"] for each in figure["data"] if each["type"] == "bar"]
    assert [sum(column) for column in zip(*bars, strict=True)] == [row["time"] for row in table.rows]
    assert named(figure, "Forward")["marker"]["opacity"] == [0.45, 1.0, 1.0]  # the first is a warm-up
    assert said == []


def test_of_many_steps_the_slowest_are_drawn_and_it_is_said() -> None:
    lengths = [100 + (7 * at) % 50 for at in range(2 * MOST_BARS)]
    lengths[333] = 1000
    steps = [{"start": 2000 * at, "end": 2000 * at + length, "number": at} for at, length in enumerate(lengths)]
    figure, said = steps_chart(torchprof.by_step(trace(steps=steps)))
    bars = named(figure, "Other")
    assert len(bars["x"]) == MOST_BARS
    assert max(bars["y"]) == 1000
    assert bars["x"][bars["y"].index(1000)] == 333
    assert said == ["Each bar is the slowest of 2 steps in a row"]


def test_devices_are_busy_and_idle_by_cause() -> None:
    account = torchprof.gpu(gpu_trace())
    figure = gpu_chart(account)
    (of_device,) = [at for at, name in enumerate(named(figure, "busy")["y"]) if name == "cuda:0"]
    device = next(device for device in account.devices if device.name == "cuda:0")
    assert named(figure, "busy")["x"][of_device] == pytest.approx(100 * device.busy / device.span)
    assert not any(each.idle["data"] for each in account.devices), "of what there is not, nothing is drawn"
    for cause, time in [(cause, time) for cause, time in device.idle.items() if cause != "data"]:
        assert named(figure, f"idle, {cause}")["x"][of_device] == pytest.approx(100 * time / device.span)
    assert [sum(column) for column in zip(*(each["x"] for each in figure["data"]), strict=True)] == pytest.approx([100, 100])


def test_the_icicle_offers_the_figures_that_modules_have() -> None:
    trace = gpu_trace()
    assert [each["name"] for each in icicle(module_table(trace, None, None))] == [
        *("time", "forward", "backward", "optimizer", "device", "flops")
    ]
    whole = {each["name"]: each["whole"] for each in icicle(module_table(trace, None, None))}
    assert whole["time"] == "1.00 ms"


def test_the_roofline_has_a_point_for_every_op_with_flops_and_the_roof() -> None:
    ops = torchprof.by_op(gpu_trace(), shapes=True, ceilings=H100)
    figure = roofline_chart(ops, H100)
    assert figure is not None
    points, roof = figure["data"]
    rows = {row["name"]: row for row in ops.rows if row["flop_rate"]}
    assert sorted(points["y"]) == sorted(row["flop_rate"] for row in rows.values())
    assert sorted(points["x"]) == sorted(row["intensity"] for row in rows.values())
    assert roof["y"][1:] == [50e12, 50e12]
    assert roof["x"][1] == pytest.approx(50e12 / 3e12)
    assert roof["y"][0] == pytest.approx(roof["x"][0] * 3e12)
    assert any("aten::mm" in text and "of roof" in text for text in points["hovertext"])
    assert roofline_chart(torchprof.by_op(two_layer_trace(), shapes=True), None) is None


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [(17.0, 30.0, {"10", "20", "50"}), (0.03, 2_000.0, {"0.1", "1", "1,000"})],
)
def test_the_ticks_of_the_roofline_are_whole_numbers(low: float, high: float, texts: set[str]) -> None:
    axis = _numbers([low, high])
    assert texts <= set(axis["ticktext"])
    assert [float(text.replace(",", "")) for text in axis["ticktext"]] == pytest.approx(axis["tickvals"])


def test_the_verdict_is_a_sentence_for_steps_memory_and_devices() -> None:
    (steps,) = of_steps(gpu_trace())
    assert str(steps) == "A step takes 1.00 ms, the mean of 2: 50% outside of phases, 32% forward, 10% optimizer, 8% backward"
    (memory,) = of_memory(torchprof.memory(two_layer_trace()))
    assert str(memory).startswith("The peak is 4,000 B on cpu") or str(memory).startswith("The peak is 3.9 KiB on cpu")
    (devices,) = of_devices(torchprof.gpu(gpu_trace()))
    assert str(devices).startswith("2 devices were busy 30.8% of 2.91 ms together; idle: ")
    assert list(of_steps(trace())) == []


def test_a_recording_without_steps_is_judged_as_a_whole() -> None:
    phases = {"phase_ns": [100, 0, 50, 0, 0, 50]}
    (sentence,) = of_steps(replace(trace(), facts=phases))
    assert str(sentence).startswith("The recording took 0.20 us: 50% ")

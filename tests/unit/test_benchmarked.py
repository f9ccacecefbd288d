"""What a benchmark says, of times and traces that are written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from goldens import Golden
from handwritten import gpu_trace, trace

import torchprof
from torchprof.benchmarking.benchmarked_table import benchmark_table
from torchprof.trace.trace import Trace

H100 = torchprof.Ceilings("made up", "float32", 0, flops=50e12, bytes=3e12)
CPU = torchprof.Ceilings("made up", "float32", 2, flops=1e11, bytes=1e10)
ON_CPU = {"gpu": "off", "gpu_note": "no GPU was in use when the recording began", "memory": True}


def one_call() -> Trace:
    """A recording without steps: all of it is one call."""
    whole = gpu_trace()
    return replace(whole, steps=whole.steps[:0])


def on_a_gpu(**changes: Any) -> torchprof.Benchmark:
    given = {"name": "train_step", "times": (2_000_000, 2_100_000, 2_600_000), "traces": (one_call(), one_call())}
    return torchprof.Benchmark(**{**given, "waited_for": ("cuda:0",), "ceilings": H100, **changes})


def on_the_cpu(**changes: Any) -> torchprof.Benchmark:
    return on_a_gpu(**{"traces": (trace(facts=dict(ON_CPU)),), "waited_for": (), "ceilings": None, **changes})


def test_the_printed_text(golden: Golden) -> None:
    golden(f"{on_a_gpu()}\n\n{on_the_cpu()}", "benchmark.txt")


def test_the_table_of_several_and_of_what_was_saved(golden: Golden) -> None:
    before = {"fullname": "tests/a.py::train_step", "stats": {"median": 0.0042}, "extra_info": on_a_gpu().extra_info}
    plain = {"fullname": "tests/a.py::infer", "stats": {"median": 0.1}, "extra_info": {}}
    saved = [{"datetime": "2026-11-26T23:50:12.123456+00:00", "benchmarks": [before, plain]}]
    results = {"tests/a.py::train_step": on_a_gpu(), "tests/a.py::infer": on_the_cpu(name="infer")}
    golden(str(benchmark_table(results, json.loads(json.dumps(saved)))), "benchmark_table.txt")


def test_benchmarks_of_one_name_have_the_names_of_their_files() -> None:
    results = {"a.py::test_step": on_the_cpu(name="test_step"), "b.py::test_step": on_the_cpu(name="test_step")}
    assert [row["name"] for row in benchmark_table(results).rows] == ["a.py::test_step", "b.py::test_step"]


def test_rates_combine_what_was_recorded_with_times_that_were_not() -> None:
    result = on_a_gpu()
    figures = result.figures
    assert result.time == 2_100_000
    assert figures.flops is not None
    assert figures.busy is not None
    assert result.flop_rate == pytest.approx(figures.flops / 2.1e-3)
    assert figures.devices == ("cuda:0", "cuda:1")
    assert result.idle_share == pytest.approx(1 - figures.busy / (2 * 2_100_000))
    faster = replace(result, times=(1_050_000,))
    assert faster.flop_rate == pytest.approx(2 * result.flop_rate)
    assert faster.mfu == pytest.approx(2 * result.mfu)


def test_device_time_is_the_sum_of_kernels_and_busy_time_is_less_where_they_overlap() -> None:
    figures = on_a_gpu().figures
    kernels = one_call().kernels
    assert figures.device_time == int((kernels["end"] - kernels["start"]).sum())
    assert figures.device_times == (figures.device_time,) * 2
    assert figures.kernels == len(kernels)
    assert 0 < figures.busy <= figures.device_time


def test_a_device_is_not_idle_for_less_than_nothing_and_that_it_was_busier_is_said() -> None:
    busier = on_a_gpu(times=(1000,))
    assert busier.idle_share == 0
    assert "Devices were busy for longer in a recorded call than a call takes" in str(busier)
    assert "busy for longer" not in str(on_a_gpu())


def test_counts_that_differ_between_calls_are_said() -> None:
    one = one_call()
    result = on_a_gpu(traces=(one, replace(one, kernels=one.kernels[:-1])))
    assert result.figures.kernels == len(one.kernels) - 0.5
    assert "Not the same in every recorded call, the median is shown: kernels" in str(result)
    assert "Not the same" not in str(on_a_gpu())


def test_what_is_not_known_is_none_and_never_0() -> None:
    info = on_the_cpu().extra_info
    nothing = ("device_time", "kernels", "idle_share", "reserved_bytes", "peak_bytes", "mfu")
    assert {name: info[name] for name in nothing} == dict.fromkeys(nothing)
    assert set(nothing) <= info["unknown"].keys()
    assert "no GPU was in use" in info["unknown"]["kernels"]
    assert "no ceilings were given" in info["unknown"]["mfu"]


@pytest.mark.parametrize("result", [on_a_gpu(), on_the_cpu(), on_the_cpu(ceilings=H100), on_a_gpu(ceilings=CPU)])
def test_every_figure_that_is_none_has_a_reason_and_no_other_has(result: torchprof.Benchmark) -> None:
    info = result.extra_info
    figures = "device_time kernels idle_share peak_bytes reserved_bytes flops flop_rate mfu hottest_modules".split()
    assert {name for name in figures if info[name] in (None, [])} == set(info["unknown"])
    assert json.loads(json.dumps(info)) == info
    assert result.to_dict()["times"] == [time / 1e9 for time in result.times]


def test_ceilings_of_another_device_give_no_utilization() -> None:
    assert "those of a CPU, and cuda:0, cuda:1 did the work" in on_a_gpu(ceilings=CPU).unknown["mfu"]
    assert "those of made up, and no device was seen to work" in on_the_cpu(ceilings=H100).unknown["mfu"]


def test_intervals_of_events_are_no_kernels() -> None:
    one = one_call()
    one.facts.update(gpu="events", gpu_note="intervals on the GPU")
    result = on_a_gpu(traces=(one,))
    assert result.figures.device_time > 0
    assert result.figures.kernels is result.idle_share is None
    assert {"kernels", "idle_share"} <= result.unknown.keys()
    assert "Device time: intervals on the GPU" in str(result)
    assert "of intervals of ops on cuda:0" in str(result)


def test_rows_that_were_lost_are_said() -> None:
    one = one_call()
    one.facts["losses"] = {"kernels": 12}
    assert "INCOMPLETE: 12 kernels" in str(on_a_gpu(traces=(one,)))


def test_the_hottest_modules_are_those_with_the_most_device_time_of_their_own() -> None:
    rows = [row for row in torchprof.by_module(one_call()).rows if row["type"] and row["device_self"]]
    hottest = on_a_gpu().figures.hottest
    most = sorted(rows, key=lambda row: -row["device_self"])[:3]
    assert [(hot.path, hot.type, hot.time) for hot in hottest] == [(r["path"], r["type"], r["device_self"]) for r in most]
    assert 0 < sum(hot.share for hot in hottest) <= 1

"""The windows of `torchprof.watch`: figures of handwritten steps."""

from __future__ import annotations

from dataclasses import replace

from goldens import Golden
from handwritten import gpu_trace, loop_trace

import torchprof
from torchprof.analysis.steps import numbered_from
from torchprof.watching.window import table_of, window_of


def active(trace: torchprof.Trace) -> list[dict[str, int]]:
    return [row for row in torchprof.by_step(trace).rows if not row["warmup"]]


def test_a_window_has_the_means_of_its_steps_and_the_most_that_they_held() -> None:
    trace = loop_trace()
    window, rows = window_of(trace), active(trace)
    assert window is not None
    assert (window.first, window.last) == (rows[0]["step"], rows[-1]["step"])
    assert len(rows) > 1
    for name in ("time", "forward", "backward", "optimizer", "data", "other", "allocated"):
        assert window.figures[name] == sum(row[name] for row in rows) / len(rows)
    assert window.figures["peak"] == max(row["peak"] for row in rows)
    assert window.figures["held"] == max(row["held"] for row in rows)


def test_what_is_not_known_of_a_step_is_not_known_of_the_window() -> None:
    trace = loop_trace()
    window = window_of(replace(trace, facts={**trace.facts, "memory": False}, allocations=trace.allocations[:0]))
    assert window is not None
    assert window.figures["peak"] is None
    assert window.figures["allocated"] is None
    assert window.figures["time"]


def test_of_a_device_there_are_figures_where_it_was_recorded() -> None:
    on_cpu, on_gpu = window_of(loop_trace()), window_of(gpu_trace())
    assert on_cpu is not None
    assert on_gpu is not None
    assert "kernels" not in on_cpu.figures
    assert on_gpu.figures["kernels"]
    assert on_gpu.figures["device"]


def test_steps_that_only_warm_up_make_no_window() -> None:
    trace = loop_trace()
    steps = trace.steps.copy()
    steps["warmup"] = 1
    assert window_of(replace(trace, steps=steps)) is None
    assert window_of(replace(trace, steps=steps[:0])) is None


def test_steps_are_counted_from_where_the_recording_began() -> None:
    trace = loop_trace()
    before = trace.steps["number"].tolist()
    assert numbered_from(trace, 1000).steps["number"].tolist() == [number + 1000 for number in before]
    assert trace.steps["number"].tolist() == before
    assert numbered_from(trace, 0) is trace


def test_the_table_has_a_row_for_each_window(golden: Golden) -> None:
    windows = [window_of(numbered_from(trace, first)) for first, trace in ((0, loop_trace()), (1000, gpu_trace()))]
    golden(str(table_of([window for window in windows if window is not None])), "windows.txt")


def evaluated(trace: torchprof.Trace, *steps: int) -> torchprof.Trace:
    return replace(trace, facts={**trace.facts, "aggregate": True, "evaluation_steps": list(steps)})


def test_steps_with_an_evaluation_are_not_in_the_figures() -> None:
    trace = loop_trace()
    first, last = active(trace)
    window = window_of(evaluated(trace, last["step"]))
    assert window is not None
    assert (window.first, window.last, window.evaluation_steps) == (first["step"], last["step"], (last["step"],))
    assert (window.figures["time"], window.counts_evaluations) == (first["time"], False)


def test_a_window_of_such_steps_alone_counts_them() -> None:
    trace = loop_trace()
    numbers = [row["step"] for row in active(trace)]
    window, other = window_of(evaluated(trace, *numbers)), window_of(trace)
    assert window is not None
    assert other is not None
    assert (window.figures["time"], window.counts_evaluations) == (other.figures["time"], True)


def test_the_table_names_steps_with_an_evaluation(golden: Golden) -> None:
    traces = (
        loop_trace(),
        evaluated(numbered_from(loop_trace(), 100), 102),
        evaluated(numbered_from(loop_trace(), 200), 201, 202),
    )
    golden(str(table_of([window for window in map(window_of, traces) if window is not None])), "evaluated_windows.txt")


def test_the_table_of_no_window_says_so(golden: Golden) -> None:
    golden(str(table_of([])), "no_windows.txt")

"""Stacks of Python from files of torch.profiler: the functions that every op ran in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kineto_files import (
    AUTOGRAD,
    MAIN,
    Event,
    document,
    function,
    function_name,
    kernel,
    launch,
    module,
    names,
    op,
    read,
    user_range,
)

import torchprof
from torchprof.analysis.python_frames import python_frames
from torchprof.importers.kineto import frames as of_frames
from torchprof.importers.kineto import stacks as of_stacks

LINE = "train.py(3): <module>"
STEP = "train.py(12): step"
FORWARD = "net.py(30): forward"
TRAINING = [
    op("aten::randn", 1, 2),
    op("aten::linear", 20, 10),
    op("aten::addmm", 21, 8),
    op("aten::sum", 55, 5),
    op("AddmmBackward0", 70, 10, tid=AUTOGRAD, fwd=1, seq=0),
    function(LINE, 0, 100),
    function("<built-in method randn of type object at 0x7fe1c0>", 0.5, 3),
    function(STEP, 10, 80),
    module("Linear_0", 12, 30),
    function(FORWARD, 15, 20),
    function("<built-in function linear>", 19, 12),
    function("os.py(1): path", 45, 2),
]


def stack_of(trace: torchprof.Trace, row: int) -> list[str]:
    """The functions of a row of stacks, outermost first."""
    frames, found = python_frames(trace), []
    while row >= 0:
        found.append(function_name(frames[row]))
        row = int(trace.stacks["parent"][row])
    return found[::-1]


def stacks(trace: torchprof.Trace) -> dict[str, list[str]]:
    """The stack of every op, by its name."""
    return {name: stack_of(trace, row) for name, row in zip(names(trace), trace.op_stacks.tolist(), strict=True)}


def folded(trace: torchprof.Trace, folder: Path, by: str = "time") -> dict[str, int]:
    path = folder / "stacks.folded"
    torchprof.export_folded(trace, path, by, functions=True, libraries=True)
    lines = [line.rpartition(" ") for line in path.read_text().splitlines()]
    return {stack: int(value) for stack, _, value in lines}


def test_an_op_has_the_functions_that_it_ran_in(tmp_path: Path) -> None:
    trace = read(tmp_path, *TRAINING)
    inside = [LINE, STEP, "nn.Module: Linear_0", FORWARD, "<built-in function linear>"]
    assert stacks(trace) == {
        "aten::randn": [LINE, "<built-in method randn of type object>"],
        "aten::linear": inside,
        "aten::addmm": inside,
        "aten::sum": [LINE, STEP],
        "AddmmBackward0": [],
    }
    assert [stack_of(trace, row) for row in trace.call_stacks.tolist()] == [inside[:3]]
    assert trace.facts["stacks"] == "torch.profiler"
    assert "os.py(1): path" not in trace.strings


def test_a_range_belongs_to_the_function_whose_block_it_is(tmp_path: Path) -> None:
    enter = "torch/autograd/profiler.py(783): __enter__"
    trace = read(tmp_path, user_range("batch", 12, 50), op("aten::add", 40, 5), function(STEP, 0, 100), function(enter, 10, 5))
    assert stacks(trace) == {"batch": [STEP], "aten::add": [STEP]}


def test_functions_that_began_before_the_recording_or_outlive_it_are_around_what_they_ran(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::add", 10, 5), function(LINE, -500, 10_000), function(STEP, 8, 10_000))
    assert stacks(trace) == {"aten::add": [LINE, STEP]}
    assert trace.ops["start"].tolist() == [0]


def test_every_thread_and_process_has_functions_of_its_own(tmp_path: Path) -> None:
    other = {**op("aten::b", 5, 2), "pid": 7}
    trace = read(
        tmp_path,
        op("aten::a", 5, 2),
        op("aten::c", 5, 2, tid=AUTOGRAD),
        other,
        function("a.py(1): a", 0, 10),
        function("c.py(1): c", 0, 10, tid=AUTOGRAD),
        function("b.py(1): b", 0, 10, pid=7),
        function("idle.py(1): wait", 0, 10, tid=5),
    )
    assert stacks(trace) == {"aten::a": ["a.py(1): a"], "aten::b": ["b.py(1): b"], "aten::c": ["c.py(1): c"]}


def test_equal_stacks_are_one(tmp_path: Path) -> None:
    events = [op("aten::add", 100 * n + 20, 5) for n in range(50)]
    events += [each for n in range(50) for each in (function(LINE, 100 * n, 99), function(STEP, 100 * n + 10, 50))]
    trace = read(tmp_path, *events)
    assert len(trace.stacks) == 2
    assert set(trace.op_stacks.tolist()) == {1}


def test_a_file_without_functions_has_no_stacks(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::add", 0, 5), module("Net_0", 0, 9))
    assert (len(trace.stacks), len(trace.op_stacks), trace.facts["stacks"]) == (0, 0, False)
    with pytest.raises(torchprof.ArgumentError, match=r"no stacks of Python.*with_stack=True"):
        torchprof.export_folded(trace, tmp_path / "none", functions=True)


def test_flame_graphs_of_functions_add_up_to_the_time_of_those_of_modules(tmp_path: Path) -> None:
    trace = read(tmp_path, *TRAINING)
    main, step = "<module> (train.py:3)", "step (train.py:12)"
    inside = f"{main};{step};nn.Module: Linear_0"
    linear = f"{inside};forward (net.py:30);<built-in function linear>;aten::linear"
    assert folded(trace, tmp_path) == {
        f"{main};<built-in method randn of type object>;aten::randn": 2_000,
        linear: 2_000,
        f"{linear};aten::addmm": 8_000,
        f"{inside};forward (net.py:30)": 20_000,
        f"{main};{step};aten::sum": 5_000,
        "backward;AddmmBackward0": 10_000,
    }
    torchprof.export_folded(trace, tmp_path / "modules")
    assert sum(int(line.rpartition(" ")[2]) for line in (tmp_path / "modules").read_text().splitlines()) == 47_000


def test_flame_graphs_and_the_timeline_show_functions_of_the_user_where_no_line_is_known(tmp_path: Path) -> None:
    trace = read(tmp_path, *TRAINING)
    torchprof.export_folded(trace, tmp_path / "own", functions=True)
    main, step = "<module> (train.py:3)", "step (train.py:12)"
    linear = f"{main};{step};forward (net.py:30);aten::linear"
    assert dict(line.rsplit(" ", 1) for line in (tmp_path / "own").read_text().splitlines()) == {
        f"{main};aten::randn": "2000",
        f"{main};{step};forward (net.py:30)": "20000",
        linear: "2000",
        f"{linear};aten::addmm": "8000",
        f"{main};{step};aten::sum": "5000",
        "backward;AddmmBackward0": "10000",
    }
    torchprof.export_chrome(trace, tmp_path / "timeline.json")
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    shown = [(event["name"], event["ts"], event["dur"], event["args"]) for event in events if event.get("cat") == "python"]
    assert shown == [
        (main, 0, 59, {"file": "train.py", "line": 3}),
        (step, 11, 48, {"file": "train.py", "line": 12}),
        ("forward (net.py:30)", 19, 10, {"file": "net.py", "line": 30}),
    ]


def test_kernels_are_below_the_function_that_launched_them(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        op("aten::mm", 10, 10),
        launch(12, 2, 1),
        kernel("gemm", 30, 7, 1),
        kernel("lost", 50, 3, 9),
        function(LINE, 0, 100),
    )
    assert folded(trace, tmp_path, "device") == {"<module> (train.py:3);aten::mm;gemm": 7_000, "other;lost": 3_000}


def test_ops_of_a_timeline_tell_their_function(tmp_path: Path) -> None:
    torchprof.export_chrome(read(tmp_path, *TRAINING), tmp_path / "timeline.json")
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    told = {event["name"]: event["args"].get("function") for event in events if event.get("cat") in ("op", "backward")}
    assert told["aten::sum"] == "step (train.py:12)"
    assert told["AddmmBackward0"] is None


def test_stacks_are_saved_with_the_trace(tmp_path: Path) -> None:
    trace = read(tmp_path, *TRAINING)
    trace.save(tmp_path / "saved")
    again = torchprof.load(tmp_path / "saved")
    assert stacks(again) == stacks(trace)
    assert again.nbytes == trace.nbytes


@pytest.mark.parametrize("damage", [{"parent": 3}, {"function": 10_000}])
def test_damaged_stacks_are_refused(tmp_path: Path, damage: dict[str, int]) -> None:
    read(tmp_path, *TRAINING).save(tmp_path / "saved")
    with np.load(tmp_path / "saved") as archive:
        arrays = dict(archive)
    for column, value in damage.items():
        arrays["stacks"][column][0] = value
    with (tmp_path / "saved").open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(torchprof.TraceFileError, match="damaged"):
        torchprof.load(tmp_path / "saved")


def calls_within(draw: Any, start: int, end: int, depth: int) -> list[tuple[int, int, str]]:
    """Functions called one after the other between these times, and those that they call, as start, end and name."""
    found = []
    while start < end and draw(st.booleans()):
        begins = draw(st.integers(start, end - 1))
        ends = draw(st.integers(begins + 1, end))
        found.append((begins, ends, f"f.py({draw(st.integers(0, 3))}): f"))
        if depth:
            found += calls_within(draw, begins + 1, ends - 1, depth - 1)
        start = ends
    return found


@st.composite
def programs(draw: Any) -> tuple[list[tuple[int, int, str]], list[tuple[int, int]]]:
    """Functions that nest, and ops, each inside as a whole, or outside of all."""
    functions = calls_within(draw, 0, 60, 4)
    starts = draw(st.lists(st.integers(0, 59), unique=True, max_size=12))
    return functions, sorted((start, start + 1) for start in starts)


@given(programs(), st.sampled_from(["ops first", "by time", "functions first"]), st.integers(1, 8))
def test_stacks_are_those_of_all_functions_around_an_op(
    tmp_path_factory: pytest.TempPathFactory, program: Any, order: str, at_once: int
) -> None:
    functions, ops = program
    made = [function(name, start, end - start, tid=MAIN) for start, end, name in functions]
    named = [op(f"aten::op{at}", start, end - start) for at, (start, end) in enumerate(ops)]
    events: list[Event] = {
        "ops first": [*named, *made],
        "by time": sorted([*made, *named], key=lambda event: (event["ts"], -event["dur"])),
        "functions first": [*made, *named],
    }[order]
    path = tmp_path_factory.mktemp("file") / "trace.json"
    path.write_text(document(events))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_frames, "AT_ONCE", at_once)
        patch.setattr(of_stacks, "AT_ONCE", 3)
        trace = torchprof.load(path)
    expected = {
        f"aten::op{at}": [
            name
            for begins, ends, name in sorted(functions, key=lambda each: (each[0], -each[1]))
            if begins <= start and end <= ends
        ]
        for at, (start, end) in enumerate(ops)
    }
    if functions:
        assert stacks(trace) == expected


def test_ops_after_the_functions_around_them_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_frames, "AT_ONCE", 2)
    late = [function(LINE, 0, 20), function(STEP, 30, 20)]
    trace = read(tmp_path, op("aten::first", 60, 5), *late, op("aten::late", 5, 5), function("f.py(1): f", 55, 20))
    assert stacks(trace) == {"aten::late": [], "aten::first": ["f.py(1): f"]}
    assert "the stacks of 1 op may lack functions, because the file is not in order" in trace.facts["notes"]

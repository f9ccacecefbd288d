"""Flame graphs and the timeline by lines of Python, on a training step of known lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handwritten import trace
from hypothesis import given
from hypothesis import strategies as st

import torchprof
from torchprof import ArgumentError, Trace
from torchprof.exporters.chrome_python import python_slices
from torchprof.exporters.python_stacks import PythonStacks
from torchprof.trace.schema import OP_ATTRIBUTED, PHASE_SHIFT, SCOPE_BACKWARD, SCOPE_USER, Phase

FORWARD, BACKWARD = Phase.FORWARD << PHASE_SHIFT, Phase.BACKWARD << PHASE_SHIFT
MODULE_PY = "/venv/lib/python3.11/site-packages/torch/nn/modules/module.py"
STRINGS = [
    *("aten::linear", "aten::addmm", "AddmmBackward0", "aten::mm", "aten::item"),  # 0 to 4
    *("main", "Net.forward", "Module._call_impl", "Net", "<built-in linear>"),  # 5 to 9
    *("/home/me/train.py", "/home/me/net.py", MODULE_PY, "gemm"),  # 10 to 13
    "run_backward(autograd)",  # 14
]
FUNCTIONS = [
    {"name": 5, "file": 10, "first_line": 20},
    {"name": 7, "file": 12, "first_line": 1770},
    {"name": 6, "file": 11, "first_line": 8},
    {"name": 9},
]
STACKS = [
    {"function": 0, "line": 30},  # 0: loss = net(x)
    {"parent": 0, "function": 1, "line": 1780},  # 1: torch, which calls forward
    {"parent": 1, "function": 2, "line": 12},  # 2: self.fc(x)
    {"parent": 2, "function": 3},  # 3: a function in C
    {"function": 0, "line": 31},  # 4: loss.backward()
    {"function": 0, "line": 32},  # 5: loss.item()
    {"parent": 1, "function": 2, "line": 13},  # 6: another line of forward
]
NO_MODULE = {"parent": -1, "module_call": -1, "sequence_nr": -1}
MAIN, NET, NEXT = "main (train.py:30)", "Net.forward (net.py:12)", "Net.forward (net.py:13)"
BETWEEN = "Net.forward (net.py:8)"  # where it begins: which line it was is not known
CALLED, ITEM = "main (train.py:31)", "main (train.py:32)"


def training_step(**more: Any) -> Trace:
    """A call of a module, from 10 to 60, with ops of two lines; backward on another thread; and a line that waits.

    net(x)             |-----------------|
      aten::linear        |----|           12 self.fc(x)
        aten::addmm        |-|
      aten::mm                   |----|    13
    run_backward                             |---------|    31 loss.backward(), which waits for the other thread
    AddmmBackward0                             |-----|      on another thread; differentiates line 12
    aten::item                                           |---|  32
    """
    options: dict[str, Any] = {
        "ops": [
            {"name": 0, "start": 15, "end": 30, "parent": -1, "module_call": 0, "flags": FORWARD, "sequence_nr": -1},
            {"name": 1, "start": 18, "end": 28, "parent": 0, "module_call": 0, "flags": FORWARD, "sequence_nr": 4},
            {"name": 3, "start": 35, "end": 50, "parent": -1, "module_call": 0, "flags": FORWARD, "sequence_nr": 5},
            {**NO_MODULE, "name": 14, "start": 62, "end": 88, "scope": SCOPE_USER, "flags": BACKWARD},
            {**NO_MODULE, "name": 4, "start": 90, "end": 99},
            {
                **{"name": 2, "start": 65, "end": 85, "parent": -1, "module_call": 0, "sequence_nr": 4, "forward_thread": 7},
                **{"thread": 1, "scope": SCOPE_BACKWARD, "flags": BACKWARD | OP_ATTRIBUTED},
            },
        ],
        "module_calls": [{"start": 10, "end": 60, "module": 0, "parent": -1, "op": -1}],
        "modules": [{"type": 8, "address": 1}],
        "threads": [{"torch_id": 7, "native_id": 100}, {"torch_id": 8, "native_id": 101}],
        "functions": FUNCTIONS,
        "stacks": STACKS,
        "stacks_of": {"op_stacks": [3, -1, 6, 4, 5, -1], "call_stacks": [0], "allocation_stacks": []},
        "facts": {"duration_ns": 100, "memory": True},
    }
    return trace(**{"strings": STRINGS, **options, **more})


def folded(found: Trace, folder: Path, by: str = "time", **options: Any) -> dict[str, int]:
    torchprof.export_folded(found, folder / "out.folded", by, **{"functions": True, **options})
    lines = [line.rpartition(" ") for line in (folder / "out.folded").read_text().splitlines()]
    return {stack: int(value) for stack, _, value in lines}


def test_lines_take_the_place_of_modules_and_libraries_that_of_nobody(tmp_path: Path) -> None:
    assert folded(training_step(), tmp_path) == {
        f"{MAIN};{BETWEEN}": 50 - 15 - 15,
        f"{MAIN};{NET};aten::linear": 5,
        f"{MAIN};{NET};aten::linear;aten::addmm": 10,
        f"{MAIN};{NEXT};aten::mm": 15,
        f"{MAIN};{NET};AddmmBackward0": 20,
        f"{CALLED};run_backward(autograd)": 26 - 20,
        f"{ITEM};aten::item": 9,
    }


def test_libraries_are_shown_on_request(tmp_path: Path) -> None:
    torch = "Module._call_impl (module.py:1780)"
    assert folded(training_step(), tmp_path, libraries=True) == {
        f"{MAIN};{torch};{BETWEEN}": 20,
        f"{MAIN};{torch};{NET};<built-in linear>;aten::linear": 5,
        f"{MAIN};{torch};{NET};<built-in linear>;aten::linear;aten::addmm": 10,
        f"{MAIN};{torch};{NEXT};aten::mm": 15,
        f"{MAIN};{torch};{NET};<built-in linear>;AddmmBackward0": 20,
        f"{CALLED};run_backward(autograd)": 26 - 20,
        f"{ITEM};aten::item": 9,
    }


@pytest.mark.parametrize("options", [{}, {"libraries": True}, {"backward_at_call": True}])
def test_they_add_up_to_what_those_of_modules_add_up_to(tmp_path: Path, options: dict[str, bool]) -> None:
    found = training_step()
    of_modules = folded(found, tmp_path, functions=False)
    assert sum(of_modules.values()) == 50 + 6 + 20 + 9
    assert sum(folded(found, tmp_path, **options).values()) == sum(of_modules.values())


def test_backward_is_below_the_line_that_called_it_on_request(tmp_path: Path) -> None:
    found = folded(training_step(), tmp_path, backward_at_call=True)
    assert found[f"{CALLED};AddmmBackward0"] == 20
    assert f"{MAIN};{NET};AddmmBackward0" not in found


def test_flops_are_below_the_lines_whose_ops_they_are(tmp_path: Path) -> None:
    signatures = [{"name": name, "flops": flops} for name, flops in ((0, -1), (1, 640), (3, 20), (14, -1), (4, -1), (2, 1280))]
    ops = training_step().ops.copy()
    rows = [{name: int(row[name]) for name in ops.dtype.names or () if name != "signature"} for row in ops]
    found = training_step(ops=[{**row, "signature": at} for at, row in enumerate(rows)], signatures=signatures)
    assert folded(found, tmp_path, "flops") == {
        f"{MAIN};{NET};aten::linear;aten::addmm": 640,
        f"{MAIN};{NEXT};aten::mm": 20,
        f"{MAIN};{NET};AddmmBackward0": 1280,
    }
    assert sum(folded(found, tmp_path, "flops", functions=False).values()) == 1940


def test_kernels_are_below_the_line_that_launched_them(tmp_path: Path) -> None:
    kernel = {"device_type": 1, "name": 13, "op": -1, "module_call": -1}
    kernels = [
        {**kernel, "start": 40, "end": 47, "op": 2, "module_call": 0, "phase": Phase.FORWARD},
        {**kernel, "start": 70, "end": 90, "op": 5, "module_call": 0, "phase": Phase.BACKWARD},
        {**kernel, "start": 95, "end": 96, "module_call": 0, "phase": Phase.FORWARD},
        {**kernel, "start": 97, "end": 99},
    ]
    assert folded(training_step(kernels=kernels), tmp_path, "device") == {
        f"{MAIN};{NEXT};aten::mm;gemm": 7,
        f"{MAIN};{NET};AddmmBackward0;gemm": 20,
        f"{MAIN};gemm": 1,
        "other;gemm": 2,
    }


def step_with_memory() -> Trace:
    """Blocks from before, of an op, of backward, and two that Python allocated without an op. At 70, 1,060 bytes."""
    block = {"device_type": 0, "op": -1, "free_op": -1, "module_call": -1, "module": -1}
    allocations = [
        {**block, "start": -1, "end": -1, "bytes": 1000, "address": 1, "uses": 1},
        {**block, "start": 20, "end": 80, "bytes": 10, "address": 2, "op": 1, "module_call": 0},
        {**block, "start": 70, "end": -1, "bytes": 50, "address": 3, "op": 5, "module_call": 0},
        {**block, "start": 95, "end": -1, "bytes": 4, "address": 4, "op": -1},
        {**block, "start": 96, "end": -1, "bytes": 5, "address": 5, "op": -1},
    ]
    stacks_of = {"op_stacks": [3, -1, 6, 4, 5, -1], "call_stacks": [0], "allocation_stacks": [-1, 3, -1, 5, -1]}
    return training_step(allocations=allocations, stacks_of=stacks_of)


def test_allocated_bytes_are_below_the_line_that_allocated_them(tmp_path: Path) -> None:
    expected = {
        f"{MAIN};{NET};aten::linear;aten::addmm": 10,
        f"{MAIN};{NET};AddmmBackward0": 50,
        ITEM: 4,
        "other": 5,
    }
    assert folded(step_with_memory(), tmp_path, "allocated") == expected
    assert folded(step_with_memory(), tmp_path, "allocated", functions=False) == {
        "forward;<Net>;aten::linear;aten::addmm": 10,
        "backward;<Net>;AddmmBackward0": 50,
        "other": 9,
    }


def test_bytes_at_the_peak_add_up_to_it(tmp_path: Path) -> None:
    found = folded(step_with_memory(), tmp_path, "peak", device="cpu")
    assert found == {
        "before the recording;parameters": 1000,
        f"{MAIN};{NET};aten::linear;aten::addmm": 10,
        f"{MAIN};{NET};AddmmBackward0": 50,
    }
    assert sum(found.values()) == torchprof.memory(step_with_memory()).peak.bytes


def test_untracked_bytes_at_the_peak_are_told(tmp_path: Path) -> None:
    totals = [{"time": 0, "allocated": 1300, "reserved": 2000, "unreported": 1300, "device_type": 0}]
    found = step_with_memory()
    found = training_step(
        allocations=[dict(zip(found.allocations.dtype.names or (), row, strict=True)) for row in found.allocations.tolist()],
        allocator_totals=totals,
        stacks_of={"op_stacks": [3, -1, 6, 4, 5, -1], "call_stacks": [0], "allocation_stacks": [-1, 3, -1, 5, -1]},
    )
    account = torchprof.memory(found)
    values = folded(found, tmp_path, "peak")
    assert account.untracked > 0
    assert values["untracked"] == account.untracked
    assert sum(values.values()) == account.peak.bytes


@pytest.mark.parametrize(
    ("by", "options", "says"),
    [
        ("time", {"device": "cpu"}, "device='cpu' is that of memory, and by='time' is not"),
        ("peak", {"device": "cuda:3"}, "device='cuda:3'"),
    ],
)
def test_a_device_that_there_is_not_is_refused(tmp_path: Path, by: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        folded(step_with_memory(), tmp_path, by, **options)


def test_a_trace_without_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="memory=False"):
        folded(training_step(facts={"memory": False}), tmp_path, "peak")


def test_speedscope_knows_files_and_lines(tmp_path: Path) -> None:
    torchprof.export_speedscope(training_step(), tmp_path / "out.json", functions=True)
    document = json.loads((tmp_path / "out.json").read_text())
    frames = document["shared"]["frames"]
    assert {"name": "Net.forward", "file": "/home/me/net.py", "line": 12} in frames
    assert {"name": "aten::mm"} in frames
    profile = document["profiles"][0]
    stacks = [tuple(frames[at]["name"] for at in sample) for sample in profile["samples"]]
    assert dict(zip(stacks, profile["weights"], strict=True))["main", "Net.forward", "aten::mm"] == 15
    assert (profile["startValue"], profile["endValue"]) == (0, sum(profile["weights"]))


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    strings = [*STRINGS[:11], "/home/me/models/train.py", *STRINGS[12:]]
    assert "main (me/train.py:30);Net.forward (models/train.py:13);aten::mm" in folded(training_step(strings=strings), tmp_path)


def python_track(found: Trace, folder: Path, **options: Any) -> list[dict[str, Any]]:
    torchprof.export_chrome(found, folder / "out.json", **options)
    return [event for event in json.loads((folder / "out.json").read_text())["traceEvents"] if event.get("cat") == "python"]


def test_the_timeline_has_a_slice_for_every_line(tmp_path: Path) -> None:
    events = python_track(training_step(), tmp_path)
    assert [(event["name"], round(event["ts"] * 1000), round((event["ts"] + event["dur"]) * 1000)) for event in events] == [
        (MAIN, 10, 60),
        (NET, 15, 30),
        (NEXT, 35, 50),
        (CALLED, 62, 88),
        (ITEM, 90, 99),
    ]
    assert events[1]["args"] == {"file": "/home/me/net.py", "line": 12}
    assert len({event["tid"] for event in events}) == 1, "autograd's thread has none"


def test_the_timeline_has_libraries_on_request(tmp_path: Path) -> None:
    names = [event["name"] for event in python_track(training_step(), tmp_path, libraries=True)]
    assert names == [MAIN, "Module._call_impl (module.py:1780)", NET, "<built-in linear>", NEXT, CALLED, ITEM]


def test_the_track_of_python_is_below_its_thread(tmp_path: Path) -> None:
    torchprof.export_chrome(training_step(), tmp_path / "out.json")
    events = json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    (track,) = {event["tid"] for event in events if event.get("cat") == "python"}
    about = {event["name"]: event["args"] for event in events if event["ph"] == "M" and event.get("tid") == track}
    (thread,) = {event["tid"] for event in events if event.get("cat") == "module"}
    order = {event["tid"]: event["args"]["sort_index"] for event in events if event.get("name") == "thread_sort_index"}
    assert about["thread_name"] == {"name": "Python of main thread 100"}
    assert order[track] == order[thread]


def test_ops_of_the_timeline_say_their_line_and_those_of_backward_that_of_forward(tmp_path: Path) -> None:
    torchprof.export_chrome(training_step(), tmp_path / "out.json")
    events = json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    told = {
        event["name"]: event["args"]["function"]
        for event in events
        if event.get("cat") in ("op", "backward", "user") and event["ph"] == "X"
    }
    assert told == {
        **{"aten::linear": NET, "aten::addmm": NET, "aten::mm": NEXT, "AddmmBackward0": NET},
        **{"run_backward(autograd)": CALLED, "aten::item": ITEM},
    }


def test_calls_that_follow_one_another_are_not_one(tmp_path: Path) -> None:
    """net(x) twice, in one line of main: what is inside each call has a slice of its own."""
    found = training_step(
        ops=[
            {**NO_MODULE, "name": 3, "start": start, "end": start + 5, "module_call": call}
            for call, start in ((0, 12), (0, 18), (1, 32))
        ],
        module_calls=[{"start": 10, "end": 28, "parent": -1, "op": -1}, {"start": 30, "end": 40, "parent": -1, "op": -1}],
        stacks_of={"op_stacks": [6, 6, 6], "call_stacks": [0, 0], "allocation_stacks": []},
    )
    events = python_track(found, tmp_path)
    assert [(event["name"], round(event["ts"] * 1000), round(event["dur"] * 1000)) for event in events] == [
        (MAIN, 10, 30),
        (NEXT, 12, 11),
        (NEXT, 32, 5),
    ]


def test_a_trace_without_stacks_has_no_track(tmp_path: Path) -> None:
    empty = {"op_stacks": [], "call_stacks": [], "allocation_stacks": []}
    assert python_track(training_step(functions=[], stacks=[], stacks_of=empty), tmp_path) == []


@st.composite
def programs(draw: st.DrawFn) -> Trace:
    """Nested ops with stacks that may have nothing to do with one another."""
    count = draw(st.integers(1, 8))
    stacks = [
        {"parent": draw(st.integers(-1, row - 1)), "function": draw(st.integers(0, 2)), "line": row} for row in range(count)
    ]
    ops: list[dict[str, int]] = []

    def nest(start: int, end: int, parent: int, depth: int) -> None:
        while start < end and depth and len(ops) < 12:
            first = draw(st.integers(start, end))
            last = draw(st.integers(first, end))
            ops.append({**NO_MODULE, "name": 3, "start": first, "end": last, "parent": parent})
            nest(first, last, len(ops) - 1, depth - 1)
            start = last + 1

    nest(0, 50, -1, 3)
    rows = draw(st.lists(st.integers(-1, count - 1), min_size=len(ops), max_size=len(ops)))
    stacks_of = {"op_stacks": rows, "call_stacks": [], "allocation_stacks": []}
    return trace(
        strings=STRINGS, ops=ops, stacks=stacks, functions=FUNCTIONS[:3], stacks_of=stacks_of, threads=[{"torch_id": 7}]
    )


@given(programs(), st.booleans())
def test_slices_of_a_track_nest_whatever_stacks_there_are(found: Trace, libraries: bool) -> None:
    python = PythonStacks(found, libraries)
    slices = python_slices(found, found.ops["end"].astype(np.int64), python)
    open_until: list[int] = []
    for each in slices:
        while open_until and open_until[-1] <= each.start < each.end:
            open_until.pop()
        assert each.start <= each.end
        assert not open_until or each.end <= open_until[-1] or each.start == each.end
        open_until.append(each.end)
    for start, stack in zip(found.ops["start"].tolist(), found.op_stacks.tolist(), strict=True):
        if stack >= 0:
            assert any(each.stack == python.shown[stack] and each.start <= start <= each.end for each in slices)

"""Leaks, the peak, waits and idle time say the line of the program where a trace has stacks, and nothing where it has none."""

from __future__ import annotations

from typing import Any

import pytest
from goldens import Golden
from handwritten import trace

import torchprof
from torchprof import Trace
from torchprof.trace.schema import OP_ATTRIBUTED, PHASE_SHIFT, SCOPE_BACKWARD, Phase, RuntimeCallKind

FORWARD, BACKWARD = Phase.FORWARD << PHASE_SHIFT, Phase.BACKWARD << PHASE_SHIFT
STRINGS = [
    *("aten::clone", "aten::mm", "MmBackward0", "aten::item", "gemm"),  # 0 to 4
    *("main", "Net.forward", "Tensor.clone", "cudaStreamSynchronize", "cudaLaunchKernel"),  # 5 to 9
    *("/home/me/train.py", "/home/me/net.py", "/venv/lib/python3.11/site-packages/torch/_tensor.py"),  # 10 to 12
]
FUNCTIONS = [
    {"name": 5, "file": 10, "first_line": 20},
    {"name": 6, "file": 11, "first_line": 8},
    {"name": 7, "file": 12, "first_line": 100},
]
STACKS = [
    {"function": 0, "line": 30},
    {"parent": 0, "function": 1, "line": 12},
    {"parent": 1, "function": 2, "line": 105},  # PyTorch, called in net.py:12
    {"function": 0, "line": 31},
    {"function": 0},  # its line is not known
]
OP = {"parent": -1, "module_call": -1, "sequence_nr": -1}
BLOCK = {"op": -1, "free_op": -1, "module_call": -1, "module": -1, "end": -1}


def leaking(**more: Any) -> Trace:
    """Six steps of 100 ns. In each, net.py:12 clones 8 bytes and train.py:31 16, and both are kept."""
    ops, allocations, op_stacks = [], [], []
    for step in range(6):
        for at, size, stack in ((10, 8, 2), (20, 16, 3)):
            allocations.append(
                {**BLOCK, "start": 100 * step + at + 1, "bytes": size, "op": len(ops), "address": 1000 + len(ops)}
            )
            ops.append({**OP, "name": 0, "start": 100 * step + at, "end": 100 * step + at + 5})
            op_stacks.append(stack)
    options: dict[str, Any] = {
        "allocations": allocations,
        "functions": FUNCTIONS,
        "stacks": STACKS,
        "stacks_of": {"op_stacks": op_stacks, "call_stacks": [], "allocation_stacks": op_stacks},
    }
    return trace(
        strings=STRINGS,
        ops=ops,
        steps=[{"number": step, "start": 100 * step, "end": 100 * step + 99} for step in range(6)],
        threads=[{"torch_id": 7, "native_id": 100}],
        facts={"duration_ns": 600, "memory": True, "ops": True, "shapes": True},
        **{**options, **more},
    )


def test_a_leak_says_the_line_that_made_it_and_two_lines_are_two_leaks() -> None:
    account = torchprof.memory(leaking())
    assert [(leak.op, leak.line, leak.growth, leak.bytes) for leak in account.leaks] == [
        ("aten::clone", "train.py:31", 16, 96),
        ("aten::clone", "net.py:12", 8, 48),
    ]
    assert [row["lines"] for row in account.leak_table.rows] == [["train.py:31"], ["net.py:12"]]
    assert "aten::clone  train.py:31" in str(account)
    assert "train.py:31" in account._repr_html_()


def test_what_one_line_holds_for_long_does_not_hide_what_another_leaks() -> None:
    """train.py:31 makes 10,000 bytes anew in every step, net.py:12 keeps 8 more: they are the same op in the same module."""
    found = leaking()
    rows = [dict(zip(found.allocations.dtype.names or (), row, strict=True)) for row in found.allocations.tolist()]
    for row in rows:
        if row["bytes"] == 16:
            row |= {"bytes": 10_000, "end": row["start"] + 100}
    (leak,) = torchprof.memory(leaking(allocations=rows)).leaks
    assert (leak.line, leak.growth) == ("net.py:12", 8)


WITHOUT: dict[str, Any] = {"functions": [], "stacks": [], "stacks_of": {}}


def test_a_trace_without_stacks_has_no_empty_columns() -> None:
    account = torchprof.memory(leaking(**WITHOUT))
    assert [(leak.line, leak.growth) for leak in account.leaks] == [("", 24)]
    assert "lines" not in account.leak_table.columns
    assert (account.peak.line, len(account.peak_lines)) == ("", 0)
    assert "made at" not in str(account)


def test_the_peak_says_the_line_of_the_block_that_made_it() -> None:
    account = torchprof.memory(leaking())
    assert account.peak.line == "train.py:31"
    assert "(step 5, other, aten::clone, in no module, train.py:31)" in str(account)


def test_what_held_the_peak_adds_up_to_it_by_line() -> None:
    before = {**BLOCK, "start": -1, "bytes": 100, "address": 1, "uses": 1}
    elsewhere = {**BLOCK, "start": 5, "bytes": 30, "address": 2}
    by_module_call = {**BLOCK, "start": 6, "bytes": 7, "address": 3, "module_call": 0}
    found = leaking()
    rows = [dict(zip(found.allocations.dtype.names or (), row, strict=True)) for row in found.allocations.tolist()]
    stacks = found.op_stacks.tolist()
    found = leaking(
        allocations=[before, elsewhere, by_module_call, *rows],
        module_calls=[{"start": 0, "end": 9, "parent": -1, "op": -1}],
        modules=[{"type": 6, "address": 1}],
        stacks_of={"op_stacks": stacks, "call_stacks": [0], "allocation_stacks": [-1, -1, -1, *stacks]},
    )
    account = torchprof.memory(found, "cpu")
    table = account.peak_lines
    assert [(row["name"], row["at_peak"], row["count"]) for row in table.rows] == [
        ("(before the recording)", 100, 1),
        ("train.py:31", 6 * 16, 6),
        ("net.py:12", 6 * 8, 6),
        ("(unknown)", 30, 1),
        ("train.py:30", 7, 1),
    ]
    assert sum(row["at_peak"] for row in table.rows) == account.peak.bytes
    assert "Held at the peak, made at" in str(account)


def waiting(**more: Any) -> Trace:
    """Ops of two lines launch one kernel each; backward launches one; two lines wait in aten::item.

    host    launch mm (net.py:12) | item (train.py:31) | item (train.py:30) | backward of mm launches
    device  [20, 40]                                     ...                  [180, 190]
    """
    op_names = [(1, 10, 15, 1), (3, 16, 60, 3), (3, 100, 130, 0)]
    ops = [
        {**OP, "name": name, "start": start, "end": end, "flags": FORWARD, "sequence_nr": 3 if name == 1 else -1}
        for name, start, end, _ in op_names
    ]
    node = {**OP, "name": 2, "start": 150, "end": 170, "thread": 1, "scope": SCOPE_BACKWARD, "sequence_nr": 3}
    ops.append({**node, "forward_thread": 7, "flags": BACKWARD | OP_ATTRIBUTED})
    call = {"op": -1, "module_call": -1, "phase": Phase.FORWARD}
    wait = {**call, "name": 8, "kind": RuntimeCallKind.SYNCHRONIZE}
    launch = {**call, "name": 9, "kind": RuntimeCallKind.LAUNCH}
    kernel = {"name": 4, "op": -1, "module_call": -1, "device_type": 1}
    options: dict[str, Any] = {
        "runtime_calls": [
            {**launch, "start": 11, "end": 12, "op": 0},
            {**wait, "start": 17, "end": 59, "op": 1},
            {**wait, "start": 101, "end": 121, "op": 2},
            {**launch, "start": 160, "end": 161, "op": 3, "thread": 1},
        ],
        "functions": FUNCTIONS,
        "stacks": STACKS,
        "stacks_of": {"op_stacks": [*(stack for *_, stack in op_names), -1], "call_stacks": [], "allocation_stacks": []},
    }
    return trace(
        strings=STRINGS,
        ops=ops,
        kernels=[
            {**kernel, "start": 20, "end": 40, "runtime_call": 0, "op": 0, "phase": Phase.FORWARD},
            {**kernel, "start": 180, "end": 190, "runtime_call": 3, "op": 3, "phase": Phase.BACKWARD},
        ],
        threads=[{"torch_id": 7, "native_id": 100}, {"torch_id": 8, "native_id": 101}],
        facts={"duration_ns": 200, "gpu": "cupti"},
        **{**options, **more},
    )


def test_waits_say_the_line_that_waited() -> None:
    found = torchprof.gpu(waiting())
    assert [(wait.op, wait.line, wait.time) for wait in found.waits] == [
        ("aten::item", "train.py:31", 42),
        ("aten::item", "train.py:30", 20),
    ]
    assert "lines" in found.by_wait.columns
    assert [row["lines"] for row in found.by_wait.rows] == [["train.py:31"], ["train.py:30"]]


def test_gaps_say_the_line_that_launched_late_or_waited() -> None:
    """Idle from 40 to 180: the host waited for 19 and 20 ns of it, and launched at 160, in backward of net.py:12."""
    found = torchprof.gpu(waiting())
    lines = {idle.cause: (idle.line, idle.time) for idle in found.idle}
    assert lines["synchronization"][0] == "train.py:31"
    assert lines["launch-bound"][0] == "net.py:12"
    assert sum(time for _, time in lines.values()) == 140
    below = {row["path"]: row["lines"] for row in found.by_cause.rows}
    assert below["launch-bound"] == []
    assert ["net.py:12"] in below.values()
    assert "net.py:12" in str(found)


def test_of_a_line_that_is_not_known_it_is_the_function() -> None:
    stacks_of = {"op_stacks": [1, 4, 4, -1], "call_stacks": [], "allocation_stacks": []}
    (wait,) = torchprof.gpu(waiting(stacks_of=stacks_of)).waits
    assert (wait.line, wait.count, wait.time) == ("train.py:20 main", 2, 62)


@pytest.mark.parametrize(
    ("stacks", "line"),
    [
        ([1, 3, 3, -1], "train.py:31"),
        ([1, 2, 3, -1], "train.py:20 main"),
        ([1, 1, 2, -1], "net.py:12"),
        ([1, -1, 1, -1], "net.py:12"),
        ([-1, -1, 3, -1], ""),
    ],
)
def test_a_wait_outside_of_all_ops_is_of_what_was_running_before_and_after_it(stacks: list[int], line: str) -> None:
    found = waiting()
    calls = [dict(zip(found.runtime_calls.dtype.names or (), row, strict=True)) for row in found.runtime_calls.tolist()]
    calls[2] |= {"op": -1, "start": 70, "end": 90}  # torch.cuda.synchronize()
    stacks_of = {"op_stacks": stacks, "call_stacks": [], "allocation_stacks": []}
    waits = torchprof.gpu(waiting(runtime_calls=calls, stacks_of=stacks_of)).waits
    assert {wait.op: wait.line for wait in waits}["(no op)"] == line


def test_without_stacks_devices_say_no_lines() -> None:
    found = torchprof.gpu(waiting(**WITHOUT))
    assert [(wait.op, wait.line, wait.count) for wait in found.waits] == [("aten::item", "", 2)]
    assert not {"lines"} & {*found.by_wait.columns, *found.by_cause.columns}
    assert "Line" not in str(found)


def test_the_accounts_are_printed_with_lines(golden: Golden) -> None:
    golden(str(torchprof.memory(leaking())), "memory_lines.txt")
    golden(str(torchprof.gpu(waiting())), "gpu_lines.txt")

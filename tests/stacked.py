"""Traces written by hand that have stacks of Python, for tests of what is shown by line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from handwritten import FORWARD, trace

from torchprof.trace.schema import OP_ATTRIBUTED, SCOPE_BACKWARD, SCOPE_USER, STACKS, Phase
from torchprof.trace.trace import Trace

HERE = Path(__file__)
TORCH = "/usr/lib/python3.11/site-packages/torch"
BACKWARD = int(Phase.BACKWARD) << 4 | OP_ATTRIBUTED
ENGINE = "autograd::engine::evaluate_function: "


class Program:
    """A trace as it is written down: functions, stacks and rows are added, and referred to by number.

    Attributes:
        end: when the recording ends, if no fact says it.
    """

    def __init__(self) -> None:
        self.end = 1000
        self.strings: list[str] = []
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.stacks_of: dict[str, list[int]] = {"op_stacks": [], "call_stacks": [], "allocation_stacks": []}
        self._stacks: dict[tuple[int, int, int], int] = {}

    def string(self, text: str) -> int:
        if text not in self.strings:
            self.strings.append(text)
        return self.strings.index(text)

    def function(self, name: str, file: str | None, first_line: int = -1) -> int:
        columns = {"name": self.string(name), "file": -1 if file is None else self.string(file), "first_line": first_line}
        known = self.rows.setdefault("functions", [])
        return known.index(columns) if columns in known else self._add("functions", **columns)

    def stack(self, parent: int, function: int, line: int = -1) -> int:
        key = parent, function, line
        if key not in self._stacks:
            self._stacks[key] = self._add("stacks", parent=parent, function=function, line=line)
        return self._stacks[key]

    def op(self, name: str, start: int, end: int, stack: int = -1, **more: Any) -> int:
        self.stacks_of["op_stacks"].append(stack)
        return self._add("ops", name=self.string(name), start=start, end=end, **more)

    def call(self, start: int, end: int, stack: int = -1, **more: Any) -> int:
        self.stacks_of["call_stacks"].append(stack)
        return self._add("module_calls", start=start, end=end, **more)

    def allocation(self, start: int, end: int, size: int, stack: int = -1, **more: Any) -> int:
        self.stacks_of["allocation_stacks"].append(stack)
        return self._add("allocations", start=start, end=end, bytes=size, **more)

    def node(self, name: str, start: int, end: int, number: int, stack: int = -1, **more: Any) -> int:
        """What the engine does for a node, 5 ns longer on both sides than the node."""
        engine = self.op(f"{ENGINE}{name}", start, end, stack, flags=BACKWARD, **more)
        more["parent"] = engine
        return self.op(
            name, start + 5, end - 5, stack, flags=BACKWARD, scope=SCOPE_BACKWARD, sequence_nr=number, forward_thread=7, **more
        )

    def add(self, table: str, **columns: Any) -> int:
        return self._add(table, **columns)

    def trace(self, **facts: Any) -> Trace:
        threads = [{"torch_id": 7, "native_id": 70}, {"torch_id": 8, "native_id": 80}]
        rows = {"threads": threads, "modules": [{"address": 100, "type": self.string("Net")}], **self.rows}
        duration = facts.setdefault("duration_ns", self.end)
        facts["phase_ns"] = [duration, *[0] * (len(Phase) - 1)]  # the tables need their sum alone
        return trace(strings=self.strings, stacks_of=self.stacks_of, facts=facts, **rows)

    def _add(self, table: str, **columns: Any) -> int:
        self.rows.setdefault(table, []).append(columns)
        return len(self.rows[table]) - 1


def training(*, backward_thread: int = 0, first: int = 0, program: Program | None = None) -> Program:
    """One step of 1000 ns: what ran in every line, and what the Python between it.

    ==========  ============================  ===========================================================================
    train.py    17 ``def train():``           20 between the net and its sum; 50 + 50 between lines 20 and 21, and 21 and 22
                20 ``loss = net(x).sum()``    30 ``sum``; 40 backward
                21 ``loss.backward()``        10 + 10 + 10 + 10 + 50 of the engine
                22 ``opt.step()``             20 + 60 + 20
    net.py      7 ``def forward(self, x):``   20 + 50 at the edges of the call, 50 between lines 8 and 9
                8 ``x = self.fc(x)``          10 + 110 + 10; 70 backward, 40 accumulation of the gradient
                9 ``return x.relu()``         50; 60 backward
    unknown                                   100 before the first, 50 after the last
    ==========  ============================  ===========================================================================
    """
    p = program or Program()
    module = p.function("<module>", "/home/me/train.py", 1)
    train = p.function("train", "/home/me/train.py", 17)
    forward = p.function("Net.forward", "/home/me/net.py", 7)
    call_impl = p.function("Module._call_impl", f"{TORCH}/nn/modules/module.py", 1779)
    linear = p.function("Linear.forward", f"{TORCH}/nn/modules/linear.py", 130)
    engine = p.function("_engine_run_backward", f"{TORCH}/autograd/graph.py", 950)
    step = p.function("Optimizer.step", f"{TORCH}/optim/optimizer.py", 500)
    start = p.stack(-1, module, 40)
    at_20, at_21, at_22 = (p.stack(start, train, line) for line in (20, 21, 22))
    called = p.stack(at_20, call_impl, 1782)
    at_8, at_9 = p.stack(called, forward, 8), p.stack(called, forward, 9)
    in_linear = p.stack(p.stack(at_8, call_impl, 1782), linear, 134)
    in_engine = p.stack(at_21, engine, 966)
    in_step = p.stack(at_22, step, 511)
    t, n = first, 10 * (first // 1000)

    net = p.call(t + 100, t + 400, at_20)
    fc = p.call(t + 120, t + 250, at_8, parent=net)
    p.op("aten::linear", t + 130, t + 240, in_linear, module_call=fc, flags=FORWARD, sequence_nr=n)
    p.op("aten::relu", t + 300, t + 350, at_9, module_call=net, flags=FORWARD, sequence_nr=n + 1)
    p.op("aten::sum", t + 420, t + 450, at_20, flags=FORWARD, sequence_nr=n + 2)
    run = p.op("run_backward(autograd)", t + 500, t + 800, in_engine, scope=SCOPE_USER, flags=int(Phase.BACKWARD) << 4)
    inside = {"parent": run} if not backward_thread else {"thread": backward_thread}
    own = in_engine if not backward_thread else -1
    nodes: list[tuple[str, int, int, int]] = [
        ("SumBackward0", 510, 550, n + 2),
        ("ReluBackward0", 560, 620, n + 1),
        ("LinearBackward0", 630, 700, n),
        ("torch::autograd::AccumulateGrad", 710, 750, -1),
    ]
    if not backward_thread:
        for name, begin, end, number in nodes:
            p.node(name, t + begin, t + end, number, own, **inside)
    update = p.op("Optimizer.step#SGD.step", t + 850, t + 950, in_step, scope=SCOPE_USER, flags=int(Phase.OPTIMIZER) << 4)
    p.op("aten::add_", t + 870, t + 930, in_step, parent=update, flags=int(Phase.OPTIMIZER) << 4)
    if backward_thread:  # rows are in order of threads
        for name, begin, end, number in nodes:
            p.node(name, t + begin, t + end, number, own, **inside)
    return p


def in_one_line(trace: Trace) -> Trace:
    """The same trace, as if the first line of this file had done it all."""
    rows = {"op_stacks": trace.ops, "call_stacks": trace.module_calls, "allocation_stacks": trace.allocations}
    return replace(
        trace,
        strings=[*trace.strings, "work", str(HERE)],
        functions=np.array([(len(trace.strings), len(trace.strings) + 1, -1)], dtype=STACKS["functions"]),
        stacks=np.array([(-1, 0, 1)], dtype=STACKS["stacks"]),
        **{name: np.zeros(len(table), dtype=STACKS[name]) for name, table in rows.items()},
    )


SELF = {
    "train.py:17 train": 120,
    "train.py:20": 70,
    "train.py:21": 90,
    "train.py:22": 100,
    "net.py:7 Net.forward": 120,
    "net.py:8": 240,
    "net.py:9": 110,
    "unknown": 150,
}
"""Nanoseconds of every line of `training`."""

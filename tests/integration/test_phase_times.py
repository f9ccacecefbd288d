"""Times by phase and self times, computed in C++, against an oracle and against those of Python, on random nestings."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from phase_oracle import COLUMNS, phase_times, spans
from test_collator import collator

from torchprof.analysis.time.self_times import nested_self_times, self_times
from torchprof.trace.schema import LAYOUTS, SCOPE_BACKWARD, SCOPE_USER, Phase, phases
from torchprof.trace.trace import Trace

Event = tuple[Any, ...]
RANGES = [
    "train",
    "Optimizer.step#SGD.step",
    "enumerate(DataLoader)#Iter.__next__",
    "iter(DataLoader)",
    "run_backward(autograd)",
]
OPS = [("aten::a", 0), ("autograd::engine::evaluate_function: X", 0), ("XBackward0", SCOPE_BACKWARD)]
END = 60


@st.composite
def threads(draw: st.DrawFn) -> list[list[Event]]:
    """Events of up to three threads: ops, autograd nodes and calls nest, and ranges may end while later ones go on."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        events: list[Event] = []
        nest: list[tuple[str, int]] = []
        clock, keys = draw(st.integers(0, 15)), 0
        for action in draw(st.lists(st.sampled_from(["op", "range", "call", "leave", "leave", "cross"]), max_size=14)):
            clock += draw(st.integers(1, 3))
            if action == "call":
                events.append(("call", clock, draw(st.integers(1, 2)), "M"))
                nest.append(("call", 0))
            elif action in ("op", "range"):
                keys += 1
                name, scope = draw(st.sampled_from(OPS)) if action == "op" else (draw(st.sampled_from(RANGES)), SCOPE_USER)
                events.append(("op", keys, clock, name, -1, 0, scope))
                nest.append((action, keys))
            elif action == "cross" and [kind for kind, _ in nest[-2:]] == ["range", "range"]:
                _, key = nest.pop(-2)
                events.append(("end", key, clock))
            elif nest:
                kind, key = nest.pop()
                events.append(("return", clock) if kind == "call" else ("end", key, clock))
        made.append(events)
    return made


@settings(max_examples=150)
@given(threads(), st.lists(st.integers(0, END), max_size=4, unique=True).map(sorted))
def test_times_are_those_of_the_oracle_and_partition_every_step(made: list[list[Event]], bounds: list[int]) -> None:
    steps = list(pairwise(bounds))
    raw, strings, _, (op_self, call_self) = collator().collate_events(made, 2**30, [], steps, END)
    tables = {name: rows.view(LAYOUTS[name]) for name, rows in raw.items()}
    found = spans(tables["ops"], tables["module_calls"], END)
    for step, (start, end) in zip(tables["steps"], steps, strict=True):
        expected = phase_times(found, start, end)
        assert {phase: step[column] for phase, column in COLUMNS.items()} == {phase: expected[phase] for phase in COLUMNS}
        assert sum(int(step[column]) for column in COLUMNS.values()) + expected[Phase.OTHER] == end - start

    trace = Trace(**tables, strings=strings, facts={"duration_ns": END})
    assert [list(each) for each in self_times(trace)] == [op_self, call_self]
    nested = nested_self_times(trace)
    for thread in range(len(made)):
        mine = [span for span in found if span.thread == thread]
        covered = {time for span in mine for time in range(span.start, span.end)}
        of_thread = nested[0][tables["ops"]["thread"] == thread].sum()
        of_thread += nested[1][tables["module_calls"]["thread"] == thread].sum()
        assert of_thread == len(covered)
    waits = waits_of_oracle(trace, END)
    assert {row: waited for row, waited in enumerate((nested[0] - op_self).tolist()) if waited} == waits


def waits_of_oracle(trace: Trace, end: int) -> dict[int, int]:
    """By row of the ops: how long a range around the engine was innermost while the engine worked on another thread."""
    ops, calls, phase = trace.ops, trace.module_calls, phases(trace.ops)
    found: dict[int, int] = {}
    rows = [(int(row["start"]), 1, at, row) for at, row in enumerate(ops)]
    rows += [(int(row["start"]), 0 if row["op"] < 0 else 2, at, row) for at, row in enumerate(calls)]
    for moment in range(end):
        innermost: dict[int, tuple[int, int, int, Any]] = {}
        working: set[int] = set()
        for each in sorted(rows, key=lambda each: each[:3]):
            start, kind, at, row = each
            if start <= moment < (row["end"] if row["end"] >= 0 else end):
                innermost[int(row["thread"])] = each
                if kind == 1 and row["parent"] < 0 and row["scope"] != SCOPE_USER and phase[at] == Phase.BACKWARD:
                    working.add(int(row["thread"]))
        for thread, (_, kind, at, row) in innermost.items():
            in_backward = row["parent"] >= 0 and kind == 1 and phase[row["parent"]] == Phase.BACKWARD
            calls_engine = kind == 1 and row["scope"] == SCOPE_USER and phase[at] == Phase.BACKWARD and not in_backward
            if calls_engine and working - {thread}:
                found[at] = found.get(at, 0) + 1
    return found


def test_a_thread_that_waits_for_the_engine_of_a_gpu_has_no_time_meanwhile() -> None:
    main: list[Event] = [("op", 1, 10, "run_backward(autograd)", -1, 0, SCOPE_USER), ("op", 2, 12, "aten::a", -1, 0, 0)]
    main += [("end", 2, 15), ("end", 1, 50)]
    autograd: list[Event] = [("op", 1, 14, OPS[1][0], -1, 0, 0), ("op", 2, 16, "XBackward0", -1, 0, SCOPE_BACKWARD)]
    autograd += [("end", 2, 18), ("end", 1, 20), ("op", 3, 30, OPS[1][0], -1, 0, 0), ("end", 3, 45)]
    raw, strings, _, (op_self, _) = collator().collate_events([main, autograd], 2**30, [], [(0, END)], END)
    tables = {name: rows.view(LAYOUTS[name]) for name, rows in raw.items()}
    trace = Trace(**tables, strings=strings, facts={"duration_ns": END})
    assert nested_self_times(trace)[0].tolist() == [37, 3, 4, 2, 15]
    assert op_self == self_times(trace)[0].tolist() == [37 - 5 - 15, 3, 4, 2, 15]

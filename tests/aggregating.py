"""A recorded trace as an aggregated one, summed row by row as csrc/trace/rows.h defines it: slow, but simple."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from torchprof.analysis.time.self_times import self_times
from torchprof.trace.schema import LAYOUTS, NO_NAME, OP_NESTED, OP_WRAPPER, phases_of_calls
from torchprof.trace.trace import Trace


def aggregate(trace: Trace) -> Trace:
    """Sums over the active steps in place of ops, module calls and kernels. Calls may not recurse."""
    tables = {"op_totals": _op_totals(trace), "call_totals": _call_totals(trace), "kernel_totals": _kernel_totals(trace)}
    empty = ("ops", "module_calls", "allocations", "kernels", "runtime_calls")
    tables |= {name: np.zeros(0, dtype=LAYOUTS[name]) for name in empty}
    return replace(trace, **tables, facts={**trace.facts, "aggregate": True})


def in_active_step(trace: Trace, time: int) -> bool:
    """Whether this time lies in an active step."""
    steps = trace.steps
    return not len(steps) or any(not step["warmup"] and step["start"] <= time < step["end"] for step in steps)


def duration(row: Any) -> int:
    return int(row["end"] - row["start"]) if row["end"] != -1 and row["end"] > row["start"] else 0


def counted_kernels(trace: Trace) -> list[Any]:
    """The kernels of active steps."""

    def launch_time(row: Any) -> int:
        for table, column in (("runtime_calls", "runtime_call"), ("ops", "op")):
            if row[column] >= 0:
                return int(getattr(trace, table)["start"][row[column]])
        return int(row["start"])

    return [row for row in trace.kernels if in_active_step(trace, launch_time(row))]


def _module(trace: Trace, row: Any) -> int:
    return int(trace.module_calls["module"][row["module_call"]]) if row["module_call"] >= 0 else -1


def _op_totals(trace: Trace) -> Any:
    ops = trace.ops
    inside: dict[int, int] = defaultdict(int)
    own: dict[int, int] = defaultdict(int)
    kernels: dict[int, int] = defaultdict(int)
    for row in trace.kernels:
        op = int(row["op"])
        if op >= 0:
            own[op] += duration(row)
            kernels[op] += 1
        while op >= 0:
            inside[op] += duration(row)
            op = int(ops["parent"][op])
    groups: dict[Any, dict[str, int]] = {}
    op_self, _ = self_times(trace)
    for at, op in enumerate(ops):
        if in_active_step(trace, op["start"]):
            flags = int(op["flags"])
            key = (
                ("signature", int(op["signature"])),
                ("module", _module(trace, op)),
                ("phase", flags >> 4),
                ("nested", int(flags & OP_NESTED != 0)),
                ("wrapper", int(flags & OP_WRAPPER != 0)),
                ("stack", -1),
            )
            sums = {"time": duration(op), "self_time": int(op_self[at]), "device_time": inside[at], "device_self": own[at]}
            allocations = trace.allocations[(trace.allocations["op"] == at) & (trace.allocations["start"] >= 0)]
            sums |= {"kernels": kernels[at], "allocated": int(allocations["bytes"].sum())}
            _add(groups.setdefault(key, {}), sums, duration(op))
    return _table("op_totals", groups)


def _call_totals(trace: Trace) -> Any:
    groups: dict[Any, dict[str, int]] = {}
    calls = trace.module_calls
    _, call_self = self_times(trace)
    for at, call in enumerate(calls):
        if in_active_step(trace, call["start"]):
            parent = int(call["parent"])
            phase = int(phases_of_calls(calls[[at]])[0])
            caller = int(calls["module"][parent]) if parent >= 0 else -1
            key = (("module", int(call["module"])), ("phase", phase), ("caller", caller), ("stack", -1))
            _add(groups.setdefault(key, {}), {"time": duration(call), "self_time": int(call_self[at])}, duration(call))
    return _table("call_totals", groups)


def _kernel_totals(trace: Trace) -> Any:
    groups: dict[Any, dict[str, int]] = {}
    for row in counted_kernels(trace):
        key = (
            ("name", int(row["name"])),
            ("op", int(trace.op_names[row["op"]]) if row["op"] >= 0 else NO_NAME),
            ("module", _module(trace, row)),
            *((column, int(row[column])) for column in ("device_type", "device_index", "kind", "direction", "phase")),
            ("in_graph", int(row["graph"] != 0)),
        )
        _add(groups.setdefault(key, {}), {"time": duration(row), "bytes": int(row["bytes"])}, duration(row))
    return _table("kernel_totals", groups)


def _add(group: dict[str, int], sums: dict[str, int], time: int) -> None:
    for name, value in (("count", 1), *sums.items()):
        group[name] = group.get(name, 0) + value
    group["min"] = min(group.get("min", time), time)
    group["max"] = max(group.get("max", time), time)


def _table(name: str, groups: dict[Any, dict[str, int]]) -> Any:
    table = np.zeros(len(groups), dtype=LAYOUTS[name])
    for at, (key, sums) in enumerate(sorted(groups.items())):
        for column, value in (*key, *sums.items()):
            table[at][column] = value
    return table

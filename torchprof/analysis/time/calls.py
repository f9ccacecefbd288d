"""What every module call cost: forward time, and the time of the backward ops it led to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import OP_ATTRIBUTED, SCOPE_USER, Rows
from torchprof.trace.trace import Trace

__all__ = [
    "CallCosts",
    "call_costs",
    "closed_ends",
    "durations",
    "modules_of_calls",
    "names_of_ops",
    "outermost",
    "sum_by_parent",
    "with_descendants",
]

Nanoseconds = npt.NDArray[np.int64]

ENGINE = "autograd::engine::evaluate_function"


@dataclass(frozen=True, slots=True)
class CallCosts:
    """One value per row of ``trace.module_calls``, in nanoseconds of host time.

    A call's total contains the calls inside it; its self time does not. Self times of a call and of everything inside it
    add up to its total.

    Attributes:
        forward, forward_self: from entering the call to leaving it; 0 where the end was not seen.
        backward, backward_self: ops of backward passes that differentiate ops of the call.
        outermost: False for a call inside another call of the same module.
        backward_unattributed: backward time that belongs to no call, such as the accumulation of gradients.
    """

    forward: Nanoseconds
    forward_self: Nanoseconds
    backward: Nanoseconds
    backward_self: Nanoseconds
    outermost: npt.NDArray[np.bool_]
    backward_unattributed: int


def call_costs(trace: Trace) -> CallCosts:
    """Forward and backward time of every module call of a trace."""
    calls = trace.module_calls
    parent = calls["parent"]
    forward = durations(calls)
    backward_self, unattributed = _backward_self(trace)
    return CallCosts(
        forward=forward,
        forward_self=forward - sum_by_parent(forward, parent),
        backward=with_descendants(backward_self, parent),
        backward_self=backward_self,
        outermost=outermost(calls),
        backward_unattributed=unattributed,
    )


def durations(rows: Rows) -> Nanoseconds:
    """Nanoseconds of every row of ``ops`` or ``module_calls``; 0 where the end was not seen."""
    duration: Nanoseconds = np.where(rows["end"] >= 0, rows["end"] - rows["start"], 0)
    return duration


def modules_of_calls(trace: Trace, call: Rows) -> Nanoseconds:
    """The row of ``trace.modules`` of each of these rows of ``module_calls``; -1 for none."""
    modules: Nanoseconds = np.append(trace.module_calls["module"].astype(np.int64), -1)
    return modules[np.where(call >= 0, call, -1)]


def names_of_ops(trace: Trace, op: Rows) -> npt.NDArray[np.int64]:
    """The row of ``trace.strings`` with the name of each of these rows of ``ops``; -1 for none."""
    names: npt.NDArray[np.int64] = np.append(trace.op_names.astype(np.int64), -1)
    return names[np.where(op >= 0, op, -1)]


def closed_ends(trace: Trace, rows: Rows) -> Nanoseconds:
    """When these ops or module calls ended; where that was not seen, when what they ran in did, or the trace."""
    duration = int(trace.facts.get("duration_ns", 0))
    tables = (trace.ops, trace.module_calls, trace.steps)
    latest = max(duration, *(int(table[column].max(initial=0)) for table in tables for column in ("start", "end")))
    ends: Nanoseconds = np.where(rows["end"] >= 0, rows["end"], latest)
    for row in np.flatnonzero(rows["end"] < 0).tolist():  # parents come first
        parent = rows["parent"][row]
        if parent >= 0:
            ends[row] = min(ends[row], ends[parent])
    return ends


def sum_by_parent(values: Nanoseconds, parent: Rows) -> Nanoseconds:
    """For every row, the sum of its children's values."""
    has_parent = parent >= 0
    sums = np.bincount(parent[has_parent], weights=values[has_parent], minlength=len(values))  # exact: below 2**53
    return sums.astype(np.int64)


def with_descendants(values: Nanoseconds, parent: Rows) -> Nanoseconds:
    """For every row, its value and those of everything below it: carried up one level of the tree at a time."""
    total = values.copy()
    carried = values
    while carried.any():
        carried = sum_by_parent(carried, parent)
        total += carried
    return total


def outermost(calls: Rows) -> npt.NDArray[np.bool_]:
    """False for a call inside another call of the same module."""
    module, parent = calls["module"], calls["parent"]
    outermost = np.ones(len(calls), dtype=np.bool_)
    ancestor = parent
    while (ancestor >= 0).any():
        outermost &= (ancestor < 0) | (module[ancestor] != module)
        ancestor = np.where(ancestor >= 0, parent[ancestor], -1)
    return outermost


def _backward_self(trace: Trace) -> tuple[Nanoseconds, int]:
    ops = trace.ops
    by_call = np.zeros(len(trace.module_calls), dtype=np.int64)
    joined = (ops["flags"] & OP_ATTRIBUTED) != 0
    engine_names = [row for row, name in enumerate(trace.strings) if name.startswith(ENGINE)]
    if not engine_names:
        return by_call, 0
    duration = durations(ops)
    own = duration - sum_by_parent(duration, ops["parent"])
    attributed = joined & (ops["module_call"] >= 0)
    np.add.at(by_call, ops["module_call"][attributed], own[attributed])
    lost = np.isin(trace.op_names, engine_names) & ~attributed & (ops["scope"] != SCOPE_USER)
    return by_call, int(duration[lost].sum())

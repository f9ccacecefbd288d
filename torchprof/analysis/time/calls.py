"""The cost of every module call: forward time, and the time of the backward ops that are attributed to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.model.callers import callers, is_recomputed
from torchprof.analysis.spans import durations, sum_by_parent, with_descendants
from torchprof.trace.schema import OP_ATTRIBUTED, SCOPE_USER, Rows
from torchprof.trace.trace import Trace

__all__ = ["CallCosts", "call_costs", "outermost"]

Nanoseconds = npt.NDArray[np.int64]

ENGINE = "autograd::engine::evaluate_function"


@dataclass(frozen=True, slots=True)
class CallCosts:
    """One value per row of ``trace.module_calls``, in nanoseconds of host time.

    The total of a call contains the calls inside it; its self time does not. The self times of a call and of all calls inside
    it add up to its total.

    Attributes:
        forward, forward_self: from the start of the call to its end; 0 where the end was not recorded, and where it is
            recomputation.
        recompute, recompute_self: the same of recomputation, which runs inside backward passes. The total of a call contains
            that of the calls it made in forward.
        backward, backward_self: ops of backward passes that differentiate ops of the call.
        outermost: False for a call inside another call of the same module.
        backward_unattributed: backward time that is attributed to no call, such as the accumulation of gradients.
    """

    forward: Nanoseconds
    forward_self: Nanoseconds
    recompute: Nanoseconds
    recompute_self: Nanoseconds
    backward: Nanoseconds
    backward_self: Nanoseconds
    outermost: npt.NDArray[np.bool_]
    backward_unattributed: int


def call_costs(trace: Trace) -> CallCosts:
    """Forward and backward time of every module call of a trace."""
    calls = trace.module_calls
    total = durations(calls)
    self_time = total - sum_by_parent(total, calls["parent"])
    again = is_recomputed(trace)
    recompute_self = np.where(again, self_time, 0)
    backward_self, unattributed = _backward_self(trace)
    made_by = callers(trace) if again.any() else calls["parent"]
    return CallCosts(
        forward=np.where(again, 0, total),
        forward_self=np.where(again, 0, self_time),
        recompute=with_descendants(recompute_self, made_by),
        recompute_self=recompute_self,
        backward=with_descendants(backward_self, made_by),
        backward_self=backward_self,
        outermost=outermost(calls),
        backward_unattributed=unattributed,
    )


def outermost(calls: Rows) -> npt.NDArray[np.bool_]:
    """For every row of ``module_calls``: False for a call inside another call of the same module."""
    module, parent = calls["module"], calls["parent"]
    outermost = np.ones(len(calls), dtype=np.bool_)
    ancestor = parent
    while (ancestor >= 0).any():
        outermost &= (ancestor < 0) | (module[ancestor] != module)
        ancestor = np.where(ancestor >= 0, parent[ancestor], -1)
    return outermost


def _backward_self(trace: Trace) -> tuple[Nanoseconds, int]:
    """Self time of the backward ops attributed to every call, and the backward time that is attributed to none."""
    ops = trace.ops
    by_call = np.zeros(len(trace.module_calls), dtype=np.int64)
    engine_names = [row for row, name in enumerate(trace.strings) if name.startswith(ENGINE)]
    if not engine_names:
        return by_call, 0
    duration = durations(ops)
    self_time = duration - sum_by_parent(duration, ops["parent"]) - _python_of_recomputation(trace, duration)
    attributed = (ops["flags"] & OP_ATTRIBUTED != 0) & (ops["module_call"] >= 0)
    np.add.at(by_call, ops["module_call"][attributed], self_time[attributed])
    unattributed = np.isin(trace.op_names, engine_names) & ~attributed & (ops["scope"] != SCOPE_USER)
    return by_call, int(duration[unattributed].sum())


def _python_of_recomputation(trace: Trace, duration: Nanoseconds) -> Nanoseconds:
    """For every op, the time of module calls that it recomputes beyond that of their ops, which is no time of its own."""
    calls, ops = trace.module_calls, trace.ops
    again = is_recomputed(trace)
    roots = np.flatnonzero(again & (calls["op"] >= 0) & (np.append(calls["op"], -1)[calls["parent"]] != calls["op"]))
    if not len(roots):
        return np.zeros(len(ops), dtype=np.int64)
    within = (ops["module_call"] >= 0) & (ops["flags"] & OP_ATTRIBUTED == 0) & (ops["parent"] >= 0)
    within &= np.append(again, False)[ops["module_call"]]  # ops of recomputed calls, of which those are counted that stand
    within &= np.append(calls["op"], -1)[ops["module_call"]] == ops["parent"]  # directly in the op that recomputes
    python = np.bincount(calls["op"][roots], weights=durations(calls)[roots], minlength=len(ops))
    python -= np.bincount(ops["parent"][within], weights=duration[within], minlength=len(ops))
    return python.astype(np.int64)

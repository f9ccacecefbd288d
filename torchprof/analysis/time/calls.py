"""The cost of every module call: forward time, and the time of the backward ops that are attributed to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
        forward, forward_self: from the start of the call to its end; 0 where the end was not recorded.
        backward, backward_self: ops of backward passes that differentiate ops of the call.
        outermost: False for a call inside another call of the same module.
        backward_unattributed: backward time that is attributed to no call, such as the accumulation of gradients.
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
    self_time = duration - sum_by_parent(duration, ops["parent"])
    attributed = (ops["flags"] & OP_ATTRIBUTED != 0) & (ops["module_call"] >= 0)
    np.add.at(by_call, ops["module_call"][attributed], self_time[attributed])
    unattributed = np.isin(trace.op_names, engine_names) & ~attributed & (ops["scope"] != SCOPE_USER)
    return by_call, int(duration[unattributed].sum())

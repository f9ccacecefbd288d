"""Sums over the steps of a recording: what every table by module, op or step is made of.

A trace gives them in one of two ways, and they are the same: grouped here from its rows, step by step; or folded while it was
recorded (``profile(aggregate=True)``), as sums over all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernels import folded_kernels, kernel_sums, kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.model.flops import counted_bytes, counted_flops
from torchprof.analysis.steps import active_steps, step_of
from torchprof.analysis.time.calls import durations, modules_of_calls, outermost, sum_by_parent, with_descendants
from torchprof.trace.schema import CALL_RECOMPUTED, OP_NESTED, OP_WRAPPER, Rows, phases
from torchprof.trace.trace import Trace

__all__ = ["StepTotals", "step_totals"]

Ints = npt.NDArray[np.int64]

OPS = np.dtype(
    [
        ("signature", "i8"),
        ("module", "i8"),  # row of trace.modules, -1: none
        ("phase", "i8"),
        ("nested", "i8"),
        ("wrapper", "i8"),
        ("step", "i8"),  # counted from the first active step
        ("count", "i8"),
        ("time", "i8"),
        ("self_time", "i8"),
        ("min", "i8"),
        ("max", "i8"),
        ("allocated", "i8"),
        ("device_time", "i8"),  # of kernels that the op, or an op inside it, asked for
        ("device_self", "i8"),  # of kernels that it asked for itself
        ("kernels", "i8"),  # how many those are
    ]
)
CALLS = np.dtype([("module", "i8"), ("recomputed", "i8"), ("step", "i8"), ("count", "i8"), ("time", "i8"), ("self_time", "i8")])


@dataclass(frozen=True)
class StepTotals:
    """Sums by signature, module and phase of ops, by module of calls, and by name, op, module and phase of kernels.

    Attributes:
        trace: where they come from.
        ops, calls, kernels: one row for each group (and step, where ``by_step``).
        steps: how many active steps there are; 1 where none were marked: then the whole recording is one.
        by_step: whether rows are told apart by step. Not so in an aggregated trace, whose ``step`` is always 0.
    """

    trace: Trace
    ops: Rows
    calls: Rows
    kernels: Rows
    steps: int
    by_step: bool

    @cached_property
    def op_flops(self) -> Ints:
        """FLOPs of every row of ``ops``."""
        flops: Ints = counted_flops(self.trace, self.ops["signature"], self.ops["nested"] != 0) * self.ops["count"]
        return flops

    @cached_property
    def op_bytes(self) -> Ints:
        """Bytes read and written by every row of ``ops``: those of an op that leaves the work to others are theirs."""
        nested, wrapper = self.ops["nested"] != 0, self.ops["wrapper"] != 0
        moved: Ints = counted_bytes(self.trace, self.ops["signature"], nested, wrapper) * self.ops["count"]
        return moved

    def sums(self, key: npt.ArrayLike, groups: int, values: npt.ArrayLike, steps: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """``values`` summed by key and step: an array of shape ``[groups, steps]``."""
        columns = self.steps if self.by_step else 1
        flat = np.asarray(key, dtype=np.int64) * columns + np.asarray(steps, dtype=np.int64)
        sums = np.bincount(flat, weights=np.asarray(values, dtype=np.float64), minlength=groups * columns)
        return np.asarray(sums, dtype=np.float64).reshape(groups, columns)

    def mean(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Mean per step of what ``sums`` returned."""
        mean: npt.NDArray[np.float64] = sums.sum(axis=1) / self.steps
        return mean

    def spread(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Standard deviation over steps; NaN where steps are not told apart or there is one."""
        if not self.by_step or self.steps < 2:
            return np.full(len(sums), np.nan)
        spread: npt.NDArray[np.float64] = sums.std(axis=1, ddof=1)
        return spread


def step_totals(trace: Trace) -> StepTotals:
    """The sums of a trace over its active steps."""
    active = active_steps(trace)
    steps = max(1, len(active))
    if len(trace.op_totals) or len(trace.call_totals) or len(trace.kernel_totals) or trace.facts.get("aggregate"):
        ops, calls = _folded(trace.op_totals, OPS), _folded(trace.call_totals, CALLS)
        return StepTotals(trace, ops, calls, folded_kernels(trace.kernel_totals), steps, False)
    return StepTotals(trace, _ops(trace, active), _calls(trace, active), kernel_sums(trace, active), steps, True)


def _folded(totals: Rows, layout: np.dtype[np.void]) -> Rows:
    rows = np.zeros(len(totals), dtype=layout)
    for name in layout.names or ():
        if name != "step":
            rows[name] = totals[name]
    return rows


def _ops(trace: Trace, active: Rows) -> Rows:
    ops = trace.ops
    time = durations(ops)
    own = time - sum_by_parent(time, ops["parent"])
    step = step_of(ops["start"], trace, active)
    module = modules_of_calls(trace, ops["module_call"])
    allocated = np.zeros(len(ops), dtype=np.int64)
    made = trace.allocations[(trace.allocations["op"] >= 0) & (trace.allocations["start"] >= 0)]
    np.add.at(allocated, made["op"], made["bytes"])

    nested = (ops["flags"] & OP_NESTED != 0).astype(np.int64)
    wrapper = (ops["flags"] & OP_WRAPPER != 0).astype(np.int64)
    device_self, kernels = _asked_for(trace)
    device_time = with_descendants(device_self, ops["parent"])
    columns = (ops["signature"], module, phases(ops), nested, wrapper, step)
    counted = np.flatnonzero(step >= 0)
    groups = Groups.by([column[counted] for column in columns])
    rows = np.zeros(len(groups.first), dtype=OPS)
    example = counted[groups.first]
    for name, column in zip(OPS.names or (), columns, strict=False):
        rows[name] = column[example]
    rows["count"] = groups.count
    summed = {"time": time, "self_time": own, "allocated": allocated}
    summed |= {"device_time": device_time, "device_self": device_self, "kernels": kernels}
    for name, values in summed.items():
        rows[name] = groups.sums(values[counted])
    rows["min"], rows["max"] = groups.least(time[counted]), groups.most(time[counted])
    return rows


def _asked_for(trace: Trace) -> tuple[Ints, Ints]:
    """Of every op, the device time and the number of the kernels that it asked for itself."""
    known = np.flatnonzero(trace.kernels["op"] >= 0)
    op = trace.kernels["op"][known]
    time = np.bincount(op, weights=kernel_times(trace.kernels)[known], minlength=len(trace.ops))
    return time.astype(np.int64), np.bincount(op, minlength=len(trace.ops)).astype(np.int64)


def _calls(trace: Trace, active: Rows) -> Rows:
    calls = trace.module_calls
    time = durations(calls)
    own = time - sum_by_parent(time, calls["parent"])
    time = np.where(outermost(calls), time, 0)
    step = step_of(calls["start"], trace, active)
    recomputed = (calls["flags"] & CALL_RECOMPUTED != 0).astype(np.int64)
    counted = np.flatnonzero(step >= 0)
    groups = Groups.by([column[counted] for column in (calls["module"], recomputed, step)])
    rows = np.zeros(len(groups.first), dtype=CALLS)
    example = counted[groups.first]
    rows["module"], rows["recomputed"], rows["step"] = calls["module"][example], recomputed[example], step[example]
    rows["count"] = groups.count
    rows["time"], rows["self_time"] = groups.sums(time[counted]), groups.sums(own[counted])
    return rows

"""Sums over the steps of a recording, from which every table by module, op, step or kernel is computed.

They come from one of two sources, and are the same: from the rows of a trace, summed here by step; or from a trace that was
aggregated while it was recorded (``profile(aggregate=True)``), which holds the sums over all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernel_sums import aggregated_kernel_sums, kernel_sums
from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.model.flops import counted_bytes, counted_flops, is_unknown
from torchprof.analysis.spans import durations, with_descendants
from torchprof.analysis.steps import active_steps, step_of
from torchprof.analysis.time.calls import outermost
from torchprof.analysis.time.self_times import nested_self_times
from torchprof.trace.schema import OP_NESTED, OP_WRAPPER, Rows, phases, phases_of_calls
from torchprof.trace.trace import Trace

__all__ = ["StepTotals", "step_totals"]

Ints = npt.NDArray[np.int64]

OPS = np.dtype(
    [
        ("signature", "i8"),
        ("module", "i8"),  # row of trace.modules; -1 for none
        ("phase", "i8"),
        ("nested", "i8"),
        ("wrapper", "i8"),
        ("step", "i8"),  # index among the active steps
        ("count", "i8"),
        ("time", "i8"),
        ("self_time", "i8"),
        ("min", "i8"),
        ("max", "i8"),
        ("allocated", "i8"),
        ("device_time", "i8"),  # of the kernels that the op, or an op inside it, launched
        ("device_self", "i8"),  # of the kernels that the op launched itself
        ("kernels", "i8"),  # the number of these
        ("merged", "i8"),  # not 0: many shapes in one row, as in an op total; so are the next three
        ("flops", "i8"),
        ("moved", "f8"),
        ("unknown", "i8"),
    ]
)
CALLS = np.dtype([("module", "i8"), ("phase", "i8"), ("step", "i8"), ("count", "i8"), ("time", "i8"), ("self_time", "i8")])


@dataclass(frozen=True)
class StepTotals:
    """Sums of ops by signature, module and phase, of calls by module and phase, and of kernels by name, op, module and phase.

    Times are ``time``, with what runs inside, and ``self_time``, without the ops and module calls inside.

    Attributes:
        trace: the trace they were computed from.
        ops, calls, kernels: one row for each group, and for each step if ``by_step``.
        steps: the number of active steps. A recording without steps counts as one.
        by_step: whether there are rows for each step. An aggregated trace has sums over all steps: their ``step`` is 0.
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
        return np.where(self.ops["merged"] != 0, self.ops["flops"], flops)

    @cached_property
    def op_unknown(self) -> npt.NDArray[np.bool_]:
        """Of every row of ``ops``, whether it has FLOPs of which nobody knows how many."""
        unknown: npt.NDArray[np.bool_] = is_unknown(self.trace, self.ops["signature"], self.ops["nested"] != 0)
        unknown |= self.ops["unknown"] != 0
        return unknown

    @cached_property
    def op_bytes(self) -> npt.NDArray[np.float64]:
        """Bytes read and written by every row of ``ops``. 0 for an op that leaves the work to ops inside it; NaN: unknown."""
        nested, wrapper = self.ops["nested"] != 0, self.ops["wrapper"] != 0
        moved: npt.NDArray[np.float64] = counted_bytes(self.trace, self.ops["signature"], nested, wrapper) * self.ops["count"]
        return np.where(self.ops["merged"] != 0, self.ops["moved"], moved)

    def sums(self, key: npt.ArrayLike, groups: int, values: npt.ArrayLike, steps: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """``values`` summed by key and step: ``[groups, steps]``, or ``[groups, 1]`` without ``by_step``."""
        columns = self.steps if self.by_step else 1
        flat = np.asarray(key, dtype=np.int64) * columns + np.asarray(steps, dtype=np.int64)
        sums = np.bincount(flat, weights=np.asarray(values, dtype=np.float64), minlength=groups * columns)
        return np.asarray(sums, dtype=np.float64).reshape(groups, columns)

    def mean(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The mean per step of what `sums` returned."""
        mean: npt.NDArray[np.float64] = sums.sum(axis=1) / self.steps
        return mean

    def spread(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The standard deviation over steps of what `sums` returned; NaN for one step, and without ``by_step``."""
        if not self.by_step or self.steps < 2:
            return np.full(len(sums), np.nan)
        spread: npt.NDArray[np.float64] = sums.std(axis=1, ddof=1)
        return spread


def step_totals(trace: Trace) -> StepTotals:
    """The sums of a trace over its active steps."""
    active = active_steps(trace)
    steps = max(1, len(active))
    if len(trace.op_totals) or len(trace.call_totals) or len(trace.kernel_totals) or trace.facts.get("aggregate"):
        ops, calls = _aggregated(trace.op_totals, OPS), _aggregated(trace.call_totals, CALLS)
        return StepTotals(trace, ops, calls, aggregated_kernel_sums(trace.kernel_totals), steps, False)
    op_self, call_self = nested_self_times(trace)
    ops, calls = _ops(trace, active, op_self), _calls(trace, active, call_self)
    return StepTotals(trace, ops, calls, kernel_sums(trace, active), steps, True)


def _aggregated(totals: Rows, layout: np.dtype[np.void]) -> Rows:
    """The sums of an aggregated trace, in the layout of this module."""
    rows = np.zeros(len(totals), dtype=layout)
    for name in layout.names or ():
        if name != "step":
            rows[name] = totals[name]
    return rows


def _ops(trace: Trace, active: Rows, self_time: Ints) -> Rows:
    ops = trace.ops
    time = np.maximum(durations(ops), self_time)  # of one whose end was not recorded, at least that
    step = step_of(ops["start"], trace, active)
    module = modules_of_calls(trace, ops["module_call"])
    allocated = np.zeros(len(ops), dtype=np.int64)
    by_ops = trace.allocations[(trace.allocations["op"] >= 0) & (trace.allocations["start"] >= 0)]
    np.add.at(allocated, by_ops["op"], by_ops["bytes"])

    nested = (ops["flags"] & OP_NESTED != 0).astype(np.int64)
    wrapper = (ops["flags"] & OP_WRAPPER != 0).astype(np.int64)
    device_self, kernels = _launched(trace)
    device_time = with_descendants(device_self, ops["parent"])
    columns = (ops["signature"], module, phases(ops), nested, wrapper, step)
    counted = np.flatnonzero(step >= 0)
    groups = Groups.by([column[counted] for column in columns])
    rows = np.zeros(len(groups.first), dtype=OPS)
    example = counted[groups.first]
    for name, column in zip(OPS.names or (), columns, strict=False):
        rows[name] = column[example]
    rows["count"] = groups.count
    summed = {"time": time, "self_time": self_time, "allocated": allocated}
    summed |= {"device_time": device_time, "device_self": device_self, "kernels": kernels}
    for name, values in summed.items():
        rows[name] = groups.sums(values[counted])
    rows["min"], rows["max"] = groups.minimum(time[counted]), groups.maximum(time[counted])
    return rows


def _launched(trace: Trace) -> tuple[Ints, Ints]:
    """The device time and the number of the kernels that every op launched itself."""
    of_ops = np.flatnonzero(trace.kernels["op"] >= 0)
    op = trace.kernels["op"][of_ops]
    time = np.bincount(op, weights=kernel_times(trace.kernels)[of_ops], minlength=len(trace.ops))
    return time.astype(np.int64), np.bincount(op, minlength=len(trace.ops)).astype(np.int64)


def _calls(trace: Trace, active: Rows, self_time: Ints) -> Rows:
    calls = trace.module_calls
    time = np.where(outermost(calls), np.maximum(durations(calls), self_time), 0)
    step = step_of(calls["start"], trace, active)
    phase = phases_of_calls(calls)
    counted = np.flatnonzero(step >= 0)
    groups = Groups.by([column[counted] for column in (calls["module"], phase, step)])
    rows = np.zeros(len(groups.first), dtype=CALLS)
    example = counted[groups.first]
    rows["module"], rows["phase"], rows["step"] = calls["module"][example], phase[example], step[example]
    rows["count"] = groups.count
    rows["time"], rows["self_time"] = groups.sums(time[counted]), groups.sums(self_time[counted])
    return rows

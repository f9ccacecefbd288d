"""Sums over the steps of a recording, from which every table by module, op, step or kernel is computed.

They come from one of two sources, and are the same: from the rows of a trace, summed here by step; or from a trace that was
aggregated while it was recorded (``profile(aggregate=True)``), which holds the sums over all steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernel_sums import aggregated_kernel_sums, kernel_sums
from torchprof.analysis.gpu.op_kernels import device_times_of_ops, kernels_of_ops
from torchprof.analysis.groups import Groups
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.model.flops import counted_bytes, counted_flops, is_unknown
from torchprof.analysis.remembered import remembered
from torchprof.analysis.spans import durations, sum_by
from torchprof.analysis.steps import active_steps, step_of
from torchprof.analysis.time.calls import outermost
from torchprof.analysis.time.self_times import self_times_in_steps
from torchprof.trace.schema import OP_NESTED, OP_WRAPPER, PHASE_SHIFT, Rows, phases_of_calls
from torchprof.trace.trace import Trace

__all__ = ["StepTotals", "op_bytes", "step_totals"]

Ints = npt.NDArray[np.int64]

OPS = np.dtype(
    [
        ("signature", "i8"),
        ("module", "i8"),  # row of trace.modules; -1 for none
        ("phase", "i8"),
        ("nested", "i8"),
        ("wrapper", "i8"),
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
OF_GROUP = np.uint8((0xFF << PHASE_SHIFT) & 0xFF | OP_NESTED | OP_WRAPPER)
"""The flags that ops of a group have in common."""
CALLS = np.dtype([("module", "i8"), ("phase", "i8"), ("step", "i8"), ("count", "i8"), ("time", "i8"), ("self_time", "i8")])


@dataclass(frozen=True)
class SelfTimes:
    """The self time of the ops of each row of ``StepTotals.ops`` in each step in which there were any.

    Attributes:
        op, step, time: of the same length: the row, the index among the active steps, and nanoseconds.
    """

    op: npt.NDArray[np.integer]
    step: npt.NDArray[np.integer]
    time: Ints


@dataclass(frozen=True)
class StepTotals:
    """Sums of ops by signature, module and phase, of calls by module and phase, and of kernels by name, op, module and phase.

    Times are ``time``, with what runs inside, and ``self_time``, without the ops and module calls inside and without what is
    after the end of the step.

    Attributes:
        ops: one row for each group, over all steps. Of an aggregated trace it is the table of sums itself, whose columns are of
            narrower numbers, and nothing is copied: of a thousand ranks, that would be gigabytes.
        op_flops: FLOPs of every row of ``ops``.
        op_unknown: of every row of ``ops``, whether it has FLOPs of which nobody knows how many.
        self_times: of ``ops``, by step.
        calls, kernels: one row for each group, and for each step if ``by_step``.
        steps: the number of active steps. A recording without steps counts as one.
        by_step: whether there are figures for each step. An aggregated trace has sums over all steps: their step is 0.
    """

    ops: Rows
    op_flops: Ints
    op_unknown: npt.NDArray[np.bool_]
    self_times: SelfTimes
    calls: Rows
    kernels: Rows
    steps: int
    by_step: bool

    def sums(
        self, key: npt.ArrayLike, groups: int, values: npt.ArrayLike, steps: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.float64]:
        """``values`` summed by key and step: ``[groups, steps]``, or ``[groups, 1]`` without steps or ``by_step``."""
        flat, columns = np.asarray(key, dtype=np.int64), 1
        if steps is not None and self.by_step:
            columns = self.steps
            flat = flat * columns + np.asarray(steps, dtype=np.int64)
        sums = np.bincount(flat, weights=np.asarray(values, dtype=np.float64), minlength=groups * columns)
        return np.asarray(sums, dtype=np.float64).reshape(groups, columns)

    def sums_of_self_times(self, key: Ints, groups: int) -> npt.NDArray[np.float64]:
        """The self times of ``ops`` summed by step and key, one for each of its rows; a key of -1 is left out."""
        own = self.self_times
        return self.sums(key[own.op] + 1, groups + 1, own.time, own.step)[1:]

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


@remembered
def step_totals(trace: Trace) -> StepTotals:
    """The sums of a trace over its active steps."""
    active = active_steps(trace)
    steps = max(1, len(active))
    by_step = not (len(trace.op_totals) or len(trace.call_totals) or len(trace.kernel_totals) or trace.facts.get("aggregate"))
    if by_step:
        op_self, call_self = self_times_in_steps(trace)
        ops, self_times = _ops(trace, active, op_self)
        calls, kernels = _calls(trace, active, call_self), kernel_sums(trace, active)
    else:
        ops, calls = trace.op_totals, _aggregated(trace.call_totals, CALLS)
        kernels = aggregated_kernel_sums(trace.kernel_totals)
        first_step = np.broadcast_to(np.int32(0), len(ops))
        self_times = SelfTimes(np.arange(len(ops), dtype=np.int32), first_step, ops["self_time"])
    signature, count, merged, nested = ops["signature"], ops["count"], ops["merged"] != 0, ops["nested"] != 0
    return StepTotals(
        ops=ops,
        op_flops=np.where(merged, ops["flops"], counted_flops(trace, signature, nested) * count),
        op_unknown=is_unknown(trace, signature, nested) | (ops["unknown"] != 0),
        self_times=self_times,
        calls=calls,
        kernels=kernels,
        steps=steps,
        by_step=by_step,
    )


def op_bytes(trace: Trace, totals: StepTotals) -> npt.NDArray[np.float64]:
    """Bytes read and written by every row of ``totals.ops``. 0 for an op that leaves the work to those inside; NaN: unknown."""
    ops = totals.ops
    counted = counted_bytes(trace, ops["signature"], ops["nested"] != 0, ops["wrapper"] != 0)
    return np.where(ops["merged"] != 0, ops["moved"], counted * ops["count"])


def _aggregated(totals: Rows, layout: np.dtype[np.void]) -> Rows:
    """The sums of an aggregated trace, in the layout of this module."""
    rows = np.zeros(len(totals), dtype=layout)
    for name in layout.names or ():
        if name != "step":
            rows[name] = totals[name]
    return rows


def _ops(trace: Trace, active: Rows, self_time: Ints) -> tuple[Rows, SelfTimes]:
    ops, flags = trace.ops, trace.ops["flags"]
    step = step_of(ops["start"], trace, active)
    counted = np.flatnonzero(step >= 0)
    counts_all = len(counted) == len(ops)

    def of(column: Rows) -> Rows:
        """The column of the ops that count."""
        return column if counts_all else column[counted]

    step, self_time = of(step), of(self_time)
    time = np.maximum(of(durations(ops)), self_time)  # of one whose end was not recorded, at least that
    columns = (of(ops["signature"]), of(modules_of_calls(trace, ops["module_call"])), of(flags & OF_GROUP))
    groups = Groups.by(columns)
    rows = np.zeros(len(groups.first), dtype=OPS)
    rows["signature"], rows["module"] = columns[0][groups.first], columns[1][groups.first]
    kept = flags[counted[groups.first]]
    rows["phase"] = kept >> PHASE_SHIFT
    rows["nested"], rows["wrapper"] = kept & OP_NESTED != 0, kept & OP_WRAPPER != 0
    rows["count"], rows["time"], rows["self_time"] = groups.count, groups.sums(time), groups.sums(self_time)
    rows["min"], rows["max"] = groups.minimum(time), groups.maximum(time)
    allocations = trace.allocations
    if len(allocations):
        group = np.append(np.full(len(ops), -1), -1)
        group[counted] = groups.of
        group = np.where(allocations["start"] >= 0, group[allocations["op"]], -1)
        rows["allocated"] = sum_by(group, allocations["bytes"], len(rows))
    if len(trace.kernels):
        device_self, kernels = kernels_of_ops(trace)
        rows["device_time"] = groups.sums(of(device_times_of_ops(trace)))
        rows["device_self"], rows["kernels"] = groups.sums(of(device_self)), groups.sums(of(kernels))
    in_steps = Groups.by([groups.of, step])
    op, at = (column[in_steps.first].astype(np.int32) for column in (groups.of, step))
    return rows, SelfTimes(op, at, in_steps.sums(self_time))


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

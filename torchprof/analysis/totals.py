"""Sums over the steps of a recording: what every table by module, op or step is made of.

A trace gives them in one of two ways, and they are the same: grouped here from its rows, step by step; or folded while it was
recorded (``profile(aggregate=True)``), as sums over all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from torchprof.analysis.calls import durations, outermost, sum_by_parent
from torchprof.analysis.flops import counted_bytes, counted_flops
from torchprof.trace import CALL_RECOMPUTED, OP_NESTED, OP_WRAPPER, Table, Trace, phases

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
    ]
)
CALLS = np.dtype([("module", "i8"), ("recomputed", "i8"), ("step", "i8"), ("count", "i8"), ("time", "i8"), ("self_time", "i8")])


@dataclass(frozen=True)
class StepTotals:
    """Sums by signature, module and phase of ops, and by module of calls.

    Attributes:
        trace: where they come from.
        ops, calls: one row for each group (and step, where ``by_step``).
        steps: how many active steps there are; 1 where none were marked: then the whole recording is one.
        by_step: whether rows are told apart by step. Not so in an aggregated trace, whose ``step`` is always 0.
    """

    trace: Trace
    ops: Table
    calls: Table
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
    active = trace.steps[trace.steps["warmup"] == 0]
    if len(trace.op_totals) or len(trace.call_totals) or trace.facts.get("aggregate"):
        return StepTotals(trace, _folded(trace.op_totals, OPS), _folded(trace.call_totals, CALLS), max(1, len(active)), False)
    return StepTotals(trace, _ops(trace, active), _calls(trace, active), max(1, len(active)), True)


def _folded(totals: Table, layout: np.dtype[np.void]) -> Table:
    rows = np.zeros(len(totals), dtype=layout)
    for name in layout.names or ():
        if name != "step":
            rows[name] = totals[name]
    return rows


def step_of(times: Table, trace: Trace, active: Table) -> Ints:
    """The active step in which each moment lies; -1: in none. Where no steps were marked, everything is in the first."""
    if not len(trace.steps):
        return np.zeros(len(times), dtype=np.int64)
    if not len(active):
        return np.full(len(times), -1, dtype=np.int64)
    step = np.searchsorted(active["start"], times, side="right") - 1
    return np.where((step >= 0) & (times < active["end"][step]), step, -1)


def _ops(trace: Trace, active: Table) -> Table:
    ops = trace.ops
    time = durations(ops)
    own = time - sum_by_parent(time, ops["parent"])
    step = step_of(ops["start"], trace, active)
    call = ops["module_call"]
    module = np.full(len(ops), -1, dtype=np.int64)
    module[call >= 0] = trace.module_calls["module"][call[call >= 0]]
    allocated = np.zeros(len(ops), dtype=np.int64)
    made = trace.allocations[(trace.allocations["op"] >= 0) & (trace.allocations["start"] >= 0)]
    np.add.at(allocated, made["op"], made["bytes"])

    nested = (ops["flags"] & OP_NESTED != 0).astype(np.int64)
    wrapper = (ops["flags"] & OP_WRAPPER != 0).astype(np.int64)
    key = np.zeros(len(ops), dtype=np.int64)
    sizes = (len(trace.signatures), len(trace.modules) + 1, 8, 2, 2, max(1, len(active)) + 1)
    columns = (ops["signature"], module, phases(ops), nested, wrapper, step)
    for column, size, least in zip(columns, sizes, (0, -1, 0, 0, 0, -1), strict=True):
        key = key * size + column - least
    counted = np.flatnonzero(step >= 0)
    groups, first, inverse, count = np.unique(key[counted], return_index=True, return_inverse=True, return_counts=True)
    rows = np.zeros(len(groups), dtype=OPS)
    example = counted[first]
    for name, column in zip(OPS.names or (), columns, strict=False):
        rows[name] = column[example]
    rows["count"] = count
    for name, values in (("time", time), ("self_time", own), ("allocated", allocated)):
        rows[name] = np.bincount(inverse, weights=values[counted], minlength=len(groups))
    rows["min"] = np.iinfo(np.int64).max
    np.minimum.at(rows["min"], inverse, time[counted])
    np.maximum.at(rows["max"], inverse, time[counted])
    return rows


def _calls(trace: Trace, active: Table) -> Table:
    calls = trace.module_calls
    time = durations(calls)
    own = time - sum_by_parent(time, calls["parent"])
    time = np.where(outermost(calls), time, 0)
    step = step_of(calls["start"], trace, active)
    recomputed = (calls["flags"] & CALL_RECOMPUTED != 0).astype(np.int64)
    counted = np.flatnonzero(step >= 0)
    key = (calls["module"].astype(np.int64) * 2 + recomputed) * (len(active) + 1) + step
    groups, first, inverse, count = np.unique(key[counted], return_index=True, return_inverse=True, return_counts=True)
    rows = np.zeros(len(groups), dtype=CALLS)
    example = counted[first]
    rows["module"], rows["recomputed"], rows["step"] = calls["module"][example], recomputed[example], step[example]
    rows["count"] = count
    rows["time"] = np.bincount(inverse, weights=time[counted], minlength=len(groups))
    rows["self_time"] = np.bincount(inverse, weights=own[counted], minlength=len(groups))
    return rows

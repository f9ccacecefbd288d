"""The moment at which the most memory was held."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchprof.analysis.memory.allocator_totals import AllocatorTotals
from torchprof.analysis.memory.categories import phase_at
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.memory.modules import AllocationModules
from torchprof.trace.schema import Phase, Rows
from torchprof.trace.trace import Trace

__all__ = ["Peak", "peak_after", "peak_change"]


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment at which the most memory was held.

    Attributes:
        bytes: held at that moment.
        time: nanoseconds since the start of the recording.
        step: number of the step, or None outside of all steps.
        phase: ``"forward"``, ``"backward"``, ...
        op, module: what was running; empty where nothing was.
    """

    bytes: int
    time: int
    step: int | None
    phase: str
    op: str
    module: str


def peak_change(changes: Changes, totals: AllocatorTotals) -> int:
    """The index of the change after which the most was held; -1 where that was before the first change."""
    if not len(changes):
        return -1
    held = changes.held + totals.untracked_at(changes.times)
    change = int(np.argmax(held))
    if not totals:
        return change
    return change if held[change] > changes.held_before + int(totals.untracked_at(np.array([0]))[0]) else -1


def peak_after(
    trace: Trace, allocations: Rows, modules: AllocationModules, changes: Changes, totals: AllocatorTotals, change: int
) -> Peak:
    """Describe the peak.

    Args:
        change: what `peak_change` found.
    """
    time = int(changes.times[change]) if change >= 0 else 0
    untracked = int(totals.untracked_at(np.array([time]))[0])
    if change < 0:
        return Peak(changes.held_before + untracked, 0, None, "other", "", "")
    row = int(changes.rows[change])
    op = int(allocations["op"][row])
    phase = Phase(int(phase_at(trace, allocations["op"][[row]], allocations["module_call"][[row]])[0]))
    steps = trace.steps
    around = np.flatnonzero((steps["start"] <= time) & (time < steps["end"]))
    return Peak(
        int(changes.held[change]) + untracked,
        time,
        int(steps["number"][around[0]]) if len(around) else None,
        phase.name.lower(),
        trace.strings[int(trace.op_names[op])] if op >= 0 else "",
        modules.path(row),
    )

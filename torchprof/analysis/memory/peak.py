"""The moment at which the most memory was held."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchprof.analysis.memory.allocator_totals import AllocatorTotals
from torchprof.analysis.memory.categories import phase_at
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.memory.modules import NO_MODULE, AllocationModules
from torchprof.analysis.memory.ops import outermost_op_names
from torchprof.trace.schema import Phase, Rows
from torchprof.trace.trace import Trace

__all__ = ["Peak", "peak_after", "peak_change"]


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment at which the most memory was held.

    Attributes:
        bytes: held at that moment, what was there before the recording included.
        time: nanoseconds since the start of the recording.
        step: number of the step, or None outside of all steps.
        warmup: whether that was a warm-up step.
        phase: ``"forward"``, ``"backward"``, ...
        op: the outermost op that was running; empty for none.
        module: path of the module: empty for the root, ``"(no module)"`` for none.
        line: of the program, that made the block after which it was reached, as ``train.py:31``; empty where it is not known.
    """

    bytes: int
    time: int
    step: int | None
    warmup: bool
    phase: str
    op: str
    module: str
    line: str = ""


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
        return Peak(changes.held_before + untracked, 0, None, False, "other", "", NO_MODULE)
    row = int(changes.rows[change])
    phase = Phase(int(phase_at(trace, allocations["op"][[row]], allocations["module_call"][[row]])[0]))
    steps = trace.steps
    around = np.flatnonzero((steps["start"] <= time) & (time < steps["end"]))
    return Peak(
        int(changes.held[change]) + untracked,
        time,
        int(steps["number"][around[0]]) if len(around) else None,
        bool(len(around) and steps["warmup"][around[0]]),
        phase.name.lower(),
        outermost_op_names(trace, allocations["op"][[row]])[0],
        modules.path(row),
    )

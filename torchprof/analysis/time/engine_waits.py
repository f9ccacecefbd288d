"""How long a thread that called the autograd engine only waited, while the engine worked on threads of its own.

On a CPU the engine runs on the thread that calls ``backward()``. For GPUs it has a thread each, and the caller waits:

    main thread    forward │ run_backward(autograd)          │ optimizer
    autograd's             │   op   op    op      op    op   │

The time of these ops is theirs, and not that of the range around the call as well: else it would be counted twice. What is left
of the range is what no thread ran an op in. ``csrc/collate/phase_times.cpp`` says the same of sums.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.spans import merged
from torchprof.trace.schema import SCOPE_USER, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["engine_waits"]

Ints = npt.NDArray[np.int64]


def engine_waits(trace: Trace, op_ends: Ints, call_ends: Ints, until: Ints | None = None) -> Ints:
    """Nanoseconds of the self time of every op: 0 but for ranges around the engine.

    Args:
        op_ends, call_ends: as `closed_ends` gives them.
        until: for every op, when it is no longer counted; None: it is to its end.
    """
    ops, backward = trace.ops, phases(trace.ops) == Phase.BACKWARD
    waits = np.zeros(len(ops), dtype=np.int64)
    is_range, parent = ops["scope"] == SCOPE_USER, ops["parent"]
    callers = np.flatnonzero(is_range & backward & ~np.append(backward, False)[parent])
    engine = np.flatnonzero(~is_range & backward & (parent < 0))
    if not len(callers) or not len(engine):
        return waits
    for thread in np.unique(ops["thread"][callers]):
        others = engine[ops["thread"][engine] != thread]
        if not len(others):
            continue
        worked = _Union(ops["start"][others], op_ends[others])
        op_rows, call_rows = (np.flatnonzero(rows["thread"] == thread) for rows in (ops, trace.module_calls))
        for caller in callers[ops["thread"][callers] == thread].tolist():
            start, end = int(ops["start"][caller]), int(op_ends[caller])
            end = end if until is None else min(end, int(until[caller]))
            starts, ends = _later(trace, caller, op_rows, call_rows, op_ends, call_ends)
            inside = _Union(np.minimum(starts, end), np.minimum(ends, end))
            waits[caller] = worked.time_until(end) - worked.time_until(start)
            waits[caller] -= int((worked.times_until(inside.end) - worked.times_until(inside.start)).sum())
    return waits


def _later(trace: Trace, caller: int, op_rows: Ints, call_rows: Ints, op_ends: Ints, call_ends: Ints) -> tuple[Ints, Ints]:
    """Starts and ends of what began after this op, and before its end, on its thread, and so is inside it."""
    ops, calls = trace.ops, trace.module_calls
    start, end = ops["start"][caller], op_ends[caller]
    later = op_rows[np.searchsorted(op_rows, caller) + 1 :]
    later = later[ops["start"][later] < end]
    called = call_rows[(calls["start"][call_rows] >= start) & (calls["start"][call_rows] < end)]
    called = called[(calls["start"][called] > start) | (calls["op"][called] >= caller)]
    return (
        np.append(ops["start"][later], calls["start"][called]),
        np.append(op_ends[later], call_ends[called]),
    )


class _Union:
    """Intervals as one, and how much of it was over at a time."""

    def __init__(self, start: Ints, end: Ints) -> None:
        self.start, self.end, _ = merged(start, end)
        self._before = np.append(0, np.cumsum(self.end - self.start))

    def times_until(self, times: Ints) -> Ints:
        at = np.searchsorted(self.start, times, side="right") - 1
        inside = np.minimum(times, np.append(self.end, 0)[at]) - np.append(self.start, 0)[at]
        return np.where(at >= 0, self._before[at] + inside, 0)

    def time_until(self, time: int) -> int:
        return int(self.times_until(np.array([time]))[0])

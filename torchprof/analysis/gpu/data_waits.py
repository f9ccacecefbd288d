"""Waits for data: for how much of some intervals a thread was in `Phase.DATA`, as in ``next()`` of a ``DataLoader``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.spans import closed_ends, merged
from torchprof.trace.schema import NO_THREAD, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["launching_threads", "outermost_waits", "waited_for_data"]

Ints = npt.NDArray[np.int64]


def launching_threads(trace: Trace, kernels: Ints) -> Ints:
    """The thread that launched each of these rows of ``trace.kernels``; `NO_THREAD` where it is not known."""
    rows = trace.kernels[kernels]
    calls, ops = (
        np.append(table["thread"].astype(np.int64), NO_THREAD)[rows[name].astype(np.int64)]
        for table, name in ((trace.runtime_calls, "runtime_call"), (trace.ops, "op"))
    )
    return np.where(calls != NO_THREAD, calls, ops)


def waited_for_data(trace: Trace, threads: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """For how much of each of these intervals the thread that it has waited for data.

    Returns:
        Nanoseconds, and the row of ``trace.ops`` of the first of these waits, -1 for none.
    """
    waited, first = np.zeros(len(start), dtype=np.int64), np.full(len(start), -1, dtype=np.int64)
    rows = outermost_waits(trace)
    all_ends = closed_ends(trace, trace.ops) if len(rows) else rows
    for thread in np.unique(trace.ops["thread"][rows]).tolist():
        own = rows[trace.ops["thread"][rows] == thread]
        starts, ends, first_rows = merged(trace.ops["start"][own], all_ends[own])
        wanted = np.flatnonzero(threads == thread)
        until = np.append(0, np.cumsum(ends - starts))
        begin, stop = start[wanted], np.maximum(start[wanted], end[wanted])
        spent = [_before(time, starts, ends, until) for time in (begin, stop)]
        waited[wanted] = spent[1] - spent[0]
        at = np.searchsorted(ends, begin, side="right")
        first[wanted] = np.where(waited[wanted] > 0, np.append(own[first_rows], -1)[at], -1)
    return waited, first


def outermost_waits(trace: Trace) -> Ints:
    """The rows of ``trace.ops`` that are waits for data, and in no other."""
    is_data = phases(trace.ops) == Phase.DATA
    rows: Ints = np.flatnonzero(is_data & ~np.append(is_data, False)[trace.ops["parent"]])
    return rows


def _before(times: Ints, starts: Ints, ends: Ints, until: Ints) -> Ints:
    """How much of these disjoint intervals lies before each time."""
    latest = np.searchsorted(starts, times, side="right") - 1
    inside = np.minimum(times, ends[latest]) - starts[latest]
    before: Ints = np.where(latest >= 0, until[latest] + inside, 0)
    return before

"""Which call a module call was made for, also where that call did not surround it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import CALL_RECOMPUTED
from torchprof.trace.trace import Trace

__all__ = ["callers", "is_recomputed"]

Ints = npt.NDArray[np.int64]


def is_recomputed(trace: Trace) -> npt.NDArray[np.bool_]:
    """For every row of ``trace.module_calls``: whether it ran inside a backward pass, as with activation checkpointing."""
    recomputed: npt.NDArray[np.bool_] = trace.module_calls["flags"] & CALL_RECOMPUTED != 0
    return recomputed


def callers(trace: Trace) -> Ints:
    """For every row of ``trace.module_calls`` the row of the call that it was made for; -1: none.

    That is its parent. A call without one has two kinds of callers:

    - what is recomputed in a backward pass was called first by the module that called it in forward;
    - what runs on a thread of its own (``nn.parallel.parallel_apply``) was called by the module that waits on another thread.
    """
    calls = trace.module_calls
    found: Ints = calls["parent"].astype(np.int64)
    alone = np.flatnonzero(found < 0)
    again = is_recomputed(trace)
    if again[alone].any():
        _of_recomputed(trace, found, alone[again[alone]])
    threads = calls["thread"][alone]
    if len(alone) and (threads != threads[0]).any():
        _of_threads(trace, found, alone[~again[alone]])
    return found


def _of_recomputed(trace: Trace, found: Ints, rows: Ints) -> None:
    """The caller of the latest call of the same module in forward before."""
    calls = trace.module_calls
    modules, starts = calls["module"], calls["start"]
    again = is_recomputed(trace)
    for module in np.unique(modules[rows]).tolist():
        first = np.flatnonzero((modules == module) & ~again)
        first = first[np.argsort(starts[first], kind="stable")]
        mine = rows[modules[rows] == module]
        at = np.searchsorted(starts[first], starts[mine]) - 1
        found[mine[at >= 0]] = calls["parent"][first[at[at >= 0]]]


def _of_threads(trace: Trace, found: Ints, alone: Ints) -> None:
    """The innermost call of another thread that was open from the start to the end."""
    calls = trace.module_calls
    start, end, thread, parent = (calls[name] for name in ("start", "end", "thread", "parent"))
    by_thread = {number: alone[thread[alone] == number] for number in np.unique(thread[alone]).tolist()}

    def innermost(row: int, roots: Ints) -> int:
        """The innermost call around a row, under calls that follow one another."""
        at = int(np.searchsorted(start[roots], start[row], side="right")) - 1
        if at < 0 or end[roots[at]] < end[row]:
            return -1
        below = np.flatnonzero(parent == roots[at])
        deeper = innermost(row, below) if len(below) else -1
        return deeper if deeper >= 0 else int(roots[at])

    for number, mine in by_thread.items():
        others = [rows[np.argsort(start[rows], kind="stable")] for other, rows in by_thread.items() if other != number]
        for row in mine.tolist():
            around = [call for call in (innermost(row, roots) for roots in others) if call >= 0]
            if around:
                found[row] = max(around, key=lambda call: int(start[call]))

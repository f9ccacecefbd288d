"""Which call a module call was made for, also where that call did not surround it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.model.registered import registered
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
    """One of the calls of other threads that were open from the start to the end.

    There may be several: what runs beside a call on a third thread is no caller of it, however well its time fits. Rather than
    that, the caller is the one whose thread holds the nearest module above in the model, then one that was itself called by
    fewer threads, then one whose thread waits, starting neither an op nor a call meanwhile, then the one that began last.
    """
    calls = trace.module_calls
    start, end, thread, parent = (calls[name] for name in ("start", "end", "thread", "parent"))
    above = _Above(trace)
    of_thread = {number: _by_start(start, thread == number) for number in np.unique(thread[alone]).tolist()}
    begins = {
        number: np.sort(np.concatenate([start[rows], trace.ops["start"][trace.ops["thread"] == number]]))
        for number, rows in of_thread.items()
    }
    hops: dict[int, int] = {}  # from thread to thread, for the first call of every chain
    for row in alone[np.argsort(start[alone], kind="stable")].tolist():
        best: tuple[int, int, bool, int] | None = None
        for number, rows in of_thread.items():
            chain = _around(row, rows, parent, start, end) if number != thread[row] else []
            if not chain or any(above.holds(call, row) for call in chain):
                continue
            kin = max(above.distance(row, call) for call in chain)
            first, last = np.searchsorted(begins[number], (start[row], end[row]))
            key = kin, -hops.get(chain[-1], 0), bool(first == last), int(start[chain[0]])
            if best is None or key > best:
                best = key
                found[row], hops[row] = chain[0], hops.get(chain[-1], 0) + 1


def _by_start(start: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> Ints:
    rows = np.flatnonzero(mask)
    return rows[np.argsort(start[rows], kind="stable")]


def _around(row: int, rows: Ints, parent: Ints, start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> list[int]:
    """The calls of a thread that surround a row, innermost first."""
    at = int(np.searchsorted(start[rows], start[row], side="right")) - 1
    call = int(rows[at]) if at >= 0 else -1
    chain = []
    while call >= 0:
        if end[call] >= end[row]:
            chain.append(call)
        call = int(parent[call])
    return chain


class _Above:
    """Where the modules of calls stand in the model."""

    def __init__(self, trace: Trace) -> None:
        infos = trace.model.modules if trace.model is not None else ()
        self._parents = [info.parent for info in infos]
        self._places = registered(trace)
        self._modules = trace.module_calls["module"]

    def _chain(self, call: int) -> list[int]:
        """The places of a call's module and of the modules above it, outermost first; empty where it is registered nowhere."""
        place, chain = self._places[self._modules[call]], []
        while place >= 0:
            chain.append(place)
            place = self._parents[place]
        return chain[::-1]

    def holds(self, call: int, caller: int) -> bool:
        """Whether the module of a call is that of ``caller`` or one below it: it does not call what it is a part of."""
        if self._modules[call] == self._modules[caller]:
            return True
        place = self._places[self._modules[caller]]
        return place >= 0 and place in self._chain(call)

    def distance(self, call: int, caller: int) -> int:
        """The depth of the caller's module where it is above that of the call; -1: it is not."""
        place = self._places[self._modules[caller]]
        chain = self._chain(call)
        return chain.index(place) if place in chain else -1

"""What other threads did while the main one waited for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Phase, Rows, phases, phases_of_calls
from torchprof.trace.trace import Trace

__all__ = ["Meanwhile", "in_steps"]

Ints = npt.NDArray[np.int64]


def in_steps(trace: Trace, active: Rows, times: Ints) -> Ints:
    """How much of active steps was over at each of these times."""
    if not len(trace.steps):
        return times
    before = np.append(0, np.cumsum(active["end"] - active["start"]))
    step = np.searchsorted(active["start"], times, side="right") - 1
    inside = np.minimum(times, np.append(active["end"], 0)[step]) - np.append(active["start"], 0)[step]
    return np.where(step >= 0, before[step] + inside, 0)


class Meanwhile:
    """What other threads did than the main one: it waits for them between its ops."""

    def __init__(self, trace: Trace, main: int, op_ends: Ints, call_ends: Ints) -> None:
        works: list[tuple[Ints, Ints]] = []
        for rows, ends, phase in (
            (trace.ops, op_ends, phases(trace.ops)),
            (trace.module_calls, call_ends, phases_of_calls(trace.module_calls)),
        ):
            is_other = (rows["thread"] != main) & (rows["parent"] < 0) & (phase != Phase.OTHER) & (phase != Phase.DATA)
            works.append((rows["start"][is_other], ends[is_other]))
        start, end = (np.concatenate(columns) for columns in zip(*works, strict=True))
        order = np.argsort(start, kind="stable")
        start, end = start[order], np.maximum.accumulate(end[order])
        begins = np.append(True, start[1:] > end[:-1])[: len(start)]
        self._start = start[begins]
        self._end = end[np.append(begins[1:], True)[: len(start)]]

    def between(self, start: Ints, end: Ints, trace: Trace | None = None, active: Rows | None = None) -> Ints:
        """Nanoseconds from each start to each end in which other threads worked; with steps, in active ones."""
        if not len(self._start):
            return np.zeros(len(start), dtype=np.int64)

        def position(times: Ints) -> Ints:
            return times if trace is None or active is None else in_steps(trace, active, times)

        begins, ends = position(self._start), position(self._end)
        before = np.append(0, np.cumsum(ends - begins))

        def until(times: Ints) -> Ints:
            at = np.searchsorted(self._start, times, side="right") - 1
            inside = np.minimum(position(times), np.append(ends, 0)[at]) - np.append(begins, 0)[at]
            return np.where(at >= 0, before[at] + np.maximum(0, inside), 0)

        return until(np.maximum(start, end)) - until(start)

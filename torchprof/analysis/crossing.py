"""User ranges that do not nest: one ends inside another that goes on, as ``enter a, enter b, exit a, exit b`` makes them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.spans import latest_before
from torchprof.trace.schema import SCOPE_USER
from torchprof.trace.trace import Trace

__all__ = ["crossing_ranges", "lanes_of_ranges"]

Ints = npt.NDArray[np.int64]


def crossing_ranges(trace: Trace, op_ends: Ints, call_ends: Ints) -> Ints:
    """The rows of ``ops`` that are user ranges and overlap half of another range, op or module call of their thread."""
    return np.flatnonzero(_crosses(trace, op_ends, call_ends, ranges_too=True))


def lanes_of_ranges(trace: Trace, op_ends: Ints, call_ends: Ints) -> dict[int, int]:
    """For every range that does not nest with what is on the track of its thread, the number of a further track, from 1.

    Of two ranges that cross, the one that begins first stays. Ranges that nest share a track.
    """
    rows = crossing_ranges(trace, op_ends, call_ends)
    if not len(rows):
        return {}
    crosses_others = _crosses(trace, op_ends, call_ends, ranges_too=False)
    start, thread = trace.ops["start"], trace.ops["thread"]
    found: dict[int, int] = {}
    open_ends: dict[tuple[int, int], list[int]] = {}  # of the ranges on a track, by thread and number
    order = np.lexsort((-op_ends[rows], start[rows], thread[rows]))
    for row in rows[order].tolist():
        lane = int(crosses_others[row])
        while True:
            ends = open_ends.setdefault((int(thread[row]), lane), [])
            while ends and ends[-1] <= start[row]:
                ends.pop()
            if not ends or ends[-1] >= op_ends[row]:
                break
            lane += 1
        ends.append(int(op_ends[row]))
        if lane:
            found[row] = lane
    return found


def _crosses(trace: Trace, op_ends: Ints, call_ends: Ints, *, ranges_too: bool) -> npt.NDArray[np.bool_]:
    """For every op, whether it is a user range that crosses something of its thread; other ranges among that, or not."""
    ops, calls = trace.ops, trace.module_calls
    found = np.zeros(len(ops), dtype=np.bool_)
    is_range = ops["scope"] == SCOPE_USER
    ranges = np.flatnonzero(is_range)
    threads = ops["thread"][ranges]
    for thread in np.unique(threads):
        rows = ranges[threads == thread]
        of_ops, of_calls = ops["thread"] == thread, calls["thread"] == thread
        others = of_ops if ranges_too else of_ops & ~is_range
        starts = np.concatenate([ops["start"][others], calls["start"][of_calls]])
        ends = np.concatenate([op_ends[others], call_ends[of_calls]])
        first, last = ops["start"][rows], op_ends[rows]
        # What crosses a range has its start or its end inside.
        bounds = np.unique([first, last])
        inside = np.append(bounds, np.iinfo(np.int64).max)[latest_before(bounds, starts) + 1] < ends
        starts, ends = starts[inside], ends[inside]
        by_start, by_end = np.argsort(starts, kind="stable"), np.argsort(ends, kind="stable")
        # What begins inside and ends after; what ends inside and began before.
        beyond = _extreme(np.maximum, starts[by_start], ends[by_start], first, last, -1) > last
        earlier = _extreme(np.minimum, ends[by_end], starts[by_end], first, last, np.iinfo(np.int64).max) < first
        found[rows] = beyond | earlier
    return found


def _extreme(choose: np.ufunc, keys: Ints, values: Ints, after: Ints, before: Ints, none: int) -> Ints:
    """For every pair of bounds, the extreme of the values whose keys, which are sorted, lie strictly between them."""
    low, high = np.searchsorted(keys, after, side="right"), np.searchsorted(keys, before, side="left")
    bounds = np.stack([low, np.maximum(high, low)], axis=1).ravel()
    extremes = choose.reduceat(np.append(values, none), bounds)[::2]
    found: Ints = np.where(high > low, extremes, none)
    return found

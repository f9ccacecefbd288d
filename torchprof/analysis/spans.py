"""Ops and module calls as spans: rows with a start, an end and a parent. A parent has a lower row than its children."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["closed_ends", "durations", "each_once", "latest_before", "merged", "sum_by", "sum_by_parent", "with_descendants"]

Nanoseconds = npt.NDArray[np.int64]


def durations(spans: Rows) -> Nanoseconds:
    """Nanoseconds of every row of ``ops`` or ``module_calls``; 0 where the end was not recorded."""
    duration: Nanoseconds = np.where(spans["end"] >= 0, spans["end"] - spans["start"], 0)
    return duration


def closed_ends(trace: Trace, spans: Rows) -> Nanoseconds:
    """The end of every op or module call. Where it was not recorded: the end of the parent or, without one, of the trace."""
    end = spans["end"]
    open_rows = np.flatnonzero(end < 0)
    if not len(open_rows):
        return end.copy()
    duration = int(trace.facts.get("duration_ns", 0))
    tables = (trace.ops, trace.module_calls, trace.steps)
    latest = max(duration, *(int(table[column].max(initial=0)) for table in tables for column in ("start", "end")))
    ends: Nanoseconds = np.where(end >= 0, end, latest)
    for row in open_rows.tolist():  # parents come first
        parent = spans["parent"][row]
        if parent >= 0:
            ends[row] = min(ends[row], ends[parent])
    return ends


def sum_by_parent(values: Nanoseconds, parent: Rows) -> Nanoseconds:
    """For every row, the sum of the values of its children."""
    return sum_by(parent, values, len(values))


def sum_by(row: Rows, values: Nanoseconds, rows: int) -> Nanoseconds:
    """The sum of the values of each of so many rows; a row of -1 is none."""
    sums = np.bincount(row + 1, weights=values, minlength=rows + 1)  # exact: below 2**53
    return sums[1:].astype(np.int64)


def with_descendants(values: Nanoseconds, parent: Rows) -> Nanoseconds:
    """For every row, the sum of its value and those of all its descendants. Values are carried up one level at a time."""
    total = values.copy()
    carried = values
    while carried.any():
        carried = sum_by_parent(carried, parent)
        total += carried
    return total


def each_once(times: Nanoseconds) -> Nanoseconds:
    """Each of these times once, in order. ``np.unique`` hashes them first, which takes ten times as long for millions."""
    ordered = np.sort(times)
    is_first = np.ones(len(ordered), dtype=np.bool_)
    is_first[1:] = ordered[1:] > ordered[:-1]
    found: Nanoseconds = ordered[is_first]
    return found


def latest_before(starts: Nanoseconds, times: Nanoseconds) -> Nanoseconds:
    """For every time, the last of the starts, which are sorted, that is not after it; -1 for none."""
    if len(times) > len(starts) and (times[1:] >= times[:-1]).all():  # as the rows of a thread are
        first = np.searchsorted(times, starts)
        return np.repeat(np.arange(-1, len(starts)), np.diff(first, prepend=0, append=len(times)))
    return np.searchsorted(starts, times, side="right") - 1


def merged(start: Nanoseconds, end: Nanoseconds) -> tuple[Nanoseconds, Nanoseconds, Nanoseconds]:
    """Intervals with overlapping ones merged, in order: starts, ends, and the row of the first of each."""
    if not len(start):
        none = np.zeros(0, dtype=np.int64)
        return none, none, none
    order = np.argsort(start, kind="stable")
    latest = np.maximum.accumulate(end[order])
    first = np.append(0, np.flatnonzero(start[order][1:] > latest[:-1]) + 1)
    return start[order][first], latest[np.append(first[1:], len(order)) - 1], order[first]

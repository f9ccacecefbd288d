"""Ops and module calls as spans: rows with a start, an end and a parent. A parent has a lower row than its children."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["closed_ends", "durations", "sum_by_parent", "with_descendants"]

Nanoseconds = npt.NDArray[np.int64]


def durations(spans: Rows) -> Nanoseconds:
    """Nanoseconds of every row of ``ops`` or ``module_calls``; 0 where the end was not recorded."""
    duration: Nanoseconds = np.where(spans["end"] >= 0, spans["end"] - spans["start"], 0)
    return duration


def closed_ends(trace: Trace, spans: Rows) -> Nanoseconds:
    """The end of every op or module call. Where it was not recorded: the end of the parent or, without one, of the trace."""
    duration = int(trace.facts.get("duration_ns", 0))
    tables = (trace.ops, trace.module_calls, trace.steps)
    latest = max(duration, *(int(table[column].max(initial=0)) for table in tables for column in ("start", "end")))
    ends: Nanoseconds = np.where(spans["end"] >= 0, spans["end"], latest)
    for row in np.flatnonzero(spans["end"] < 0).tolist():  # parents come first
        parent = spans["parent"][row]
        if parent >= 0:
            ends[row] = min(ends[row], ends[parent])
    return ends


def sum_by_parent(values: Nanoseconds, parent: Rows) -> Nanoseconds:
    """For every row, the sum of the values of its children."""
    has_parent = parent >= 0
    sums = np.bincount(parent[has_parent], weights=values[has_parent], minlength=len(values))  # exact: below 2**53
    return sums.astype(np.int64)


def with_descendants(values: Nanoseconds, parent: Rows) -> Nanoseconds:
    """For every row, the sum of its value and those of all its descendants. Values are carried up one level at a time."""
    total = values.copy()
    carried = values
    while carried.any():
        carried = sum_by_parent(carried, parent)
        total += carried
    return total

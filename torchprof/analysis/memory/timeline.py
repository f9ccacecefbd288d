"""Bytes held over time, by category."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.allocator_totals import AllocatorTotals
from torchprof.analysis.memory.categories import CATEGORIES, UNTRACKED
from torchprof.analysis.memory.changes import Changes
from torchprof.trace.schema import Rows

__all__ = ["held_over_time"]

Ints = npt.NDArray[np.int64]


def held_over_time(
    allocations: Rows, category: Ints, changes: Changes, totals: AllocatorTotals, points: int
) -> tuple[Ints, Ints]:
    """Bytes by category at no more than ``points`` times: see `MemoryAccount.timeline`."""
    count = len(changes)
    if not count:
        return np.zeros(0, dtype=np.int64), np.zeros((0, len(CATEGORIES)), dtype=np.int64)
    first = np.unique(np.linspace(0, count, min(points, count), endpoint=False).astype(np.int64))
    held = np.zeros((len(first), len(CATEGORIES)), dtype=np.int64)
    before = allocations["start"] < 0
    category_of_change = category[changes.rows]
    for index, name in enumerate(CATEGORIES):
        if name == UNTRACKED and totals:
            over_time = totals.untracked_at(changes.times)
        else:
            at_start = int(allocations["bytes"][before & (category == index)].sum())
            over_time = at_start + np.cumsum(np.where(category_of_change == index, changes.bytes, 0))
        held[:, index] = np.maximum.reduceat(over_time, first)
    return changes.times[first], held

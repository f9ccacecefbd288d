"""Memory over time: every allocation and free as a change of the bytes held."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Rows

__all__ = ["Changes", "MemoryWindow", "memory_between"]

Ints = npt.NDArray[np.int64]


class Changes:
    """The allocations and frees of some rows of ``trace.allocations``, in order of time.

    Of those at the same time, frees come first: what replaces a freed block is not held together with it.

    Attributes:
        rows: the row of the allocation that every change belongs to.
        times: when it happened, in nanoseconds.
        bytes: positive for an allocation, negative for a free.
    """

    def __init__(self, allocations: Rows) -> None:
        self._allocations = allocations
        allocated = np.flatnonzero(allocations["start"] >= 0)
        freed = np.flatnonzero(allocations["end"] >= 0)
        times = np.concatenate([allocations["end"][freed], allocations["start"][allocated]])
        self._order = np.argsort(times, kind="stable")
        self._frees = len(freed)
        self.rows: Ints = np.concatenate([freed, allocated])[self._order]
        self.times: Ints = times[self._order]
        self.bytes: Ints = np.concatenate([-allocations["bytes"][freed], allocations["bytes"][allocated]])[self._order]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def held_before(self) -> int:
        """Bytes that were allocated before the recording."""
        return int(self._allocations["bytes"][self._allocations["start"] < 0].sum())

    @cached_property
    def held(self) -> Ints:
        """Bytes held after every change."""
        held: Ints = self.held_before + np.cumsum(self.bytes)
        return held

    def alive_after(self, change: int) -> npt.NDArray[np.bool_]:
        """Which allocations were held after the change with this index; -1: before the first change."""
        allocated_at, freed_at = self._positions
        alive: npt.NDArray[np.bool_] = (allocated_at <= change) & (freed_at > change)
        return alive

    @cached_property
    def _positions(self) -> tuple[Ints, Ints]:
        """The index of the change that allocated every row, and of the change that freed it."""
        position = np.empty(len(self), dtype=np.int64)
        position[self._order] = np.arange(len(self))
        allocated_at = np.full(len(self._allocations), -1, dtype=np.int64)
        freed_at = np.full(len(self._allocations), len(self), dtype=np.int64)
        allocated_at[self._allocations["start"] >= 0] = position[self._frees :]
        freed_at[self._allocations["end"] >= 0] = position[: self._frees]
        return allocated_at, freed_at


@dataclass(frozen=True, slots=True)
class MemoryWindow:
    """What happened to memory between two moments, in bytes.

    Attributes:
        allocated: the sum of all allocations.
        peak: the most that was held at once beyond what was held at the start; at least 0.
        kept: what was held at the end beyond what was held at the start; negative where more was freed than allocated.
    """

    allocated: int
    peak: int
    kept: int


def memory_between(allocations: Rows, start: int, end: int) -> MemoryWindow:
    """What happened to these rows of ``trace.allocations`` from ``start`` until before ``end``, in nanoseconds."""
    changes = Changes(allocations)
    inside = changes.bytes[(changes.times >= start) & (changes.times < end)]
    held = np.cumsum(inside)
    return MemoryWindow(
        allocated=int(inside[inside > 0].sum()),
        peak=max(0, int(held.max(initial=0))),
        kept=int(held[-1]) if len(held) else 0,
    )

"""Which block of a memory snapshot each allocation of a trace is, where both recorded one run.

Both know the address of a block and the time when it was allocated, by one clock: a counter of the CPU, which PyTorch turns
into the time since 1970 for both, but not together. So they may be apart by a little, which is found out first: of a sample of
allocations, the difference in time to the blocks at their addresses that most have in common. Addresses are used again in
every step, so a block is looked for right there:

    trace      ─────A──────A─────────A────     address 0x7f…, after that difference is taken off
                    │      │         │
    snapshot   ──A──A──────A─────────A─────A   of one size, and the nearest in time
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.allocator.lifetimes import Blocks
from torchprof.trace.schema import Rows

__all__ = ["Matching", "match"]

Ints = npt.NDArray[np.int64]

SAMPLE: Final = 500
MOST_APART: Final = 60 * 10**9
"""Nanoseconds between the clocks; further apart, they are of other runs."""
TOGETHER: Final = (200_000, 20_000, 2_000)
"""Nanoseconds within which differences are the same: of the first, the most that are together, of these again, and so on."""
DRIFT: Final = 2000
"""For so many allocations at a time, how far the clocks are apart is found anew."""
TOLERANCE: Final = 5_000_000
"""Nanoseconds between an allocation and its block: clocks drift, and a snapshot counts microseconds."""


class Matching(NamedTuple):
    """What was found.

    Attributes:
        block: of each allocation, the row of its block; -1: none.
        ahead: nanoseconds by which the snapshot's clock is ahead of the trace's; None where nothing matches.
    """

    block: Ints
    ahead: int | None

    def allocation_of(self, blocks: int) -> Ints:
        """Of each of so many blocks, the row of its allocation; -1: none."""
        found = np.full(blocks, -1, dtype=np.int64)
        matched = np.flatnonzero(self.block >= 0)
        found[self.block[matched]] = matched
        return found


def match(allocations: Rows, origin: int, blocks: Blocks, times: Ints) -> Matching:
    """Match allocations of a device with the blocks of its history.

    Args:
        allocations: rows of ``trace.allocations``.
        origin: when the trace began, in nanoseconds since 1970.
        blocks: of the history, in the order of their allocation.
        times: of the entries of the history, in nanoseconds since 1970.
    """
    found = np.full(len(allocations), -1, dtype=np.int64)
    known = _Known(blocks, times)
    begun = allocations["start"] + origin
    during = np.flatnonzero(allocations["start"] >= 0)
    during = during[np.argsort(begun[during], kind="stable")]
    ahead = known.ahead(allocations[during], begun[during], 0, MOST_APART)
    if ahead is None:
        return Matching(found, None)
    nearest: dict[int, tuple[int, int]] = {}  # by block: how far the allocation is that has it, and which
    for first in range(0, len(during), DRIFT):
        rows = during[first : first + DRIFT]
        now = known.ahead(allocations[rows], begun[rows], ahead, TOLERANCE)
        columns = (allocations["address"][rows].tolist(), allocations["bytes"][rows].tolist())
        for row, address, size, time in zip(rows.tolist(), *columns, (begun[rows] + (now or ahead)).tolist(), strict=True):
            block = known.nearest(address, size, time)
            if block >= 0 and (apart := abs(known.begins[block] - time)) < nearest.get(block, (TOLERANCE, -1))[0]:
                nearest[block] = apart, row
    for block, (_, row) in nearest.items():
        found[row] = block
    for row in np.flatnonzero(allocations["start"] < 0).tolist():  # from before the trace: what was at the address then
        found[row] = known.held(int(allocations["address"][row]), int(allocations["bytes"][row]), origin + ahead)
    return Matching(found, ahead)


class _Known:
    """The blocks at each address, in order of time."""

    def __init__(self, blocks: Blocks, times: Ints) -> None:
        self.sizes, self.requested = blocks["bytes"].tolist(), blocks["requested"].tolist()
        never = np.iinfo(np.int64).max
        self.begins = np.where(blocks["start"] >= 0, times[blocks["start"]], -1).tolist()
        self.ends = np.where(blocks["end"] >= 0, times[blocks["end"]], never).tolist()
        self.at: dict[int, list[int]] = {}
        for row, address in enumerate(blocks["address"].tolist()):
            self.at.setdefault(address, []).append(row)
        self._times = {address: [self.begins[row] for row in rows] for address, rows in self.at.items()}

    def fits(self, block: int, size: int) -> bool:
        """Whether a block can have this size; where the replay is not exact, it has at least what was requested."""
        return bool(self.sizes[block] == size or 0 <= self.requested[block] <= size < 2 * self.sizes[block])

    def nearest(self, address: int, size: int, time: int) -> int:
        """The block that was allocated there nearest to a time; -1: none."""
        rows = self.at.get(address)
        if rows is None:
            return -1
        place = bisect_left(self._times[address], time)
        near = [row for row in rows[max(place - 1, 0) : place + 1] if self.begins[row] >= 0 and self.fits(row, size)]
        return min(near, key=lambda row: abs(self.begins[row] - time), default=-1)

    def held(self, address: int, size: int, time: int) -> int:
        """The block that was there at a time; -1: none."""
        rows = self.at.get(address, [])
        return next((row for row in rows if self.begins[row] <= time < self.ends[row] and self.fits(row, size)), -1)

    def ahead(self, allocations: Rows, begun: Ints, near: int, within: int) -> int | None:
        """By how many nanoseconds the clock of the blocks is ahead; None where they have nothing in common.

        Args:
            allocations, begun: and when they were made, by the other clock.
            near, within: about how many, and give or take how many.
        """
        rows = np.unique(np.linspace(0, len(begun), min(SAMPLE, len(begun)), endpoint=False).astype(np.int64))
        columns = (allocations["address"][rows].tolist(), allocations["bytes"][rows].tolist(), (begun[rows] + near).tolist())
        found: list[int] = []
        for address, size, time in zip(*columns, strict=True):
            times = self._times.get(address, [])
            first, last = bisect_left(times, time - within), bisect_right(times, time + within)
            blocks = self.at.get(address, [])[first:last]
            found += [self.begins[block] - time for block in blocks if self.begins[block] >= 0 and self.fits(block, size)]
        differences = np.sort(np.array(found, dtype=np.int64))
        if not len(differences):
            return None
        for together in TOGETHER:
            last_of = np.searchsorted(differences, differences + together, side="right")
            count = last_of - np.arange(len(differences))
            best = np.flatnonzero(count == count.max())
            begins = best[np.argmin(np.abs(differences[best]))]
            differences = differences[begins : last_of[begins]]
        return near + int(np.median(differences))

"""How far expandable segments reach, which a snapshot does not say: found from where its allocations came to lie.

An expandable segment is a range of addresses for all of the device's memory and an eighth more. Of free blocks that are large
enough, one that can grow counts with the size that it can grow to:

    ┌──────────────┬────────┬────────┬─ ─ ─ ─ ─ ─ ─┐   The block at the end is taken for what fits into either, if it and what
    │ free         │ in use │ free   │ not mapped     is not mapped have no more bytes than the free block before it. So an
    └──────────────┴────────┴────────┴─ ─ ─ ─ ─ ─ ─┘   allocation that was there says how far the range reaches at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.allocator.history import EXPANDABLE

__all__ = ["most_memory"]

Ints = npt.NDArray[np.int64]


class _Free(NamedTuple):
    """A free block; ordered as the allocator searches them."""

    size: int
    address: int
    grown: int
    to_end: bool
    segment: int


def most_memory(blocks: Ints, size: int, page: int, recorded: int, simulated: int) -> int | None:
    """The most bytes that a device can have on which an allocation comes to lie where it was recorded.

    Args:
        blocks: before the allocation, as the simulator returns them where the device has no end.
        size: of the block, rounded.
        page: of its pool; a range has whole pages.
        recorded, simulated: where it was, and where it came to lie.

    Returns:
        None if the memory of the device is not what made the difference.
    """
    free = _free_blocks(blocks, recorded)
    place = next((at for at, block in enumerate(free) if block.address == recorded), None)
    segments = blocks[(blocks[:, 5] & EXPANDABLE) != 0, 0]
    if place is not None and free[place].to_end:
        block = free[place]
        is_before = any(other.address == simulated for other in free[:place])
        if is_before:
            room = free[place - 1].grown - 1
        elif place + 1 < len(free):
            room = free[place + 1].grown
        else:
            return None
        return _memory(room + recorded - block.segment, page)
    inside = segments[segments <= simulated]
    if place is None and len(inside) and recorded not in blocks[:, 1]:  # it had a new range: the one before had no room
        return _memory(simulated - int(inside.max()) + size - 1, page)
    return None


def _memory(addresses: int, page: int) -> int | None:
    """The most bytes that have no more than these addresses for them and an eighth more."""
    return addresses // page * page * 8 // 9 or None


def _free_blocks(blocks: Ints, address: int) -> list[_Free]:
    """The free blocks of expandable segments, of the stream and the pool of the one at this address."""
    rows = blocks[(blocks[:, 5] & EXPANDABLE) != 0]
    of = rows[rows[:, 1] == address]
    found: list[_Free] = []
    for at in np.flatnonzero(rows[:, 3] < 0).tolist():
        segment, begin, size, _, stream, kind = rows[at].tolist()
        if not len(of) or (stream, kind) != (of[0, 4], of[0, 5]):
            continue
        is_last = at + 1 == len(rows) or rows[at + 1, 0] != segment
        hole = 0 if is_last else int(rows[at + 1, 1]) - begin - size
        found.append(_Free(size, begin, size + hole, is_last, segment))
    return sorted(found)

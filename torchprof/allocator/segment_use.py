"""How segments of memory were used when a memory snapshot was taken."""

from __future__ import annotations

from typing import NamedTuple

from torchprof.importers.snapshot_entries import SnapshotSegment

__all__ = ["SegmentUse", "is_used", "use_of"]


class SegmentUse(NamedTuple):
    """How a segment was used at the end.

    Attributes:
        address, size: of the segment; bytes.
        allocated, free, largest_free: bytes; the last of the largest piece.
        pieces: how many free pieces.
        awaiting_free: bytes that the program freed, and that another stream still uses: neither allocated nor free.
        stream, small, expandable: as `SnapshotSegment` has them.
    """

    address: int
    size: int
    allocated: int
    free: int
    largest_free: int
    pieces: int
    stream: int
    small: bool
    expandable: bool
    awaiting_free: int = 0


def is_used(use: SegmentUse) -> bool:
    """Whether anything in the segment cannot be had again."""
    return bool(use.allocated or use.awaiting_free)


def use_of(segment: SnapshotSegment) -> SegmentUse:
    """How this segment was used."""
    free: list[int] = []
    allocated, awaiting, was_free = 0, 0, False
    for block in segment.blocks:
        is_free = block.state == "inactive"
        if block.state == "active_allocated":
            allocated += block.size
        elif not is_free:
            awaiting += block.size
        elif was_free:
            free[-1] += block.size
        else:
            free.append(block.size)
        was_free = is_free
    return SegmentUse(
        *(segment.address, segment.size, allocated, sum(free), max(free, default=0), len(free)),
        *(segment.stream[0], segment.small, segment.expandable, awaiting),
    )

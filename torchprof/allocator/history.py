"""The recorded history of a device, as events for the simulated allocator: what was there before it, and what happened."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.allocator.settings import AllocatorSettings
from torchprof.importers.snapshot_entries import SnapshotEvent, SnapshotSegment, StreamId

__all__ = ["EMPTY_CACHE", "FREE_REQUESTED", "History"]

Ints = npt.NDArray[np.int64]

MIB: Final = 2**20
MAX_SMALL: Final = MIB
SMALL_SEGMENT: Final = 2 * MIB
LARGEST_RANGE: Final = 2**39
"""Addresses of an expandable segment: an eighth more than the memory of the device. What is further apart is of two."""

# AllocatorEvent in csrc/allocator/replay.h: rows that neither allocate nor free have one of these as their stream.
FREE_REQUESTED: Final = -1
EMPTY_CACHE: Final = -2
RELEASE_AT: Final = -3
NEXT_SEGMENT_AT: Final = -4
MAP_AT: Final = -5
SMALL_POOL: Final = 1
EXPANDABLE: Final = 2

Place = tuple[int, bool, bool]
"""The number of the stream, whether in the small pool, and whether expandable: equal for segments that may be neighbors."""


class History:
    """The history of one device: the blocks from before it, and its events. Found by undoing it from the snapshot's end."""

    def __init__(
        self, entries: Sequence[SnapshotEvent], segments: Sequence[SnapshotSegment], settings: AllocatorSettings
    ) -> None:
        self.entries = entries
        self.settings = settings
        self._streams: dict[StreamId, int] = {}
        self._reserved: dict[int, tuple[int, Place]] = {}  # by address, in pieces as they were mapped: end and place
        self._held: dict[int, int] = {}  # by address: bytes of the block; negative: bytes that were requested
        self.pending: set[int] = set()
        """Addresses of the blocks that only another stream still used when the history begins."""
        self._mapped_later: dict[Place, set[int]] = {}  # where pages of expandable segments were mapped
        for segment in segments:
            self._end_with(segment)
        reserved_changes = self._undo()
        before = sum(end - address for address, (end, _) in self._reserved.items())
        self.reserved_after = before + np.cumsum(reserved_changes, dtype=np.int64)
        """Bytes after each entry."""
        self.max_reserved = int(self.reserved_after.max(initial=before))
        self._begun = self._begins_inside_an_allocation()
        if self._begun:
            del self._reserved[entries[0].address]
        self._ids: dict[int, int] = {}
        self.blocks = self._lay_out()
        held = self.blocks[:, 3] >= 0
        self.held_before = {
            address: size for address, size in self.blocks[held][:, 1:3].tolist() if address not in self.pending
        }
        """Bytes of the blocks that were allocated when the history begins, by address."""
        self.pending_before = len(self.pending & self._ids.keys())
        """How many blocks only another stream still used then: as many events come before those of the history."""
        self.complete = not len(self.blocks) and not self._begun

    def number(self, stream: StreamId) -> int:
        """A number for each stream, and for each stream in each private pool."""
        return self._streams.setdefault(stream, len(self._streams))

    def _end_with(self, segment: SnapshotSegment) -> None:
        address = segment.address
        self._reserved[address] = address + segment.size, (self.number(segment.stream), segment.small, segment.expandable)
        for block in segment.blocks:
            if block.state != "inactive":
                self._held[address] = block.size
                if block.state != "active_allocated":
                    self.pending.add(address)
            address += block.size

    def _undo(self) -> list[int]:
        """What was reserved with each event, in order."""
        changes = []
        for action, address, size, stream in reversed(self.entries):
            change = 0
            if action in ("alloc", "free_requested"):
                self.pending.discard(address)
            if action == "alloc":
                self._held.pop(address, None)
            elif action == "free_completed":
                self._held[address] = -size
                self.pending.add(address)
            elif action in ("segment_alloc", "segment_map"):
                change = size
                self._cut(address, address + size)
                if action == "segment_map":
                    place = self.number(stream), size == SMALL_SEGMENT, True
                    if any(other == place for _, other in self._reserved.values()):
                        self._mapped_later.setdefault(place, set()).add(address)
                    else:  # with this, a segment began: what came later was in it
                        self._mapped_later.pop(place, None)
            elif action in ("segment_free", "segment_unmap"):
                change = -size
                unmapped = action == "segment_unmap"  # several pages at once; their number says of which pool, nearly always
                small = size % self.settings.large_segment_size != 0 if unmapped else size == SMALL_SEGMENT
                self._reserved[address] = address + size, (self.number(stream), small, unmapped)
            changes.append(change)
        return changes[::-1]

    def _cut(self, begin: int, end: int) -> None:
        if self._reserved.get(begin, (None,))[0] == end:  # nearly always, and there may be thousands of them
            del self._reserved[begin]
            return
        for address, (until, place) in list(self._reserved.items()):
            if address < end and begin < until:
                del self._reserved[address]
                if address < begin:
                    self._reserved[address] = begin, place
                if end < until:
                    self._reserved[end] = until, place

    def _begins_inside_an_allocation(self) -> bool:
        """Whether the segment of the first entry may have been reserved for it, right before. Such a segment is used also where
        ``max_split_size`` does not allow to use a cached one."""
        action, address, size, _ = self.entries[0]
        end, (_, _, expandable) = self._reserved.get(address, (0, (0, False, True)))
        held_from = min((at for at in self._held if at >= address), default=end)
        is_own = end - address == self.settings.segment_size(self.settings.round(size))
        return action == "alloc" and not expandable and is_own and held_from >= end

    def _lay_out(self) -> Ints:
        """The blocks from before the history: rows of BlockRow in csrc/allocator/blocks.h."""
        rows: list[tuple[int, int, int, int, int, int]] = []
        held = sorted(self._held)
        pieces = self._pieces()
        segment, before, last = 0, 0, None
        ends = self._ends(pieces)
        for address, end, place in pieces:
            # Pieces of one expandable segment have nothing else between them. It begins with the first, or with what is
            # mapped later of what then lies before that.
            stream, small, expandable = place
            if not expandable or place != last:
                least = max(before, end - LARGEST_RANGE)
                segment = min((at for at in self._mapped_later.get(place, ()) if least <= at < address), default=address)
            before, last = end, place
            kind = SMALL_POOL * small | EXPANDABLE * expandable
            bounds = [*held[bisect_left(held, address) : bisect_left(held, end)], end]
            at = address
            for begin, limit in pairwise(bounds):
                if at < begin:
                    rows.append((segment, at, begin - at, -1, stream, kind))
                size = self._block_size(begin, limit, ends.get(begin), small or expandable)
                self._ids[begin] = len(self._ids)
                rows.append((segment, begin, size, self._ids[begin], stream, kind))
                at = begin + size
            if at < end:
                rows.append((segment, at, end - at, -1, stream, kind))
        return np.array(rows, dtype=np.int64).reshape(-1, 6)

    def _ends(self, pieces: Sequence[tuple[int, int, Place]]) -> dict[int, int]:
        """Where blocks from before the history end, by address, of those that show it.

        ┌────────────┬───┬────────────────┐   What is requested of a block is known, and not what was too small to split
        │ requested  │ ? │ free           │   off. A free block is used from its beginning on: the first allocation
        └────────────┴───┴────────────────┘   behind the block, while that is held, begins where it ends.
        """
        limits: dict[int, int] = {}
        held = sorted(self._held)
        for address, end, _ in pieces:
            limits.update(pairwise([*held[bisect_left(held, address) : bisect_left(held, end)], end]))
        found: dict[int, int] = {}
        gone: set[int] = set()
        for action, address, _, _ in self.entries:
            if action == "free_completed":
                gone.add(address)
            elif action == "alloc":
                before = bisect_right(held, address) - 1
                if before >= 0 and held[before] < address < limits.get(held[before], 0) and held[before] not in gone:
                    found.setdefault(held[before], address)
        return found

    def _pieces(self) -> list[tuple[int, int, Place]]:
        """What is reserved, in order of address: begin, end and place. Pages that touch are one piece."""
        pieces: list[tuple[int, int, Place]] = []
        held = sorted(self._held)
        for address, (end, place) in sorted(self._reserved.items()):
            at = bisect_left(held, address)
            if at < len(held) and held[at] < end:  # what is in it says so for certain
                place = place[0], abs(self._held[held[at]]) <= MAX_SMALL, place[2]
            if pieces and place[2] and pieces[-1][1:] == (address, place):
                address = pieces.pop()[0]
            pieces.append((address, end, place))
        return pieces

    def _block_size(self, begin: int, limit: int, end: int | None, splits_all: bool) -> int:
        """Of a block that was freed later only its requested size is known. It has what was too small to split off, too."""
        known, room = self._held[begin], limit - begin
        if known >= 0:
            return min(known, room)
        size = min(self.settings.round(-known), room)
        if splits_all:
            return size
        if end is not None and end - begin >= size:
            return end - begin
        return room if room - size <= MAX_SMALL or size >= self.settings.max_split_size else size

    def events(self, follow: bool, under_capacity: bool, failed: int | None = None) -> tuple[Ints, Ints]:
        """Rows of AllocatorEvent in csrc/allocator/replay.h, and the entry that each comes from.

        With ``failed``, the row of a request that ran out of memory, they end with an allocation of it.
        """
        events: list[tuple[int, int, int]] = []
        rows: list[int] = []
        ids, next_id = dict(self._ids), len(self._ids)
        released = located = False
        in_vain = self._mapped_in_vain() if follow else set()

        def add(row: int, *event: int) -> None:
            events.append((event[0], event[1], event[2]))
            rows.append(row)

        for address in self.pending & ids.keys():
            add(0, ids[address], 0, FREE_REQUESTED)
        if self._begun and follow:
            add(0, self.entries[0].address, 0, NEXT_SEGMENT_AT)
        for row, (action, address, size, stream) in enumerate(self.entries):
            reserves = action in ("segment_alloc", "segment_map", "oom")
            if released and action not in ("segment_free", "segment_unmap", "free_completed", "snapshot"):
                released = False
                if not (reserves and under_capacity):
                    add(row, 0, 0, EMPTY_CACHE)
            if action == "alloc" or row == failed:
                located = False
                if address in ids and row != failed:  # the entry that freed it is missing
                    add(row, ids.pop(address), 0, 0)
                ids[address] = next_id
                add(row, next_id, max(size, 1), self.number(stream))
                next_id += 1
                if row == failed:
                    break
            elif action == "free_requested" and address in ids:
                add(row, ids[address], 0, FREE_REQUESTED)
            elif action == "free_completed" and address in ids:
                add(row, ids.pop(address), 0, 0)
            elif action in ("segment_free", "segment_unmap"):
                if follow:
                    add(row, address, 0, RELEASE_AT)
                else:
                    released = True
            elif row in in_vain:
                page = SMALL_SEGMENT if size % self.settings.large_segment_size else self.settings.large_segment_size
                for at in range(address, address + size, page):
                    add(row, at, 0, MAP_AT)
            elif action in ("segment_alloc", "segment_map") and follow and not located:
                located = True  # an allocation may map several times: the first says where the segment begins
                add(row, address, 0, NEXT_SEGMENT_AT)
        if released:
            add(len(self.entries) - 1, 0, 0, EMPTY_CACHE)
        return np.array(events, dtype=np.int64).reshape(-1, 3), np.array(rows, dtype=np.int64)

    def _mapped_in_vain(self) -> set[int]:
        """Entries of pages that were mapped for an allocation which then found no memory for its other pages: what follows is
        that memory is released, or that it ran out. The pages stay."""
        found: set[int] = set()
        allocated = False
        for row in range(len(self.entries) - 1, -1, -1):
            action = self.entries[row].action
            if action == "segment_map":
                if not allocated:
                    found.add(row)
            elif action not in ("segment_alloc", "snapshot"):
                allocated = action == "alloc"
        return found

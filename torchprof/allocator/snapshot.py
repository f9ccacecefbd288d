"""Recorded memory snapshots, replayed: what the allocator did, step by step, or would have done with other settings."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.allocator.replay import Replay, check, figures, simulate
from torchprof.allocator.settings import AllocatorSettings
from torchprof.errors import ArgumentError
from torchprof.importers.cuda_snapshot import CudaSnapshot, SnapshotEvent, SnapshotSegment, StreamId

__all__ = ["SnapshotReplay", "replay_snapshot"]

Ints = npt.NDArray[np.int64]

MIB: Final = 2**20
MAX_SMALL: Final = MIB
SMALL_SEGMENT: Final = 2 * MIB

# AllocatorEvent in csrc/allocator/replay.h: rows that neither allocate nor free have one of these as their stream.
FREE_REQUESTED: Final = -1
EMPTY_CACHE: Final = -2
RELEASE_AT: Final = -3
NEXT_SEGMENT_AT: Final = -4
SMALL_POOL: Final = 1
EXPANDABLE: Final = 2


@dataclass(frozen=True)
class SnapshotReplay(Replay):
    """A replay of a recorded memory snapshot; rows are entries of its history.

    Attributes:
        recorded_max_reserved: the most reserved during the recorded history.
        complete: whether the history begins with nothing allocated and nothing reserved. Where it does not, what was there
            is taken from the snapshot.
        misplaced: how many allocations came to lie elsewhere than recorded; 0 means that the allocator was followed in all
            it did. None where it was replayed with other settings or a capacity.
    """

    recorded_max_reserved: int
    complete: bool
    misplaced: int | None


def replay_snapshot(
    snapshot: Mapping[str, Any],
    settings: AllocatorSettings | None = None,
    capacity: int | None = None,
    *,
    device: int = 0,
) -> SnapshotReplay:
    """Give what a memory snapshot recorded to the simulated allocator.

    Without settings and capacity, it follows the recording: the settings are the snapshot's, segments are where they were, and
    are freed when they were. With them, it says what would have been reserved instead. Segments that the recording freed then
    count as ``torch.cuda.empty_cache()``, except, under a capacity, those freed right before it reserved another one or ran out
    of memory.

    Args:
        snapshot: of ``torch.cuda.memory._snapshot()`` after ``torch.cuda.memory._record_memory_history()``.
        settings: None: those of the snapshot.
        capacity: bytes of the device that PyTorch can have; None: without end.
        device: which one of the snapshot.

    Raises:
        ArgumentError: the snapshot has no history of that device or cannot be read, or the capacity is not positive.
        ModuleTypeError: the snapshot is no dict, or the settings are no `AllocatorSettings`.
        ExtensionError: the compiled recorder is missing.

    Example:
        >>> replay_snapshot(torch.cuda.memory._snapshot()).max_reserved == torch.cuda.max_memory_reserved()
        True
    """
    check(settings, capacity)
    recorded = CudaSnapshot.of(snapshot)
    entries = recorded.history(device)
    follow = settings is None and capacity is None
    recorded_settings = _recorded_settings(recorded.settings)
    used = settings or recorded_settings
    history = _History(entries, recorded.segments(device), recorded_settings)
    events, rows = history.events(follow, under_capacity=capacity is not None)
    # Segments that were freed are so by the recording: the settings must not do it again.
    results = simulate(events, replace(used, per_process_memory_fraction=1.0) if follow else used, capacity, history.blocks)
    addresses = results["addresses"]
    placed = np.flatnonzero(addresses)
    elsewhere = sum(int(addresses[row]) != entries[rows[row]].address for row in placed)
    return SnapshotReplay(
        **figures(results, used, capacity, rows),
        recorded_max_reserved=history.max_reserved,
        complete=not len(history.blocks),
        misplaced=elsewhere if follow else None,
    )


def _recorded_settings(recorded: Mapping[str, Any]) -> AllocatorSettings:
    """The settings of a snapshot. What it has as a number counts; other options are in the text they were set with."""
    text = next((str(recorded[key]) for key in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF") if recorded.get(key)), "")
    settings = AllocatorSettings.parse(text)
    found: dict[str, Any] = {}
    try:
        if "expandable_segments" in recorded:
            found["expandable_segments"] = bool(recorded["expandable_segments"])
        if recorded.get("max_split_size", -1) > 0:
            found["max_split_size"] = int(recorded["max_split_size"])
        if "garbage_collection_threshold" in recorded:
            found["garbage_collection_threshold"] = float(recorded["garbage_collection_threshold"])
        if recorded.get("roundup_power2_divisions"):
            found["roundup_power2_divisions"] = tuple(int(count) for count in recorded["roundup_power2_divisions"].values())
    except (AttributeError, TypeError, ValueError) as error:
        raise ArgumentError(f"snapshot['allocator_settings'] cannot be read: {error}") from error
    return replace(settings, **found)


Place = tuple[int, bool, bool]
"""The number of the stream, whether in the small pool, and whether expandable: equal for segments that may be neighbors."""


class _History:
    """The history of one device: the blocks from before it, and its events. Found by undoing it from the snapshot's end."""

    def __init__(
        self, entries: Sequence[SnapshotEvent], segments: Sequence[SnapshotSegment], settings: AllocatorSettings
    ) -> None:
        self.entries = entries
        self.settings = settings
        self._streams: dict[StreamId, int] = {}
        self._reserved: dict[int, tuple[int, Place]] = {}  # by address, in pieces as they were mapped: end and place
        self._held: dict[int, int] = {}  # by address: bytes of the block; negative: bytes that were requested
        self._pending: set[int] = set()  # of these, what only another stream still uses
        self._mapped_later: dict[Place, set[int]] = {}  # where pages of expandable segments were mapped
        for segment in segments:
            self._end_with(segment)
        reserved_changes = self._undo()
        before = sum(end - address for address, (end, _) in self._reserved.items())
        self.max_reserved = before + int(np.cumsum(reserved_changes, dtype=np.int64).max(initial=0))
        self._ids: dict[int, int] = {}
        self.blocks = self._lay_out()

    def _number(self, stream: StreamId) -> int:
        """A number for each stream, and for each stream in each private pool."""
        return self._streams.setdefault(stream, len(self._streams))

    def _end_with(self, segment: SnapshotSegment) -> None:
        address = segment.address
        self._reserved[address] = address + segment.size, (self._number(segment.stream), segment.small, segment.expandable)
        for block in segment.blocks:
            if block.state != "inactive":
                self._held[address] = block.size
                if block.state != "active_allocated":
                    self._pending.add(address)
            address += block.size

    def _undo(self) -> list[int]:
        """What was reserved with each event, in order."""
        changes = []
        for action, address, size, stream in reversed(self.entries):
            change = 0
            if action in ("alloc", "free_requested"):
                self._pending.discard(address)
            if action == "alloc":
                self._held.pop(address, None)
            elif action == "free_completed":
                self._held[address] = -size
                self._pending.add(address)
            elif action in ("segment_alloc", "segment_map"):
                change = size
                self._cut(address, address + size)
                if action == "segment_map":
                    place = self._number(stream), size == SMALL_SEGMENT, True
                    if any(other == place for _, other in self._reserved.values()):
                        self._mapped_later.setdefault(place, set()).add(address)
                    else:  # with this, a segment began: what came later was in it
                        self._mapped_later.pop(place, None)
            elif action in ("segment_free", "segment_unmap"):
                change = -size
                unmapped = action == "segment_unmap"  # several pages at once; their number says of which pool, nearly always
                small = size % self.settings.large_segment_size != 0 if unmapped else size == SMALL_SEGMENT
                self._reserved[address] = address + size, (self._number(stream), small, unmapped)
            changes.append(change)
        return changes[::-1]

    def _cut(self, begin: int, end: int) -> None:
        for address, (until, place) in list(self._reserved.items()):
            if address < end and begin < until:
                del self._reserved[address]
                if address < begin:
                    self._reserved[address] = begin, place
                if end < until:
                    self._reserved[end] = until, place

    def _lay_out(self) -> Ints:
        """The blocks from before the history: rows of BlockRow in csrc/allocator/blocks.h."""
        rows: list[tuple[int, int, int, int, int, int]] = []
        held = sorted(self._held)
        segment, before, last = 0, 0, None
        for address, end, place in self._pieces():
            # Pieces of one expandable segment have nothing else between them. It begins with the first, or with what is
            # mapped later of what then lies before that.
            stream, small, expandable = place
            if not expandable or place != last:
                segment = min((at for at in self._mapped_later.get(place, ()) if before <= at < address), default=address)
            before, last = end, place
            kind = SMALL_POOL * small | EXPANDABLE * expandable
            bounds = [*held[bisect_left(held, address) : bisect_left(held, end)], end]
            at = address
            for begin, limit in pairwise(bounds):
                if at < begin:
                    rows.append((segment, at, begin - at, -1, stream, kind))
                size = self._block_size(self._held[begin], limit - begin, small or expandable)
                self._ids[begin] = len(self._ids)
                rows.append((segment, begin, size, self._ids[begin], stream, kind))
                at = begin + size
            if at < end:
                rows.append((segment, at, end - at, -1, stream, kind))
        return np.array(rows, dtype=np.int64).reshape(-1, 6)

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

    def _block_size(self, known: int, room: int, splits_all: bool) -> int:
        """Of a block that was freed later only its requested size is known. It has what was too small to split off, too."""
        if known >= 0:
            return min(known, room)
        size = min(self.settings.round(-known), room)
        unsplit = not splits_all and (room - size <= MAX_SMALL or size >= self.settings.max_split_size)
        return room if unsplit else size

    def events(self, follow: bool, under_capacity: bool) -> tuple[Ints, Ints]:
        """Rows of AllocatorEvent in csrc/allocator/replay.h, and the entry that each comes from."""
        events: list[tuple[int, int, int]] = []
        rows: list[int] = []
        ids, next_id = dict(self._ids), len(self._ids)
        released = located = False

        def add(row: int, *event: int) -> None:
            events.append((event[0], event[1], event[2]))
            rows.append(row)

        for address in self._pending & ids.keys():
            add(0, ids[address], 0, FREE_REQUESTED)
        for row, (action, address, size, stream) in enumerate(self.entries):
            reserves = action in ("segment_alloc", "segment_map", "oom")
            if released and action not in ("segment_free", "segment_unmap", "free_completed", "snapshot"):
                released = False
                if not (reserves and under_capacity):
                    add(row, 0, 0, EMPTY_CACHE)
            if action == "alloc":
                located = False
                ids[address] = next_id
                add(row, next_id, max(size, 1), self._number(stream))
                next_id += 1
            elif action == "free_requested" and address in ids:
                add(row, ids[address], 0, FREE_REQUESTED)
            elif action == "free_completed" and address in ids:
                add(row, ids.pop(address), 0, 0)
            elif action in ("segment_free", "segment_unmap"):
                if follow:
                    add(row, address, 0, RELEASE_AT)
                else:
                    released = True
            elif action in ("segment_alloc", "segment_map") and follow and not located:
                located = True  # an allocation may map several times: the first says where the segment begins
                add(row, address, 0, NEXT_SEGMENT_AT)
        if released:
            add(len(self.entries) - 1, 0, 0, EMPTY_CACHE)
        return np.array(events, dtype=np.int64).reshape(-1, 3), np.array(rows, dtype=np.int64)

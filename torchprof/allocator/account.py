"""What a memory snapshot says of one device: what was allocated and reserved, by whom, and how it lies in its segments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.allocator.snapshot import SnapshotReplay, replayed
from torchprof.importers.cuda_snapshot import CudaSnapshot, SnapshotSegment, Stack

__all__ = ["BEFORE", "NO_STACK", "Held", "SegmentUse", "SnapshotAccount"]

NO_STACK: Final[Stack] = ("(no stack recorded)",)
BEFORE: Final[Stack] = ("(before the history)",)

TIMELINE: Final = np.dtype([("entry", np.int64), ("time", np.int64), ("allocated", np.int64), ("reserved", np.int64)])


class Held(NamedTuple):
    """Blocks that one stack allocated.

    Attributes:
        stack: lines of Python, the innermost first; ``NO_STACK``, or ``BEFORE`` of blocks that were freed later.
        bytes: of its blocks.
        blocks: how many.
    """

    stack: Stack
    bytes: int
    blocks: int


class SegmentUse(NamedTuple):
    """How a segment was used at the end.

    Attributes:
        address, size: of the segment; bytes.
        allocated, free, largest_free: bytes; the last of the largest piece.
        pieces: how many free pieces.
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


@dataclass(frozen=True)
class SnapshotAccount:
    """The memory of one device in a snapshot. Sizes in bytes, of blocks: what was requested, rounded by the allocator.

    Attributes:
        snapshot, number: the snapshot, and the number of the device.
    """

    snapshot: CudaSnapshot
    number: int

    @property
    def device(self) -> str:
        """Such as ``"cuda:0"``."""
        return f"cuda:{self.number}"

    @cached_property
    def replay(self) -> SnapshotReplay | None:
        """The history, followed by the simulated allocator; None where the snapshot has none."""
        return self._replayed[0] if self._replayed else None

    @cached_property
    def _replayed(self) -> tuple[SnapshotReplay, dict[int, int]] | None:
        if not self.snapshot.has_history(self.number):
            return None
        found, history = replayed(self.snapshot, None, None, self.number)
        return found, history.held_before

    @cached_property
    def reserved(self) -> int:
        """At the end."""
        return sum(segment.size for segment in self._segments)

    @cached_property
    def allocated(self) -> int:
        """At the end, as ``torch.cuda.memory_allocated`` counts."""
        return sum(held.bytes for held in self.at_end)

    @cached_property
    def peak(self) -> int:
        """The most that was allocated during the history; without one, what is at the end."""
        return max(self.replay.max_allocated, self._allocated_before) if self.replay else self.allocated

    @cached_property
    def max_reserved(self) -> int:
        """The most that was reserved during the history; without one, what is at the end."""
        return self.replay.recorded_max_reserved if self.replay else self.reserved

    @cached_property
    def reserved_at_peak(self) -> int:
        """What was reserved when the most was allocated."""
        if not self.replay or not len(self.replay.reserved_after):
            return self.reserved
        return int(self.replay.reserved_after[max(self._peak_event, 0)])

    def timeline(self) -> npt.NDArray[np.void]:
        """What was allocated and reserved after each event of the history.

        Returns:
            Structured array: ``entry`` of the history, ``time`` in nanoseconds since its first entry (-1: not recorded),
            ``allocated``, ``reserved``. Empty without a history.
        """
        if not self.replay:
            return np.zeros(0, dtype=TIMELINE)
        replay = self.replay
        found = np.zeros(len(replay.allocated_after), dtype=TIMELINE)
        times = self.snapshot.times(self.number)
        found["entry"] = replay.rows
        found["time"] = -1 if times is None else (np.array(times, dtype=np.int64) - times[0])[replay.rows] * 1000
        found["allocated"], found["reserved"] = replay.allocated_after, replay.reserved_after
        return found

    @cached_property
    def at_peak(self) -> list[Held]:
        """What was allocated when the most was, by stack; the most first."""
        if not self._replayed:
            return self.at_end
        replay, before = self._replayed
        entries = self.snapshot.history(self.number)
        alive = {address: (size, -1) for address, size in before.items()}
        last = self._allocated_before
        for event in range(self._peak_event + 1):
            row, allocated = int(replay.rows[event]), int(replay.allocated_after[event])
            action, address, _, _ = entries[row]
            if action == "alloc" and allocated > last:
                alive[address] = allocated - last, row
            elif allocated < last:
                alive.pop(address, None)
            last = allocated
        freed = {entry.address for entry in entries if entry.action == "free_requested"}
        at_end = {address: stack for address, _, stack in self._allocated_at_end()}
        return _by_stack(
            (self.snapshot.stack(self.number, row) or NO_STACK, size)
            if row >= 0
            else ((address not in freed and at_end.get(address)) or BEFORE, size)
            for address, (size, row) in alive.items()
        )

    @cached_property
    def at_end(self) -> list[Held]:
        """What was still allocated when the snapshot was taken, by stack; the most first."""
        return _by_stack((stack or NO_STACK, size) for _, size, stack in self._allocated_at_end())

    @cached_property
    def segments(self) -> list[SegmentUse]:
        """How the segments were used when the snapshot was taken; those in use with the most free bytes first."""
        return sorted(map(_use, self._segments), key=lambda use: (not use.allocated, -use.free, use.address))

    @property
    def fragmentation(self) -> int:
        """Bytes that were free in segments in use: what no other allocation of another size or pool may fit into."""
        return sum(use.free for use in self.segments if use.allocated)

    @cached_property
    def _segments(self) -> list[SnapshotSegment]:
        return self.snapshot.segments(self.number)

    @property
    def _allocated_before(self) -> int:
        return sum(self._replayed[1].values()) if self._replayed else 0

    @cached_property
    def _peak_event(self) -> int:
        """The first event after which the most is allocated; -1: that is when the history begins."""
        if not self.replay or not len(self.replay.allocated_after):
            return -1
        at = int(np.argmax(self.replay.allocated_after))
        return at if self.replay.allocated_after[at] > self._allocated_before else -1

    def _allocated_at_end(self) -> list[tuple[int, int, Stack]]:
        found = []
        for segment in self._segments:
            address = segment.address
            for block in segment.blocks:
                if block.state == "active_allocated":
                    found.append((address, block.size, block.stack))
                address += block.size
        return found


def _by_stack(blocks: Iterable[tuple[Stack, int]]) -> list[Held]:
    sums: dict[Stack, list[int]] = {}
    for stack, size in blocks:
        found = sums.setdefault(stack, [0, 0])
        found[0] += size
        found[1] += 1
    return sorted((Held(stack, size, count) for stack, (size, count) in sums.items()), key=lambda held: -held.bytes)


def _use(segment: SnapshotSegment) -> SegmentUse:
    free: list[int] = []
    allocated, was_free = 0, False
    for block in segment.blocks:
        is_free = block.state == "inactive"
        if not is_free:
            allocated += block.size
        elif was_free:
            free[-1] += block.size
        else:
            free.append(block.size)
        was_free = is_free
    return SegmentUse(
        *(segment.address, segment.size, allocated, sum(free), max(free, default=0), len(free)),
        *(segment.stream[0], segment.small, segment.expandable),
    )

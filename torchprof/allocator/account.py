"""What a memory snapshot says of one device: what was allocated and reserved, by whom, and how it lies in its segments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.allocator.block_categories import SNAPSHOT_CATEGORIES, block_categories
from torchprof.allocator.history import History
from torchprof.allocator.lifetimes import Blocks, allocated_at_end, allocated_in, lifetimes, missing_entries
from torchprof.allocator.segment_use import SegmentUse, is_used, use_of
from torchprof.allocator.snapshot import SnapshotReplay, replayed
from torchprof.allocator.snapshot_leaks import StackLeak, grown_stacks, stack_leaks, why_leaks_unknown
from torchprof.allocator.snapshot_steps import SnapshotSteps, snapshot_steps
from torchprof.allocator.stack_roles import Role, in_ranges, roles
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.memory.leaks import GrownPlace, not_enough
from torchprof.analysis.memory.moments import Moments, moments
from torchprof.importers.cuda_snapshot import CudaSnapshot
from torchprof.importers.snapshot_entries import SnapshotSegment
from torchprof.importers.stacks import Stack, Stacks

__all__ = ["BEFORE", "NO_FRAMES", "NO_STACK", "Held", "SnapshotAccount"]

Ints = npt.NDArray[np.int64]

NO_STACK: Final[Stack] = ("(no stack recorded)",)
NO_FRAMES: Final[Stack] = ("(no Python: autograd)",)
BEFORE: Final[Stack] = ("(before the history)",)

TIMELINE: Final = np.dtype([("entry", np.int64), ("time", np.int64), ("allocated", np.int64), ("reserved", np.int64)])


class Held(NamedTuple):
    """Blocks of one category that one stack allocated.

    Attributes:
        stack: lines of Python, the innermost first; ``NO_STACK``, ``NO_FRAMES`` of what a thread without Python allocated, or
            ``BEFORE`` of blocks from before the history that were freed later.
        bytes: of its blocks.
        blocks: how many.
        category: what they are used for, estimated: one of ``torchprof.SNAPSHOT_CATEGORIES``.
    """

    stack: Stack
    bytes: int
    blocks: int
    category: str = "unknown"


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
    def _replayed(self) -> tuple[SnapshotReplay, History] | None:
        if not self.snapshot.has_history(self.number):
            return None
        return replayed(self.snapshot, None, None, self.number)

    @cached_property
    def changes(self) -> int:
        """How many allocations and frees the history has. Where it has none, it tells no more than the end does."""
        return self.snapshot.changes(self.number)

    @cached_property
    def reserved(self) -> int:
        """At the end."""
        return sum(segment.size for segment in self._segments)

    @cached_property
    def allocated(self) -> int:
        """At the end, as ``torch.cuda.memory_allocated`` counts."""
        return sum(block.size for segment in self._segments for block in segment.blocks if block.state == "active_allocated")

    @cached_property
    def awaiting_free(self) -> int:
        """Freed by the program, and still used by another stream, at the end: neither allocated nor free."""
        return sum(use.awaiting_free for use in self.segments)

    @cached_property
    def peak(self) -> int:
        """The most that was allocated during the history; without one, what is at the end."""
        return self.replay.max_allocated if self.replay else self.allocated

    @cached_property
    def max_reserved(self) -> int:
        """The most that was reserved during the history; without one, what is at the end."""
        return self.replay.recorded_max_reserved if self.replay else self.reserved

    @cached_property
    def reserved_at_peak(self) -> int:
        """What was reserved when the most was allocated, as recorded."""
        return int(self._reserved_after[max(self._peak_event, 0)]) if len(self._reserved_after) else self.reserved

    @cached_property
    def _reserved_after(self) -> Ints:
        """After each event of the replay. The history says so itself, also where the replay does not follow it."""
        if not self._replayed:
            return np.zeros(0, dtype=np.int64)
        replay, history = self._replayed
        found: Ints = history.reserved_after[replay.rows]
        return found

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
        found["allocated"], found["reserved"] = replay.allocated_after, self._reserved_after
        return found

    def moments(self, points: int = 500, named: int = 5) -> Moments:
        """What was allocated after some entries of the history, by category, and by which lines most of it.

        The first is the start of the history, as entry 0. Each further one stands for an equal number of allocations and frees,
        and is that after which the most was allocated, so that the peak is among them.

        Args:
            points: the largest number of these.
            named: how much of what was allocated most is listed.
        """
        blocks = self.blocks
        keys, group = np.unique(blocks["stack"] * len(SNAPSHOT_CATEGORIES) + self.category, return_inverse=True)
        names = [divmod(key, len(SNAPSHOT_CATEGORIES)) for key in keys.tolist()]
        places = [(self.stack(stack)[0], SNAPSHOT_CATEGORIES[kind]) for stack, kind in names]
        categories = SNAPSHOT_CATEGORIES
        return moments(blocks, places, group.reshape(-1), Changes(blocks), None, points, named, categories)

    @cached_property
    def blocks(self) -> Blocks:
        """The blocks of the history, or of the end where there is none: see `torchprof.allocator.lifetimes`."""
        if not self._replayed:
            return allocated_in(self._segments, self._stacks)
        replay, history = self._replayed
        return lifetimes(history, replay, self.snapshot, self.number, self._stacks)

    @cached_property
    def missing(self) -> int:
        """How many entries must be missing from the history, as its others say: what was allocated may be off then."""
        return missing_entries(self._replayed[1], self._segments) if self._replayed else 0

    @cached_property
    def category(self) -> Ints:
        """What each of ``blocks`` is used for, as an index of ``SNAPSHOT_CATEGORIES``: estimated from stacks and lifetimes."""
        return block_categories(self.blocks, *self._roles)

    @cached_property
    def held_at_peak(self) -> npt.NDArray[np.bool_]:
        """Which of ``blocks`` were allocated when the most was. Their bytes add up to the peak."""
        entry = int(self.replay.rows[self._peak_event]) if self.replay and self._peak_event >= 0 else -1
        held: npt.NDArray[np.bool_] = (self.blocks["start"] <= entry) & (
            (self.blocks["end"] < 0) | (self.blocks["end"] > entry)
        )
        return held

    @cached_property
    def by_category(self) -> dict[str, int]:
        """Bytes allocated at the peak, by category, as far as stacks and lifetimes tell; they add up to it."""
        at_peak = self.held_at_peak
        sums = np.bincount(self.category[at_peak], weights=self.blocks["bytes"][at_peak], minlength=len(SNAPSHOT_CATEGORIES))
        return {name: int(total) for name, total in zip(SNAPSHOT_CATEGORIES, sums, strict=True)}

    @cached_property
    def by_metadata(self) -> dict[str, int]:
        """Bytes allocated at the peak, by what ``torch.cuda.memory._set_memory_metadata`` had set; empty if it set nothing."""
        found: dict[str, int] = {}
        for start, size in self.blocks[["start", "bytes"]][self.held_at_peak].tolist():
            said = self.snapshot.metadata(self.number, start) if start >= 0 else ""
            found[said] = found.get(said, 0) + size
        return dict(sorted(found.items(), key=lambda item: -item[1])) if any(found) else {}

    @cached_property
    def at_peak(self) -> list[Held]:
        """What was allocated when the most was, by stack and category; the most first."""
        return self._by_stack(np.flatnonzero(self.held_at_peak))

    @cached_property
    def at_end(self) -> list[Held]:
        """What was still allocated when the snapshot was taken, by stack and category; the most first."""
        here = np.isin(self.blocks["address"], list(allocated_at_end(self._segments)))
        return self._by_stack(np.flatnonzero((self.blocks["end"] < 0) & here))

    @cached_property
    def steps(self) -> SnapshotSteps | None:
        """The steps of the history, and what tells them; None without a history."""
        if not self._replayed:
            return None
        times = self.snapshot.times(self.number)
        annotations = self.snapshot.annotations(self.number)
        return snapshot_steps(self.blocks, self._roles[0], annotations, times, len(self._replayed[1].entries))

    @cached_property
    def leaks(self) -> list[StackLeak]:
        """The stacks that hold more and more at the ends of steps, the most growth first.

        It may not have all where that cannot be told: see ``leaks_unknown``.
        """
        leaking = [grown for grown in self._grown if grown.keeps_growing]
        return stack_leaks(leaking, self.blocks, self.category, self.stack)

    @property
    def leaks_unknown(self) -> str | None:
        """Why it cannot be told what leaks, or what leaks beside ``leaks``. None where it can."""
        unclear = [self.stack(grown.place)[0] for grown in self._grown if not grown.keeps_growing]
        return why_leaks_unknown(self.blocks, self.steps) or not_enough(unclear)

    @cached_property
    def _grown(self) -> list[GrownPlace[int]]:
        if self.steps is None or why_leaks_unknown(self.blocks, self.steps) is not None:
            return []
        return grown_stacks(self.blocks, self.steps)

    @cached_property
    def segments(self) -> list[SegmentUse]:
        """How the segments were used when the snapshot was taken; those in use with the most free bytes first."""
        return sorted(map(use_of, self._segments), key=lambda use: (not is_used(use), -use.free, use.address))

    @property
    def fragmentation(self) -> int:
        """Bytes that were free in segments in use: what no other allocation of another size or pool may fit into."""
        return sum(use.free for use in self.segments if is_used(use))

    @cached_property
    def _segments(self) -> list[SnapshotSegment]:
        return self.snapshot.segments(self.number)

    @property
    def _allocated_before(self) -> int:
        return sum(self._replayed[1].held_before.values()) if self._replayed else 0

    @cached_property
    def _peak_event(self) -> int:
        """The first event after which the most is allocated; -1: that is when the history begins."""
        if not self.replay or not len(self.replay.allocated_after):
            return -1
        at = int(np.argmax(self.replay.allocated_after))
        return at if self.replay.allocated_after[at] > self._allocated_before else -1

    @cached_property
    def _stacks(self) -> Stacks:
        return Stacks()

    @cached_property
    def _roles(self) -> tuple[list[Role], list[Role]]:
        """What was done when each block was allocated, and when it was freed."""
        blocks = self.blocks
        of_stack = roles(self._stacks)
        allocated, freed = ([of_stack[stack] for stack in blocks[name].tolist()] for name in ("stack", "freed_by"))
        if Role.BACKWARD not in allocated and Role.ACCUMULATION not in allocated:
            # Backward allocates: so it is not the autograd engine that frees without frames, as in inference.
            for row in self._freed_without_frames:
                freed[row] = Role.UNKNOWN
        annotations, times = self.snapshot.annotations(self.number), self.snapshot.times(self.number)
        if annotations and times is not None and len(times):
            in_ranges(allocated, blocks["start"], times, annotations)
            in_ranges(freed, blocks["end"], times, annotations)
        return allocated, freed

    @property
    def _freed_without_frames(self) -> list[int]:
        """Rows of the blocks that were freed with a stack of no frames: that of the autograd engine has none."""
        freed_by = self.blocks["freed_by"].tolist()
        return [row for row, stack in enumerate(freed_by) if stack >= 0 and not self._stacks.frames(stack)]

    def stack(self, number: int) -> Stack:
        """The lines of one of the stacks of ``blocks``."""
        return self._stacks.lines(number) or (NO_FRAMES if number >= 0 else NO_STACK)

    def _by_stack(self, rows: Ints) -> list[Held]:
        blocks = self.blocks
        sums: dict[tuple[Stack, int], list[int]] = {}
        columns = (blocks[name][rows].tolist() for name in ("stack", "bytes", "start", "end"))
        for category, stack, size, start, end in zip(self.category[rows].tolist(), *columns, strict=True):
            lines = BEFORE if stack < 0 and start < 0 and end >= 0 else self.stack(stack)
            found = sums.setdefault((lines, category), [0, 0])
            found[0] += size
            found[1] += 1
        held = [Held(lines, size, count, SNAPSHOT_CATEGORIES[kind]) for (lines, kind), (size, count) in sums.items()]
        return sorted(held, key=lambda each: -each.bytes)

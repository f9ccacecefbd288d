"""Why a request failed, as a memory snapshot recorded it, and whether other settings of the allocator would have served it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from torchprof.allocator.history import MAX_SMALL, SMALL_POOL, History
from torchprof.allocator.replay import simulate
from torchprof.allocator.settings import AllocatorSettings
from torchprof.allocator.snapshot import recorded_settings, replayed
from torchprof.errors import ArgumentError
from torchprof.importers.cuda_snapshot import CudaSnapshot
from torchprof.importers.snapshot_entries import SnapshotEvent
from torchprof.importers.stacks import Stack, Stacks

__all__ = ["AS_RECORDED", "ATTEMPTS", "ATTEMPTS_BELOW_A_LIMIT", "Attempt", "OutOfMemoryAccount", "none_failed"]

AS_RECORDED: Final = "(as recorded)"
ATTEMPTS: Final = (
    "expandable_segments:True",
    *(f"max_split_size_mb:{size}" for size in (32, 64, 128, 256, 512)),
    *(f"roundup_power2_divisions:{count}" for count in (4, 8)),
)
"""Settings that are tried, each instead of what was recorded of the same option."""
ATTEMPTS_BELOW_A_LIMIT: Final = ("garbage_collection_threshold:0.8", "garbage_collection_threshold:0.6")
"""Of no effect without a limit such as ``torch.cuda.set_per_process_memory_fraction``."""


class Attempt(NamedTuple):
    """The history and the failed request, replayed with other settings.

    Attributes:
        text: the settings, as ``PYTORCH_ALLOC_CONF`` has them.
        fits: whether all was served.
        max_reserved: bytes, the most at any time.
        served, allocations: how many allocations were served, of how many.
    """

    text: str
    fits: bool
    max_reserved: int
    served: int
    allocations: int


class _Then(NamedTuple):
    """What was reserved when the request failed, as the replay has it."""

    reserved: int
    allocated: int
    awaiting_free: int
    largest_free: int
    pieces: int


@dataclass(frozen=True)
class OutOfMemoryAccount:
    """The last request of a history that failed. Sizes in bytes.

    Attributes:
        snapshot, number: the snapshot, and the number of the device.
        given_capacity: bytes that PyTorch could have; None: found out from the snapshot.
    """

    snapshot: CudaSnapshot
    number: int
    given_capacity: int | None = None

    @property
    def device(self) -> str:
        """Such as ``"cuda:0"``."""
        return f"cuda:{self.number}"

    @cached_property
    def _entries(self) -> list[SnapshotEvent]:
        return self.snapshot.history(self.number)

    @cached_property
    def entry(self) -> int:
        """Which entry of the history it is.

        Raises:
            ArgumentError: no request failed.
        """
        failed = [row for row, entry in enumerate(self._entries) if entry.action == "oom"]
        if not failed:
            raise none_failed(self.snapshot, f"the history of device {self.number}")
        return failed[-1]

    @property
    def earlier(self) -> int:
        """How many requests failed before, after which the program went on."""
        return sum(entry.action == "oom" for entry in self._entries[: self.entry])

    @property
    def requested(self) -> int:
        """Of the block that was needed."""
        return self._entries[self.entry].size

    @property
    def device_free(self) -> int | None:
        """What the device had free, as it said itself; None where the history does not have it."""
        free = self._entries[self.entry].address
        return free if free >= 0 else None

    @property
    def stack(self) -> Stack:
        """Lines of Python that requested it, the innermost first; empty where none was recorded."""
        stacks = Stacks()
        return stacks.lines(stacks.number(self.snapshot.frames(self.number, self.entry)))

    @cached_property
    def settings(self) -> AllocatorSettings:
        """As recorded."""
        return recorded_settings(self.snapshot)

    @cached_property
    def _history(self) -> History:
        return History(self._entries, self.snapshot.segments(self.number), self.settings)

    @property
    def before(self) -> int:
        """Allocated before the history: it stays where it was in every attempt."""
        return sum(self._history.held_before.values())

    @property
    def reserved(self) -> int:
        """When the request failed."""
        return int(self._history.reserved_after[self.entry])

    @property
    def limited(self) -> bool:
        """Whether the device had room for the request all the same: then PyTorch was not allowed to take more."""
        return self.device_free is not None and self.settings.reserves(self.requested) <= self.device_free

    @property
    def capacity(self) -> int:
        """What PyTorch could have of the device, at least where ``device_free`` is unknown or a limit ended it; or what was
        given."""
        return self._own_capacity if self.given_capacity is None else self.given_capacity

    @property
    def most(self) -> int | None:
        """What PyTorch could have at most: a limit that ended it left no room for what the request would have reserved. None:
        not known."""
        if self.given_capacity is None and self.limited:
            return self.reserved + self.settings.reserves(self.requested) - 1
        return None if self.given_capacity is None and self.device_free is None else self.capacity

    @property
    def _own_capacity(self) -> int:
        return self.reserved + (0 if self.limited else self.device_free or 0)

    @property
    def allocated(self) -> int:
        """When the request failed."""
        return self._then.allocated

    @property
    def awaiting_free(self) -> int:
        """Freed by the program, and still used by another stream, when the request failed: neither allocated nor free."""
        return self._then.awaiting_free

    @property
    def free(self) -> int:
        """Of what was reserved when the request failed: free, in pieces or for others."""
        return max(self.reserved - self.allocated - self.awaiting_free, 0)

    @property
    def largest_free(self) -> int:
        """The largest free piece that the request could have had: of its stream and its pool."""
        return self._then.largest_free

    @property
    def pieces(self) -> int:
        """How many free pieces."""
        return self._then.pieces

    @property
    def missing(self) -> int:
        """How much more than ``capacity`` is needed even if nothing is fragmented; 0: no more is."""
        return max(self.allocated + self.awaiting_free + self.requested - self.capacity, 0)

    @property
    def followed(self) -> bool:
        """Whether the replay has reserved as much as was recorded when the request failed."""
        return self._then.reserved == self.reserved

    @cached_property
    def _then(self) -> _Then:
        events, rows = self._history.events(follow=True, under_capacity=False)
        before = events[rows < self.entry]
        blocks = simulate(before, replace(self.settings, per_process_memory_fraction=1.0), None, self._history.blocks)["blocks"]
        is_free = blocks[:, 3] < 0
        free, size = blocks[is_free], blocks[:, 2]
        awaiting = int(size[~is_free & np.isin(blocks[:, 1], self._awaiting_free())].sum())
        stream = self._history.number(self._entries[self.entry].stream)
        is_small = (free[:, 5] & SMALL_POOL) != 0
        fits = (free[:, 4] == stream) & (is_small == (self.requested <= MAX_SMALL))
        largest = int(np.max(free[fits, 2], initial=0))
        return _Then(int(size.sum()), int(size[~is_free].sum()) - awaiting, awaiting, largest, len(free))

    def _awaiting_free(self) -> list[int]:
        """Addresses of the blocks whose free was requested and not completed when the request failed."""
        found = set(self._history.pending)
        for action, address, _, _ in self._entries[: self.entry]:
            if action == "free_requested":
                found.add(address)
            elif action in ("free_completed", "alloc"):
                found.discard(address)
        return list(found)

    @cached_property
    def attempts(self) -> list[Attempt]:
        """The run with the failed request, with the recorded settings and with others; what cannot be set is left out."""
        return self._attempts(self.capacity)

    def _attempts(self, capacity: int) -> list[Attempt]:
        found = [self._attempt(AS_RECORDED, self.settings, capacity)]
        for text in (*ATTEMPTS, *(ATTEMPTS_BELOW_A_LIMIT if self.limited else ())):
            wanted = AllocatorSettings.parse(text)
            default = AllocatorSettings()
            changed = {
                field.name: getattr(wanted, field.name)
                for field in fields(wanted)
                if getattr(wanted, field.name) != getattr(default, field.name)
            }
            try:
                settings = replace(self.settings, **changed)
            except ArgumentError:  # smaller than the segments that were set
                continue
            if settings != self.settings:
                found.append(self._attempt(text, settings, capacity))
        return found

    @property
    def saved_by(self) -> list[str]:
        """The settings with which all would have fit; none where all fits as it was recorded."""
        first, *others = self.attempts
        return [] if first.fits else [attempt.text for attempt in others if attempt.fits]

    @cached_property
    def may_be_saved_by(self) -> list[str]:
        """The settings with which all would have fit below the highest limit that can have ended it, beside ``saved_by``."""
        if self.most is None or self.most == self.capacity:
            return []
        return [each.text for each in self._attempts(self.most)[1:] if each.fits and each.text not in self.saved_by]

    @cached_property
    def reproduced(self) -> bool:
        """Whether the replay with the recorded settings, and the memory that there was, fails at this request, as the program
        did. That does not depend on a capacity that was given."""
        same = self.capacity == self._own_capacity
        first = self.attempts[0] if same else self._attempt(AS_RECORDED, self.settings, self._own_capacity)
        return not first.fits and first.served == first.allocations - 1

    def _attempt(self, text: str, settings: AllocatorSettings, capacity: int) -> Attempt:
        if settings.garbage_collection_threshold and self.limited:  # it goes by a limit that is a share of the device
            settings, capacity = replace(settings, per_process_memory_fraction=0.5), 2 * capacity
        replay, _ = replayed(self.snapshot, settings, capacity, self.number, self.entry)
        end = replay.out_of_memory
        served = sum(entry.action == "alloc" for entry in self._entries[: self.entry if end is None else end])
        allocations = sum(entry.action == "alloc" for entry in self._entries[: self.entry]) + 1
        return Attempt(text, end is None, replay.max_reserved, served + (end is None), allocations)


def none_failed(snapshot: CudaSnapshot, where: str) -> ArgumentError:
    """No request failed there."""
    return ArgumentError(
        f"{snapshot.place}: no request failed in {where}: take the snapshot after the torch.OutOfMemoryError, with "
        "torch.cuda.memory._record_memory_history() before it"
    )

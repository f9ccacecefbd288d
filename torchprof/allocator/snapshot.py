"""Recorded memory snapshots, replayed: what the allocator did, step by step, or would have done with other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from torchprof.allocator.address_space import most_memory
from torchprof.allocator.history import MAX_SMALL, NEXT_SEGMENT_AT, RELEASE_AT, SMALL_SEGMENT, History
from torchprof.allocator.replay import Replay, check, figures, simulate
from torchprof.allocator.settings import AllocatorSettings
from torchprof.errors import ArgumentError
from torchprof.importers.cuda_snapshot import CudaSnapshot
from torchprof.paths import AnyPath

__all__ = ["SnapshotReplay", "recorded_settings", "replay_snapshot", "replayed"]

Ints = npt.NDArray[np.int64]


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
    snapshot: Mapping[str, Any] | Sequence[Mapping[str, Any]] | AnyPath,
    settings: AllocatorSettings | None = None,
    capacity: int | str | None = None,
    *,
    device: int = 0,
) -> SnapshotReplay:
    """Give what a memory snapshot recorded to the simulated allocator.

    Without settings and capacity, it follows the recording: the settings are the snapshot's, segments are where they were, and
    are freed when they were. With them, it says what would have been reserved instead. Segments that the recording freed then
    count as ``torch.cuda.empty_cache()``, except, under a capacity, those freed right before it reserved another one or ran out
    of memory.

    Args:
        snapshot: of ``torch.cuda.memory._snapshot()`` after ``torch.cuda.memory._record_memory_history()``, or the path of the
            file that ``torch.cuda.memory._dump_snapshot`` wrote, plain or in gzip.
        settings: None: those of the snapshot.
        capacity: bytes of the device that PyTorch can have, memory such as ``"40GiB"``, or the name of a GPU of
            ``torchprof.GPUS``, all of it; None: no limit.
        device: which one of the snapshot.

    Raises:
        ArgumentError: the snapshot has no history of that device or cannot be read, or the capacity is none.
        TraceFileError: the file is no snapshot, is damaged, or asks to import something.
        ModuleTypeError: the snapshot is neither, or the settings are no `AllocatorSettings`.
        ExtensionError: the compiled recorder is missing.

    Example:
        >>> replay_snapshot(torch.cuda.memory._snapshot()).max_reserved == torch.cuda.max_memory_reserved()
        True
    """
    limit = check(settings, capacity)
    return replayed(CudaSnapshot.of(snapshot), settings, limit, device)[0]


def replayed(
    recorded: CudaSnapshot,
    settings: AllocatorSettings | None,
    capacity: int | None,
    device: int,
    failed: int | None = None,
) -> tuple[SnapshotReplay, History]:
    """As `replay_snapshot`, and the history. With ``failed``, up to the request that ran out of memory there, and with it."""
    entries = recorded.history(device)
    follow = settings is None and capacity is None
    own_settings = recorded_settings(recorded)
    used = settings or own_settings
    history = History(entries, recorded.segments(device), own_settings)
    events, rows = history.events(follow, under_capacity=capacity is not None, failed=failed)
    misplaced: int | None = None
    if follow:
        addresses = np.array([entry.address for entry in entries], dtype=np.int64)
        results, rows, misplaced = _follow(events, rows, addresses, used, history)
    else:
        results = simulate(events, used, capacity, history.blocks)
    known = figures(results, used, capacity, rows)
    # What was freed before the history, but for another stream, is restored as allocated and then freed.
    known |= {name: known[name][history.pending_before :] for name in ("rows", "allocated_after", "reserved_after")}
    known["max_allocated"] = max(sum(history.held_before.values()), int(known["allocated_after"].max(initial=0)))
    found = SnapshotReplay(
        **known,
        recorded_max_reserved=history.max_reserved,
        complete=history.complete,
        misplaced=misplaced,
    )
    return found, history


def _follow(
    events: Ints, rows: Ints, entries: Ints, settings: AllocatorSettings, history: History
) -> tuple[dict[str, Any], Ints, int]:
    """What the allocator does in order to lie where it was recorded; the entry of each event; and how many lie elsewhere.

    A snapshot does not say how much memory the device has, nor for whom memory was released: both are found out by trying.
    """
    recorded = entries[rows]
    # Segments that were freed are so by the recording: the settings must not do it again.
    used = replace(settings, per_process_memory_fraction=1.0)
    best: tuple[dict[str, Any], Ints, int] | None = None
    memory: int | None = None
    while True:
        results = simulate(events, used, memory, history.blocks)
        addresses = results["addresses"]
        elsewhere = np.flatnonzero((addresses != 0) & (addresses != recorded[: len(addresses)]))
        ran_out = results["index"] >= 0
        if best is None or (len(elsewhere) < best[2] and not ran_out):
            best = results, rows, len(elsewhere)
        if not len(elsewhere) or not settings.expandable_segments or ran_out:
            return best
        first = int(elsewhere[0])
        before = simulate(events[:first], used, memory, history.blocks)["blocks"]
        size = settings.round(int(events[first, 1]))
        page = settings.large_segment_size if size > MAX_SMALL else SMALL_SEGMENT
        less = most_memory(before, size, page, int(recorded[first]), int(addresses[first]))
        # It has what was reserved, at least.
        if less is not None and history.max_reserved <= less and (memory is None or less < memory):
            memory = less
        elif first == history.pending_before or events[first - 1, 2] == RELEASE_AT:
            # Released to make room for it: then, what can be mapped is looked for, though nothing need be mapped in the end.
            events = np.insert(events, first, (recorded[first], 0, NEXT_SEGMENT_AT), axis=0)
            recorded = np.insert(recorded, first, recorded[first])
            rows = np.insert(rows, first, rows[first])
        else:
            return best


def recorded_settings(snapshot: CudaSnapshot) -> AllocatorSettings:
    """The settings of a snapshot. What it has as a number counts; other options are in the text they were set with."""
    recorded = snapshot.settings
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
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"{snapshot.place}: its 'allocator_settings' cannot be read: {error}") from error
    return replace(settings, **found)

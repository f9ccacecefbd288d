"""The blocks of a recorded history: from which entry to which each was allocated, and by which stack.

address, bytes  of the block; bytes with what it was rounded by
requested       bytes; -1: not known, as the block is from before the history and still there
start           the entry that allocated it; -1: from before the history
end             the entry that freed it; -1: still allocated when the snapshot was taken
stack           a number of `Stacks`: of what allocated it
freed_by        the same of what freed it
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.allocator.history import History
from torchprof.allocator.snapshot import SnapshotReplay
from torchprof.importers.cuda_snapshot import CudaSnapshot
from torchprof.importers.snapshot_entries import SnapshotSegment
from torchprof.importers.stacks import NOT_RECORDED, Stacks

__all__ = ["BLOCK", "Blocks", "allocated_in", "lifetimes", "missing_entries"]

Blocks = npt.NDArray[np.void]

BLOCK: Final = np.dtype(
    [
        *((name, np.int64) for name in ("address", "bytes", "requested", "start", "end")),
        *((name, np.int32) for name in ("stack", "freed_by")),
    ]
)


def lifetimes(history: History, replay: SnapshotReplay, snapshot: CudaSnapshot, device: int, stacks: Stacks) -> Blocks:
    """The blocks of a history, those from before it first, the others in the order of their allocation."""
    entries = history.entries
    at_end = _at_end(snapshot.segments(device), stacks)
    sizes = _sizes(history, replay)
    rows: list[tuple[int, int, int, int]] = [(address, size, -1, -1) for address, size in history.held_before.items()]
    ends = [-1] * len(rows)
    held = {row[0]: number for number, row in enumerate(rows)}
    for entry, (action, address, size, _) in enumerate(entries):
        if action == "alloc":
            if address in held:  # an entry that freed it is missing
                ends[held[address]] = entry
            held[address] = len(rows)
            rows.append((address, sizes[entry] or history.settings.round(size), size, entry))
            ends.append(-1)
        elif action in ("free_requested", "free_completed") and address in held:
            ends[held.pop(address)] = entry
    blocks = np.zeros(len(rows), dtype=BLOCK)
    for name, values in zip(("address", "bytes", "requested", "start"), zip(*rows, strict=True), strict=False):
        blocks[name] = values
    blocks["end"] = ends
    blocks["stack"] = [_number(snapshot, device, entry, stacks) for entry in blocks["start"].tolist()]
    blocks["freed_by"] = [_number(snapshot, device, entry, stacks) for entry in ends]
    for address, row in held.items():
        if address in at_end:
            size, stack = at_end[address]
            blocks["bytes"][row] = size
            if blocks["stack"][row] == NOT_RECORDED:
                blocks["stack"][row] = stack
    return blocks


def missing_entries(history: History, segments: list[SnapshotSegment]) -> int:
    """How many entries must be missing: blocks are freed that nobody allocated, or allocated while they are allocated, or
    allocated at the end as the history has it, and not in what is reserved then.

    ``torch.cuda.memory._record_memory_history(skip_actions=...)`` leaves some out.
    """
    held = set(history.held_before)
    requested = set(history.pending)
    missing = 0
    for action, address, _, _ in history.entries:
        if action == "alloc":
            missing += address in held or address in requested
            held.add(address)
            requested.discard(address)
        elif action == "free_requested":
            missing += address not in held
            held.discard(address)
            requested.add(address)
        elif action == "free_completed":
            missing += address not in requested and address not in held
            requested.discard(address)
            held.discard(address)
    return missing + len(held - allocated_at_end(segments))


def allocated_at_end(segments: list[SnapshotSegment]) -> set[int]:
    """Addresses of what is allocated in these."""
    return set(_at_end(segments, Stacks()))


def allocated_in(segments: list[SnapshotSegment], stacks: Stacks) -> Blocks:
    """What is allocated at the end, where there is no history."""
    rows = [(address, size, -1, -1, -1, stack, NOT_RECORDED) for address, (size, stack) in _at_end(segments, stacks).items()]
    return np.array(rows, dtype=BLOCK)


def _at_end(segments: list[SnapshotSegment], stacks: Stacks) -> dict[int, tuple[int, int]]:
    """By address: bytes and stack. Of a block, an empty list of frames says that none were recorded."""
    found: dict[int, tuple[int, int]] = {}
    for segment in segments:
        address = segment.address
        for block in segment.blocks:
            if block.state == "active_allocated":
                found[address] = block.size, stacks.number(block.frames or None)
            address += block.size
    return found


def _number(snapshot: CudaSnapshot, device: int, entry: int, stacks: Stacks) -> int:
    return stacks.number(snapshot.frames(device, entry)) if entry >= 0 else NOT_RECORDED


def _sizes(history: History, replay: SnapshotReplay) -> list[int]:
    """Bytes of the block that each entry allocated; 0 of the others, and where the replay ended before."""
    changes = np.diff(replay.allocated_after, prepend=sum(history.held_before.values()))
    sizes = np.zeros(len(history.entries), dtype=np.int64)
    grown = changes > 0
    sizes[replay.rows[grown]] = changes[grown]
    found: list[int] = sizes.tolist()
    return found

"""What a memory snapshot of CUDA consists of: entries of its histories, its segments and their blocks, each read and checked.

What is raised here by an entry that is none is one of `BROKEN`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torchprof.wording import shown

__all__ = [
    "ACTIONS",
    "BROKEN",
    "SnapshotBlock",
    "SnapshotEvent",
    "SnapshotSegment",
    "StreamId",
    "read_event",
    "read_segment",
    "whole_number",
]

StreamId = tuple[int, tuple[int, int]]
"""A stream, and the private pool of a CUDA graph: (0, 0) for none. Memory is never shared between two of these."""

NO_POOL = (0, 0)
STATES = ("active_allocated", "active_awaiting_free", "active_pending_free", "inactive")
"""Of blocks; older versions of PyTorch call the second the third."""
POOLS = ("small", "large")
ACTIONS = frozenset(
    "alloc free_requested free_completed segment_alloc segment_free segment_map segment_unmap oom snapshot".split()
)
BROKEN = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What is raised by reading entries that are none."""

# Named tuples, as a history may have a million entries: they are made several times as fast as frozen dataclasses.


class SnapshotEvent(NamedTuple):
    """One entry of a history.

    Attributes:
        action: ``"alloc"``, ``"free_requested"``, ``"free_completed"``, ``"segment_alloc"``, ``"segment_free"``,
            ``"segment_map"``, ``"segment_unmap"``, ``"oom"`` or ``"snapshot"``.
        address, size: of the block or segment; bytes. Of ``"oom"``, what the device had free, -1 where that is unknown, and the
            block that was needed.
        stream: whose memory it is.
    """

    action: str
    address: int
    size: int
    stream: StreamId


class SnapshotBlock(NamedTuple):
    """A part of a segment.

    Attributes:
        size: bytes.
        state: ``"active_allocated"``, ``"active_awaiting_free"`` (freed, but another stream still uses it) or ``"inactive"``.
        frames: of the stack that allocated it, the innermost first; None where it was not recorded.
    """

    size: int
    state: str
    frames: Sequence[Any] | None = None


class SnapshotSegment(NamedTuple):
    """Memory that was reserved in one piece.

    Attributes:
        address, size: bytes.
        stream: whose memory it is.
        small: whether it is in the pool of blocks of at most 1 MiB.
        expandable: whether it is a stretch of pages of an expandable segment.
        blocks: in order of address, without gaps.
    """

    address: int
    size: int
    stream: StreamId
    small: bool
    expandable: bool
    blocks: tuple[SnapshotBlock, ...]


def read_event(entry: Mapping[str, Any]) -> SnapshotEvent:
    """An entry of a history."""
    action = entry["action"]
    return SnapshotEvent(action, _address(action, entry), whole_number(entry["size"]), _stream(entry))


def read_segment(segment: Mapping[str, Any]) -> SnapshotSegment:
    """A segment with its blocks."""
    address, size = whole_number(segment["address"]), whole_number(segment["total_size"])
    blocks = tuple(map(_block, segment["blocks"]))
    if (whole := sum(block.size for block in blocks)) != size:
        raise ValueError(f"it has {size:,} bytes, and its blocks have {whole:,}")
    return SnapshotSegment(
        address,
        size,
        _stream(segment),
        _one_of(POOLS, "segment_type", segment["segment_type"]) == "small",
        bool(segment.get("is_expandable", False)),
        blocks,
    )


def _block(block: Mapping[str, Any]) -> SnapshotBlock:
    size = whole_number(block["size"])
    if size <= 0:
        raise ValueError(f"a block of {size:,} bytes is none")
    return SnapshotBlock(size, _one_of(STATES, "state", block["state"]), _frames(block))


def _one_of(known: tuple[str, ...], name: str, value: Any) -> str:
    if value not in known:
        raise ValueError(f"{name} {shown(value, 40)} is unknown: {', '.join(known)} are known")
    return str(value)


def _address(action: Any, entry: Mapping[str, Any]) -> int:
    """Of what an entry is about. Of a request that failed: what the device had free, or -1."""
    if action == "oom":
        free = entry.get("device_free", entry.get("addr"))
        return -1 if free is None else whole_number(free)
    return whole_number(entry["addr"] if action in ACTIONS and action != "snapshot" else entry.get("addr", 0))


def _frames(block: Mapping[str, Any]) -> Any:
    """Of a block; older versions of PyTorch have them in its history."""
    history = block.get("history")
    return history[-1].get("frames") if history else block.get("frames")


def whole_number(value: Any) -> int:
    """An address, bytes or a time."""
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{number} is no address and no number of bytes")
    return number


def _stream(entry: Mapping[str, Any]) -> StreamId:
    first, second = entry.get("pool_id", entry.get("segment_pool_id", NO_POOL))
    return int(entry.get("stream", 0)), (int(first), int(second))

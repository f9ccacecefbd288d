"""A memory snapshot of CUDA, read and checked: what ``torch.cuda.memory._snapshot()`` returns, as plain data.

    allocator_settings  {option: value}
    segments            [{device, address, total_size, stream, segment_type, blocks: [{size, state}]}], reserved at the end
    device_traces       [[{action, addr, size, stream}]], the history of each device

Newer versions of PyTorch add to it: ``is_expandable``, ``segment_pool_id`` and ``pool_id``, ``requested_size``, ``frames``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torchprof.arguments import is_int
from torchprof.errors import ArgumentError, ModuleTypeError

__all__ = ["CudaSnapshot", "SnapshotBlock", "SnapshotEvent", "SnapshotSegment", "StreamId"]

StreamId = tuple[int, tuple[int, int]]
"""A stream, and the private pool of a CUDA graph: (0, 0) for none. Memory is never shared between two of these."""

NO_POOL = (0, 0)

# Named tuples, as a history may have a million entries: they are made several times as fast as frozen dataclasses.


class SnapshotEvent(NamedTuple):
    """One entry of a history.

    Attributes:
        action: ``"alloc"``, ``"free_requested"``, ``"free_completed"``, ``"segment_alloc"``, ``"segment_free"``,
            ``"segment_map"``, ``"segment_unmap"``, ``"oom"`` or ``"snapshot"``.
        address, size: of the block or segment; bytes.
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
        state: ``"active_allocated"``, ``"active_pending_free"`` (only another stream still uses it) or ``"inactive"``.
    """

    size: int
    state: str


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


@dataclass(frozen=True)
class CudaSnapshot:
    """A memory snapshot.

    Attributes:
        settings: of the allocator, as recorded.
    """

    settings: Mapping[str, Any]
    _segments: Sequence[Mapping[str, Any]]
    _histories: Sequence[Sequence[Mapping[str, Any]]]

    @classmethod
    def of(cls, snapshot: Any) -> CudaSnapshot:
        """Take what ``torch.cuda.memory._snapshot()`` returned, or the same from a file.

        Raises:
            ModuleTypeError: it is not a dict.
            ArgumentError: a part that every snapshot has is missing.
        """
        if not isinstance(snapshot, Mapping):
            raise ModuleTypeError(
                f"snapshot must be a dict as torch.cuda.memory._snapshot() returns it, not {type(snapshot).__name__}"
            )
        settings = snapshot.get("allocator_settings", {})
        segments, histories = snapshot.get("segments"), snapshot.get("device_traces", ())
        for name, value, kind in (
            ("allocator_settings", settings, Mapping),
            ("segments", segments, Sequence),
            ("device_traces", histories, Sequence),
        ):
            if not isinstance(value, kind):
                raise ArgumentError(
                    f"snapshot[{name!r}] is {value!r:.80}: a snapshot of torch.cuda.memory._snapshot() is needed"
                )
        return cls(settings, segments, histories)  # type: ignore[arg-type]

    def history(self, device: int) -> list[SnapshotEvent]:
        """What happened on a device, oldest first.

        Raises:
            ArgumentError: there is no history of it, or an entry cannot be read.
        """
        if not is_int(device, 0, len(self._histories) - 1) or not self._histories[device]:
            raise ArgumentError(
                f"device={device!r}: the snapshot has no history of it: call torch.cuda.memory._record_memory_history() before "
                "what is to be replayed"
            )
        entries = self._histories[device]
        events: list[SnapshotEvent] = []
        try:
            for entry in entries:
                events.append(SnapshotEvent(entry["action"], _int(entry.get("addr", 0)), _int(entry["size"]), _stream(entry)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _unreadable(f"device_traces[{device}][{len(events)}]", error) from error
        return events

    def segments(self, device: int) -> list[SnapshotSegment]:
        """What is reserved on a device when the history ends.

        Raises:
            ArgumentError: one cannot be read.
        """
        found: list[SnapshotSegment] = []
        try:
            for segment in self._segments:
                if segment.get("device", 0) == device:
                    found.append(_segment(segment))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _unreadable(f"number {len(found)} of the segments of device {device}", error) from error
        return found


def _segment(segment: Mapping[str, Any]) -> SnapshotSegment:
    return SnapshotSegment(
        _int(segment["address"]),
        _int(segment["total_size"]),
        _stream(segment),
        segment["segment_type"] == "small",
        bool(segment.get("is_expandable", False)),
        tuple(SnapshotBlock(_int(block["size"]), block["state"]) for block in segment["blocks"]),
    )


def _int(value: Any) -> int:
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{number} is no address and no number of bytes")
    return number


def _stream(entry: Mapping[str, Any]) -> StreamId:
    first, second = entry.get("pool_id", entry.get("segment_pool_id", NO_POOL))
    return int(entry.get("stream", 0)), (int(first), int(second))


def _unreadable(place: str, error: Exception) -> ArgumentError:
    reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return ArgumentError(f"snapshot: {place} cannot be read: {reason}. A snapshot of torch.cuda.memory._snapshot() is needed")

"""A memory snapshot of CUDA, read and checked: what ``torch.cuda.memory._snapshot()`` returns, as plain data.

    allocator_settings  {option: value}
    segments            [{device, address, total_size, stream, segment_type, blocks: [{size, state}]}], reserved at the end
    device_traces       [[{action, addr, size, stream}]], the history of each device

``torch.cuda.memory_snapshot()`` returns the list of segments alone.

Newer versions of PyTorch add to it: ``is_expandable``, ``segment_pool_id`` and ``pool_id``, ``requested_size``, ``frames``,
``time_us`` (microseconds since 1970), ``user_metadata``, and

    external_annotations  [{device, name, stage: START or END, time_us}], ranges of torch.autograd.profiler.record_function
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torchprof.arguments import is_int
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.importers.snapshot_file import read_snapshot

__all__ = ["Annotation", "CudaSnapshot", "SnapshotBlock", "SnapshotEvent", "SnapshotSegment", "StreamId"]

StreamId = tuple[int, tuple[int, int]]
"""A stream, and the private pool of a CUDA graph: (0, 0) for none. Memory is never shared between two of these."""

NO_POOL = (0, 0)
MOST_DEVICES = 2**15
BROKEN = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What is raised by reading entries that are none."""

# Named tuples, as a history may have a million entries: they are made several times as fast as frozen dataclasses.


class SnapshotEvent(NamedTuple):
    """One entry of a history.

    Attributes:
        action: ``"alloc"``, ``"free_requested"``, ``"free_completed"``, ``"segment_alloc"``, ``"segment_free"``,
            ``"segment_map"``, ``"segment_unmap"``, ``"oom"`` or ``"snapshot"``.
        address, size: of the block or segment; bytes. Of ``"oom"``, what the device had free, and the block that was needed.
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


class Annotation(NamedTuple):
    """A range of ``torch.autograd.profiler.record_function``, such as ``Optimizer.step#AdamW.step``; microseconds."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class CudaSnapshot:
    """A memory snapshot.

    Attributes:
        settings: of the allocator, as recorded.
    """

    settings: Mapping[str, Any]
    _segments: Sequence[Mapping[str, Any]]
    _histories: Sequence[Sequence[Mapping[str, Any]]]
    _annotations: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, snapshot: Any) -> CudaSnapshot:
        """Take what ``torch.cuda.memory._snapshot()`` or ``torch.cuda.memory_snapshot()`` returned, or the path of a file.

        Raises:
            ModuleTypeError: it is none of these.
            ArgumentError: a part that every snapshot has is missing.
            TraceFileError, OSError: the file cannot be read.
        """
        if isinstance(snapshot, str | os.PathLike):
            snapshot = read_snapshot(snapshot)
        if isinstance(snapshot, list | tuple):
            snapshot = {"segments": snapshot}
        if not isinstance(snapshot, Mapping):
            raise ModuleTypeError(
                "snapshot must be what torch.cuda.memory._snapshot() returns, or the path of its file, "
                f"not {type(snapshot).__name__}"
            )
        settings, annotations = snapshot.get("allocator_settings", {}), snapshot.get("external_annotations", ())
        segments, histories = snapshot.get("segments"), snapshot.get("device_traces", ())
        for name, value, kind in (
            ("allocator_settings", settings, Mapping),
            ("segments", segments, Sequence),
            ("device_traces", histories, Sequence),
            ("external_annotations", annotations, Sequence),
        ):
            if not isinstance(value, kind) or isinstance(value, str):
                raise ArgumentError(
                    f"snapshot[{name!r}] is {value!r:.80}: a snapshot of torch.cuda.memory._snapshot() is needed"
                )
        return cls(settings, segments, histories, annotations)  # type: ignore[arg-type]

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
                events.append(
                    SnapshotEvent(
                        entry["action"],
                        _int(entry.get("addr", entry.get("device_free", 0))),
                        _int(entry["size"]),
                        _stream(entry),
                    )
                )
        except BROKEN as error:
            raise _unreadable(f"device_traces[{device}][{len(events)}]", error) from error
        return events

    def frames(self, device: int, row: int) -> Sequence[Any] | None:
        """Of the stack of an entry of a history, the innermost first; None where it was not recorded."""
        frames: Sequence[Any] | None = self._histories[device][row].get("frames")
        return frames

    def metadata(self, device: int, row: int) -> str:
        """What ``torch.cuda.memory._set_memory_metadata`` had set at an entry of a history; empty for nothing."""
        return str(self._histories[device][row].get("user_metadata") or "")

    def annotations(self, device: int) -> list[Annotation]:
        """Ranges that began and ended on a device, in the order of their beginnings. Those that did not end are left out.

        Raises:
            ArgumentError: one cannot be read.
        """
        found: list[Annotation] = []
        begun: dict[str, list[int]] = {}
        try:
            for entry in self._annotations:
                name, stage, time = str(entry["name"]), entry["stage"], _int(entry["time_us"])
                if entry.get("device", 0) != device:
                    continue
                if stage == "START":
                    begun.setdefault(name, []).append(time)
                elif begun.get(name):
                    found.append(Annotation(name, begun[name].pop(), time))
        except BROKEN as error:
            raise _unreadable("external_annotations", error) from error
        return sorted(found, key=lambda annotation: annotation.start)

    def times(self, device: int) -> list[int] | None:
        """Microseconds of each entry of a history; None where they were not recorded."""
        if not self.has_history(device):
            return None
        times = [entry.get("time_us") for entry in self._histories[device]]
        try:
            return None if None in times else [_int(time) for time in times]
        except BROKEN as error:
            raise _unreadable(f"time_us of device_traces[{device}]", error) from error

    @property
    def devices(self) -> list[int]:
        """Those with memory or a history.

        Raises:
            ArgumentError: a segment is of none.
        """
        reserved: set[int] = set()
        for number, segment in enumerate(self._segments):
            found = segment.get("device", 0) if isinstance(segment, Mapping) else 0
            if not is_int(found, 0, MOST_DEVICES):
                raise _unreadable(f"number {number} of the segments", ValueError(f"device {found!r:.40} is none"))
            reserved.add(found)
        return sorted(reserved | {number for number, history in enumerate(self._histories) if history})

    def has_history(self, device: int) -> bool:
        return device < len(self._histories) and bool(self._histories[device])

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
        except BROKEN as error:
            raise _unreadable(f"number {len(found)} of the segments of device {device}", error) from error
        return found


def _segment(segment: Mapping[str, Any]) -> SnapshotSegment:
    return SnapshotSegment(
        _int(segment["address"]),
        _int(segment["total_size"]),
        _stream(segment),
        segment["segment_type"] == "small",
        bool(segment.get("is_expandable", False)),
        tuple(SnapshotBlock(_int(block["size"]), block["state"], _frames(block)) for block in segment["blocks"]),
    )


def _frames(block: Mapping[str, Any]) -> Any:
    """Of a block; older versions of PyTorch have them in its history."""
    history = block.get("history")
    return history[-1].get("frames") if history else block.get("frames")


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

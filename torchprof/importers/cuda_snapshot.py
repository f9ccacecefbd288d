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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torchprof.arguments import is_int
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.importers.snapshot_entries import (
    ACTIONS,
    BROKEN,
    SnapshotEvent,
    SnapshotSegment,
    read_event,
    read_segment,
    whole_number,
)
from torchprof.importers.snapshot_file import read_snapshot
from torchprof.paths import text_of
from torchprof.wording import shown

__all__ = ["Annotation", "CudaSnapshot"]

MOST_DEVICES = 2**15
NEEDED = "a snapshot of torch.cuda.memory._snapshot() is needed, or the path of what torch.cuda.memory._dump_snapshot wrote"


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
        place: what messages call it: the path of its file, or the argument that it is.
    """

    settings: Mapping[str, Any]
    _segments: Sequence[Mapping[str, Any]]
    _histories: Sequence[Sequence[Mapping[str, Any]]]
    _annotations: Sequence[Mapping[str, Any]] = ()
    place: str = "snapshot"

    @classmethod
    def of(cls, snapshot: Any) -> CudaSnapshot:
        """Take what ``torch.cuda.memory._snapshot()`` or ``torch.cuda.memory_snapshot()`` returned, or the path of a file.

        Raises:
            ModuleTypeError: it is none of these.
            ArgumentError: a part that every snapshot has is missing.
            TraceFileError, OSError: the file cannot be read.
        """
        place = "snapshot"
        if isinstance(snapshot, str | bytes | os.PathLike):
            place, snapshot = text_of(snapshot), read_snapshot(snapshot)
        if isinstance(snapshot, list | tuple):
            snapshot = {"segments": snapshot}
        if not isinstance(snapshot, Mapping):
            raise ModuleTypeError(
                f"snapshot={shown(snapshot)} is none: give what torch.cuda.memory._snapshot() returned, or the path of what "
                "torch.cuda.memory._dump_snapshot wrote"
            )
        if "segments" not in snapshot:
            raise ArgumentError(f"{place}: it has no 'segments', {_keys(snapshot)}: {NEEDED}")
        settings, annotations = snapshot.get("allocator_settings", {}), snapshot.get("external_annotations", ())
        segments, histories = snapshot["segments"], snapshot.get("device_traces", ())
        for name, value, kind in (
            ("allocator_settings", settings, Mapping),
            ("segments", segments, Sequence),
            ("device_traces", histories, Sequence),
            ("external_annotations", annotations, Sequence),
        ):
            if not isinstance(value, kind) or isinstance(value, str | bytes):
                wanted = "a dict" if kind is Mapping else "a list"
                raise ArgumentError(f"{place}: [{name!r}] is {shown(value)} and must be {wanted}: {NEEDED}")
        return cls(settings, segments, histories, annotations, place)

    def history(self, device: int) -> list[SnapshotEvent]:
        """What happened on a device, oldest first.

        Raises:
            ArgumentError: there is no history of it, or an entry cannot be read.
        """
        if not is_int(device, 0):
            raise ArgumentError(f"device={shown(device)} must be the number of a device, such as 0")
        if not self.has_history(device):
            others = ", ".join(str(number) for number in range(len(self._histories)) if self.has_history(number))
            raise ArgumentError(
                f"{self.place}: it has no history of device {device}, but of {others}: name one of these"
                if others
                else f"{self.place}: it has no history: call torch.cuda.memory._record_memory_history() before the program runs"
            )
        entries = self._histories[device]
        events: list[SnapshotEvent] = []
        try:
            for entry in entries:
                events.append(read_event(entry))
        except BROKEN as error:
            raise self._unreadable(f"device_traces[{device}][{len(events)}]", error) from error
        return events

    def unknown_actions(self, device: int) -> dict[str, int]:
        """Entries of a history with an action that is not known here, by its name: what they did is not known either."""
        return {action: count for action, count in self._actions(device).items() if action not in ACTIONS}

    def changes(self, device: int) -> int:
        """How many allocations and frees a history has, in which a free has one entry or two; 0 where there is none.

        Raises:
            ArgumentError: an entry cannot be read.
        """
        if not self.has_history(device):
            return 0
        counts = self._actions(device)
        return counts["alloc"] + max(counts["free_requested"], counts["free_completed"])

    def _actions(self, device: int) -> Counter[str]:
        """How many entries of a history have each action."""
        counts: Counter[str] = Counter()
        try:
            for entry in self._histories[device]:
                counts[str(entry["action"])] += 1
        except BROKEN as error:
            raise self._unreadable(f"device_traces[{device}][{counts.total()}]", error) from error
        return counts

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
                name, stage, time = str(entry["name"]), entry["stage"], whole_number(entry["time_us"])
                if entry.get("device", 0) != device:
                    continue
                if stage == "START":
                    begun.setdefault(name, []).append(time)
                elif begun.get(name):
                    found.append(Annotation(name, begun[name].pop(), time))
        except BROKEN as error:
            raise self._unreadable("external_annotations", error) from error
        return sorted(found, key=lambda annotation: annotation.start)

    def times(self, device: int) -> list[int] | None:
        """Microseconds of each entry of a history; None where they were not recorded."""
        if not self.has_history(device):
            return None
        times = [entry.get("time_us") for entry in self._histories[device]]
        try:
            return None if None in times else [whole_number(time) for time in times]
        except BROKEN as error:
            raise self._unreadable(f"time_us of device_traces[{device}]", error) from error

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
                raise self._unreadable(f"number {number} of the segments", ValueError(f"device {shown(found, 40)} is none"))
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
                    found.append(read_segment(segment))
        except BROKEN as error:
            raise self._unreadable(f"number {len(found)} of the segments of device {device}", error) from error
        return found

    def _unreadable(self, place: str, error: Exception) -> ArgumentError:
        reason = f"it has no {error}" if isinstance(error, KeyError) else f"{error!s:.200}"
        return ArgumentError(f"{self.place}: {place} cannot be read: {reason}: {NEEDED}")


def _keys(found: Mapping[Any, Any]) -> str:
    """What is in it, in short."""
    first = ", ".join(shown(key, 20) for key in list(found)[:3])
    return f"but {first}{', ...' if len(found) > 3 else ''}" if found else "and nothing else"

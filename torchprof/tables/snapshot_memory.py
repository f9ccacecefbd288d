"""`torchprof.memory` of a CUDA memory snapshot, to print."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from torchprof.allocator.account import Held, SnapshotAccount
from torchprof.analysis.records import Record
from torchprof.errors import ArgumentError
from torchprof.importers.cuda_snapshot import CudaSnapshot
from torchprof.importers.stacks import Stack
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_bytes
from torchprof.tables.table import About, Table
from torchprof.wording import counted, shown

__all__ = ["SnapshotMemory", "callers", "device_number", "line_of", "snapshot_memory"]

SHOWN: Final = 10
CALLERS: Final = 3
"""Lines of a stack that are printed below its own."""
FEW_CHANGES: Final = 10
"""Allocations and frees, fewer than which say little of a program."""
OF_PYTORCH: Final = ("/torch/", "\\torch\\")


class SnapshotMemory(SnapshotAccount, Printed):
    """What a CUDA memory snapshot says of one device. ``str()`` is the printed text.

    Beside the figures of `SnapshotAccount` (``peak``, ``max_reserved``, ``allocated``, ``reserved``, ``fragmentation``,
    ``timeline()``, ``by_category``, ``at_peak``, ``at_end``, ``leaks``, ``segments``) it has tables of them, to sort, select
    and export: ``categories``, ``peak_table``, ``end_table``, ``leak_table`` and ``segment_table``.
    """

    @cached_property
    def categories(self) -> Table:
        """What was allocated at the peak, by category, estimated; the rows add up to the peak."""
        rows: list[Record] = [
            {"name": name, "at_peak": count, "share": count / self.peak if self.peak else 0.0}
            for name, count in self.by_category.items()
            if count
        ]
        shares = About(("share",), f"Share: of the peak, {format_bytes(self.peak)}; estimated from stacks and lifetimes")
        return Table("Allocated at the peak", rows, ("at_peak", "share"), (shares,))

    @cached_property
    def leak_table(self) -> Table:
        """The leaks: stacks that hold more and more at the ends of steps; the most growth first."""
        rows: list[Record] = [
            {
                "name": line_of(leak.stack),
                "category": leak.category,
                "growth": leak.growth,
                "held": leak.bytes,
                "count": leak.blocks,
                "steps": leak.steps,
                "stack": list(leak.stack),
            }
            for leak in self.leaks
        ]
        headers = {"count": "Blocks", "steps": "Grew in steps"}
        return Table("Allocated by", rows, ("category", "growth", "held", "count", "steps"), headers=headers, details=callers)

    @cached_property
    def peak_table(self) -> Table:
        """What was allocated when the most was, by stack; the rows add up to the peak."""
        shares = About(("share",), f"Share: of the peak, {format_bytes(self.peak)}")
        return _table("Allocated at the peak by", self.at_peak, "at_peak", self.peak, (shares,))

    @cached_property
    def end_table(self) -> Table:
        """What was still allocated when the snapshot was taken, by stack."""
        shares = About(("share",), f"Share: of what was allocated then, {format_bytes(self.allocated)}")
        return _table("Still allocated at the end by", self.at_end, "held", self.allocated, (shares,))

    @cached_property
    def segment_table(self) -> Table:
        """How segments were used when the snapshot was taken; those in use with the most free bytes first."""
        rows: list[Record] = [
            {
                "name": f"{use.address:#x}",
                "category": f"{'small' if use.small else 'large'}{', expandable' if use.expandable else ''}",
                "total": use.size,
                "allocated": use.allocated,
                "awaiting_free": use.awaiting_free,
                "free": use.free,
                "largest_free": use.largest_free,
                "count": use.pieces,
                "stream": use.stream,
            }
            for use in self.segments
        ]
        awaiting = ("awaiting_free",) if any(use.awaiting_free for use in self.segments) else ()
        shown = ("category", "total", "allocated", *awaiting, "free", "largest_free", "count")
        headers = {"category": "Pool", "total": "Reserved", "count": "Free pieces"}
        return Table("Segment", rows, shown, headers=headers)

    def to_dict(self) -> dict[str, Any]:
        """The account as plain data, in bytes. What only a history tells is None where there is none."""
        replay = self.replay
        return {
            "device": self.device,
            "peak": self.peak,
            "reserved_at_peak": self.reserved_at_peak,
            "max_reserved": self.max_reserved,
            "by_category": self.by_category,
            "by_metadata": self.by_metadata,
            "at_peak": self.peak_table.to_dict() if self.changes else None,
            "changes": self.changes if replay else None,
            "leaks": self.leak_table.to_dict(),
            "leaks_unknown": self.leaks_unknown,
            "allocated": self.allocated,
            "reserved": self.reserved,
            "awaiting_free": self.awaiting_free,
            "fragmentation": self.fragmentation,
            "at_end": self.end_table.to_dict(),
            "segments": self.segment_table.to_dict(),
            "complete": replay.complete if replay else None,
            "misplaced": replay.misplaced if replay else None,
            "missing_entries": self.missing if replay else None,
        }

    def __repr__(self) -> str:
        return f"<SnapshotMemory: peak {format_bytes(self.peak)} on {self.device}>"

    def parts(self) -> Parts:
        replay = self.replay if self.changes else None
        told = len(self.blocks) and self.by_category["unknown"] < self.peak
        if replay:
            then = format_bytes(self.reserved_at_peak)
            yield f"Peak on {self.device}: {format_bytes(self.peak)} allocated, {then} reserved then"
            yield f"Reserved at most: {format_bytes(self.max_reserved)}"
            if self.changes < FEW_CHANGES:
                few = counted(self.changes, "allocation or free", "allocations and frees")
                yield f"The history has {few}: the peak is that of these, and may be far from that of the program"
            if not replay.complete:
                yield "The history begins later: what was there is known from where it was freed, or from the end"
            if self.missing:
                which = counted(self.missing, "entry that allocates or frees is", "entries that allocate or free are")
                yield f"INEXACT: {which} missing from the history: what was allocated may be off, and the peak with it"
            elif replay.misplaced:
                yield (
                    f"INEXACT: {counted(replay.misplaced, 'allocation')} could not be followed; sizes of blocks may be off, "
                    "what was reserved is as recorded"
                )
            yield from self._unknown_entries()
            if told:
                yield from self.categories.parts()
            elif self.peak:
                yield "Categories: unknown, because no stacks were recorded that tell them"
            if self.by_metadata:
                said = (f"{name or '(none)'} {format_bytes(size)}" for name, size in self.by_metadata.items())
                yield f"By user metadata: {', '.join(said)}"
            yield from self.peak_table.head(SHOWN).parts()
            yield from self._leak_parts()
        else:
            had = (
                "The history has no allocation and no free, and tells no more than the end"
                if self.replay
                else "No history was recorded"
            )
            yield f"{had}: torch.cuda.memory._record_memory_history() before the program keeps one"
            yield from self._unknown_entries()
            if told:
                yield from self.categories.parts()
        waiting = f"; {format_bytes(self.awaiting_free)} freed and still used by other streams" if self.awaiting_free else ""
        cached = self.reserved - self.allocated - self.awaiting_free
        yield (
            f"At the end on {self.device}: {format_bytes(self.reserved)} reserved, {format_bytes(self.allocated)} "
            f"allocated{waiting}; of the other {format_bytes(cached)}, {format_bytes(self.fragmentation)} in segments in use"
        )
        if self.at_end:
            yield from self.end_table.head(SHOWN).parts()
        if self.segments:
            yield from self.segment_table.head(SHOWN).parts()

    def _unknown_entries(self) -> Parts:
        if not self.snapshot.has_history(self.number):
            return
        for action, count in self.snapshot.unknown_actions(self.number).items():
            yield f"INEXACT: {counted(count, 'entry says', 'entries say')} {shown(action, 40)}, which is not known here"

    def _leak_parts(self) -> Parts:
        steps = self.steps
        if steps is not None and len(steps.ends):
            by = f"{steps.told_by}, {line_of(self.stack(steps.stack))}" if steps.stack >= 0 else steps.told_by
            found = f"{counted(len(steps.ends), 'step')}, told by {by}"
        if self.leaks:
            yield f"Leaks: these held more and more at the ends of steps ({found})"
            yield from self.leak_table.head(SHOWN).parts()
        if self.leaks_unknown is not None:
            yield f"{'Further leaks' if self.leaks else 'Leaks'}: unknown, because {self.leaks_unknown}"
        elif not self.leaks:
            yield f"Leaks: nothing held more and more at the ends of steps ({found})"


def line_of(stack: Stack) -> str:
    """The innermost line that is not PyTorch's own, without its folders."""
    line = next((line for line in stack if not _is_of_pytorch(line)), stack[0])
    return _short(line)


def _short(line: str) -> str:
    place, _, name = line.partition(" ")
    return f"{place.replace(chr(92), '/').rpartition('/')[2]} {name}".strip() if not line.startswith("(") else line


def _table(title: str, held: Sequence[Held], column: str, whole: int, footer: tuple[About, ...]) -> Table:
    rows: list[Record] = [
        {
            "name": line_of(each.stack),
            column: each.bytes,
            "share": each.bytes / whole if whole else 0.0,
            "count": each.blocks,
            "category": each.category,
            "stack": list(each.stack),
        }
        for each in held
    ]
    told = ("category",) if any(each.category != "unknown" for each in held) else ()
    return Table(title, rows, (column, "share", "count", *told), footer, headers={"count": "Blocks"}, details=callers)


def callers(row: Record) -> Sequence[tuple[str, str]]:
    """The lines that called the one of the row, without PyTorch's own."""
    lines = [_short(line) for line in row["stack"] if not _is_of_pytorch(line)]
    after = lines[lines.index(row["name"]) + 1 :] if row["name"] in lines else []
    return [(f"from {line}", "") for line in after[:CALLERS]]


def _is_of_pytorch(line: str) -> bool:
    return any(folder in line for folder in OF_PYTORCH)


def device_number(snapshot: CudaSnapshot, device: Any) -> int:
    """The number of a device such as ``"cuda:1"``; by default, of the one with the most reserved.

    Raises:
        ArgumentError: the snapshot has nothing of it.
    """
    numbers = snapshot.devices
    if device is None or device == "cuda":
        if not numbers:
            raise ArgumentError(f"{snapshot.place}: it has no segments and no history: nothing was allocated on a GPU")
        return max(numbers, key=lambda number: (sum(segment.size for segment in snapshot.segments(number)), -number))
    named = {f"cuda:{number}": number for number in numbers}
    if not isinstance(device, str) or device not in named:
        raise ArgumentError(f"device={shown(device)}: the snapshot has {', '.join(named) or 'no device'}")
    return named[device]


def snapshot_memory(snapshot: Any, device: str | None) -> SnapshotMemory:
    """Account for a snapshot, or the path of its file."""
    found = CudaSnapshot.of(snapshot)
    return SnapshotMemory(found, device_number(found, device))

"""The page of a CUDA memory snapshot: what was allocated over time, at the peak and at the end, and how segments are used."""

from __future__ import annotations

from collections.abc import Iterator

from torchprof.allocator.block_categories import SNAPSHOT_CATEGORIES
from torchprof.rendering.units import format_bytes
from torchprof.reporting.figure import category_color
from torchprof.reporting.memory_chart import snapshot_chart
from torchprof.reporting.section import Section
from torchprof.reporting.verdict import Sentence, shares
from torchprof.tables.snapshot_memory import SnapshotMemory

__all__ = ["snapshot_sections"]


def snapshot_sections(account: SnapshotMemory) -> Iterator[Section]:
    """All that a snapshot says of one device."""
    memory = Section("memory", "Memory")
    told = bool(len(account.blocks)) and account.by_category["unknown"] < account.peak
    lines = [str(part) for part in account.parts() if isinstance(part, str)]
    memory.lead.append(lines[0])
    memory.sentences += _sentences(account, told)
    if (drawn := snapshot_chart(account)) is not None:
        figure, said = drawn
        memory.add_figure("memory", figure, *said)
        memory.headings["memory"] = f"Allocated on {account.device} over time"
    if told:
        memory.add_table("peak", account.categories, "Allocated at the peak, by category")
        memory.color_rows("peak", {name: category_color(name) for name in SNAPSHOT_CATEGORIES})
    if account.changes:
        if account.leaks:
            memory.add_table("leaks", account.leak_table, "Leaks: these held more and more at the ends of steps")
        memory.add_table("peak_stacks", account.peak_table, "Allocated at the peak, by stack")
    memory.notes += [line for line in lines[1:] if not line.startswith("Leaks: these")]
    yield memory
    end = Section("end", "At the end")
    end.add_table("end_stacks", account.end_table, "Still allocated, by stack")
    end.add_table("segments", account.segment_table, "Segments")
    if end.parts:
        yield end


def _sentences(account: SnapshotMemory, told: bool) -> Iterator[Sentence]:
    if account.changes:
        of = f", {shares(account.by_category.items(), account.peak)}" if told and account.peak else ""
        rest = f" on {account.device}{of}; {format_bytes(account.max_reserved)} were reserved at most"
        yield Sentence("memory", "The peak is", format_bytes(account.peak), rest)
    else:
        rest = f" of {format_bytes(account.reserved)} reserved on {account.device} when the snapshot was taken"
        yield Sentence("memory", "Allocated were", format_bytes(account.allocated), rest)

"""Accounts of memory as sides of a comparison: of a trace, of a CUDA memory snapshot, and of an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torchprof.analysis.records import Record
from torchprof.comparison.side import By, Row, Side
from torchprof.comparison.sides.conditions import conditions_of
from torchprof.comparison.sides.trace import trace_rows
from torchprof.tables.footer import of_what, remarks
from torchprof.tables.memory import Memory
from torchprof.tables.snapshot_memory import SnapshotMemory
from torchprof.tables.table import Table

if TYPE_CHECKING:
    from torchprof.estimation.estimated import Estimate

__all__ = ["estimate_side", "memory_side", "snapshot_side"]

HELD: Final = ("at_peak",)
KEPT: Final = (
    *("name", "path", "type", "depth", "params", "calls", "flops", "flops_unknown", "saved", "at_peak", "bytes", "allocated"),
    "own",
)
"""What an estimate knows of a trace: no times."""


def memory_side(memory: Memory, by: By) -> Side:
    """The account of a trace: by category, module or line."""
    table = {"category": memory.categories, "module": memory.modules, "line": memory.peak_lines}[by]
    totals: Record = {
        "name": "memory",
        "peak": memory.peak.bytes,
        "max_reserved": memory.max_reserved,
        "saved": sum(memory.saved_by_module.values()) if memory.saved_unknown is None else None,
        "leaked": sum(leak.bytes for leak in memory.leaks) if memory.leaks_unknown is None else None,
    }
    return Side(
        "memory",
        by,
        _rows(table),
        Row(totals, {}),
        HELD,
        conditions_of(memory.trace, memory),
        definitions={"peak": of_what(memory.trace, memory.device)},
        of="the account of memory",
        losses=memory.trace.losses,
        remarks=tuple(remarks(memory.trace)),
    )


def snapshot_side(memory: SnapshotMemory, by: By) -> Side:
    """The account of a snapshot: by line or category."""
    totals: Record = {
        "name": "memory",
        "peak": memory.peak,
        "max_reserved": memory.max_reserved,
        "allocated": memory.allocated,
    }
    return Side(
        "snapshot",
        by,
        _rows(memory.categories if by == "category" else memory.peak_table),
        Row(totals, {}),
        HELD,
        {"history": "recorded" if memory.replay else "not recorded"},
        definitions={"peak": "during the history" if memory.replay else "at the end"},
        of=f"the snapshot of {memory.device}",
    )


def estimate_side(estimate: Estimate, by: By) -> Side:
    """An estimate: by category, module or op. Times of a run on fake tensors say nothing, and are left out."""
    if by == "category":
        records: list[Record] = [{"name": name, "at_peak": size} for name, size in estimate.by_category.items()]
    else:
        records = trace_rows(estimate.trace, by)[0]
    totals: Record = {
        "name": "step",
        "needed": estimate.device_memory,
        "max_allocated": estimate.max_allocated,
        "max_reserved": estimate.max_reserved if estimate.replay is not None else None,
        "flops": estimate.flops,
        "flops_unknown": list(estimate.flops_unknown),
    }
    conditions = conditions_of(estimate.trace, estimate.memory)
    return Side(
        "estimate",
        by,
        [Row.of({name: record[name] for name in KEPT if name in record}) for record in records],
        Row(totals, {}),
        HELD if by != "op" else ("flops", "bytes"),
        {**conditions, "estimated for": estimate.device},
        of="an estimated step",
        remarks=tuple(f"Not in it: {note}" for note in estimate.notes),
    )


def _rows(table: Table) -> list[Row]:
    return [Row(dict(record), {}) for record in table.rows]

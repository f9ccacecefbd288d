"""The figures of all tests as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torchprof.analysis.records import Record
from torchprof.integrations.pytest_plugin.result import Result
from torchprof.tables.table import Table
from torchprof.wording import counted

__all__ = ["table_of"]

FIGURES = ("peak", "flops", "ops", "kernels", "time")


def table_of(results: Mapping[str, Result]) -> Table:
    """One row for each test, in the order in which they ended."""
    rows: list[Record] = [
        {
            "name": test,
            **{name: result.get(name) for name in FIGURES},
            "flops_unknown": result.get("flops_unknown", []),
            "note": result["note"],
        }
        for test, result in results.items()
    ]
    has_kernels = any(row["kernels"] is not None for row in rows)
    shown = tuple(name for name in FIGURES if name != "kernels" or has_kernels)
    devices = sorted({result["device"] for result in results.values() if result.get("device")})
    held = f"; peak: of all memory on {', '.join(devices)}" if devices else ""
    below = [f"Of the call of each test, recorded{held}"]
    notes = Counter((result["note"], result["because"]) for result in results.values() if result.get("because"))
    below += [f"{note} ({counted(count, 'test')}): {because}" for (note, because), count in notes.items()]
    if not has_kernels:
        below.append("Kernels: not known, no GPU was recorded")
    return Table("Test", rows, shown, tuple(below), unknown="?")

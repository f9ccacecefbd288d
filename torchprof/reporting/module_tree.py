"""The table by module with the memory of the peak, and how much of what a device can compute every module did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.modules import NO_MODULE
from torchprof.analysis.model.module_tree import OUTSIDE
from torchprof.analysis.records import Record
from torchprof.analysis.time.module_records import DATA, OTHER
from torchprof.rendering.units import format_bytes
from torchprof.tables.by_module import by_module
from torchprof.tables.table import About, Table
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["MOST_MODULES", "module_table"]

MOST_MODULES: Final = 12_000
"""Modules that are on the page; those that cost least are left out."""


def module_table(trace: Trace, account: MemoryAccount | None, ceilings: Ceilings | None) -> Table:
    """The table by module; with an account, what every module held at its peak; with ceilings, the utilization."""
    table = by_module(trace)
    if not table.rows:
        return table
    rows = table.to_dict()
    columns, footer = list(table.columns), list(table.footer)
    if ceilings is not None and "flops" in columns:
        _add_utilization(rows, ceilings, "device" if has_kernels(trace) else "time")
        columns.insert(columns.index("flops") + 1, "mfu")
        footer.append(About(("mfu",), f"MFU: of what {ceilings.device} can compute in that time, in {ceilings.dtype}"))
    if account is not None and account.peak.bytes:
        _add_peak(rows, account)
        columns.insert(-1 if columns[-1] == "spread" else len(columns), "at_peak")
        footer.append(About(("at_peak",), f"At peak: of {format_bytes(account.peak.bytes)} on {account.device}"))
    kept = _largest(rows)
    if left := len(rows) - len(kept):
        footer.insert(0, f"{counted(left, 'further module')}, of the least time, are in those above them")
    return replace(table, rows=kept, columns=tuple(columns), footer=tuple(footer))


def _add_utilization(rows: list[Record], ceilings: Ceilings, of: str) -> None:
    """FLOPs of forward and backward, without recomputation, against those that the time of the module allows."""
    for row in rows:
        parts = [row["flops_forward"], row["flops_backward"]]
        possible = row[of] * 1e-9 * ceilings.flops
        row["mfu"] = sum(parts) / possible if possible and None not in parts and sum(parts) else None


def _add_peak(rows: list[Record], account: MemoryAccount) -> None:
    """Bytes held at the peak, with everything below."""
    own = Counter({path: sum(held.values()) for path, held in account.by_module.items()})
    for row, above in zip(rows, _above(rows), strict=True):
        row["at_peak"] = 0
        of_step = not row["path"] and row["name"] in (DATA, OTHER)
        held = 0 if of_step else own[NO_MODULE if row["name"] == OUTSIDE else row["path"]]
        for at in above:
            rows[at]["at_peak"] += held
        row["at_peak"] += held


def _above(rows: list[Record]) -> Iterator[tuple[int, ...]]:
    """The rows above every row, the root first."""
    above: list[int] = []
    for at, row in enumerate(rows):
        while above and rows[above[-1]]["depth"] >= row["depth"]:
            above.pop()
        yield tuple(above)
        above.append(at)


def _largest(rows: list[Record]) -> list[Record]:
    """The rows of the most time, and those above them."""
    if len(rows) <= MOST_MODULES:
        return rows
    kept: set[int] = set()
    ancestors = list(_above(rows))
    for at in sorted(range(len(rows)), key=lambda at: (rows[at]["depth"] > 0, -rows[at]["time"])):
        more = {at, *ancestors[at]} - kept
        if len(kept) + len(more) > MOST_MODULES:
            break
        kept |= more
    return [rows[at] for at in sorted(kept)]

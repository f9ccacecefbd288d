"""The table of a comparison, and which of its columns are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from torchprof.comparison.changes import SHOWN_BESIDE, Changed
from torchprof.comparison.columns import DIFF_COLUMNS
from torchprof.comparison.figures import FIGURES
from torchprof.comparison.side import By
from torchprof.tables.columns import Column
from torchprof.tables.table import Table

__all__ = ["TITLES", "DiffTable", "columns_shown", "headers_shown"]

TITLES: Final[dict[By, str]] = {
    "module": "Module",
    "op": "Op",
    "line": "Line",
    "function": "Function",
    "kernel": "Kernel",
    "category": "Held at the peak",
}
MOST_BESIDE: Final = 5
"""Figures whose differences are printed beside the leading one, where there are any."""


class DiffTable(Table):
    """Rows of a comparison; its columns are the keys of ``torchprof.comparison.columns.DIFF_COLUMNS``."""

    known: ClassVar[Mapping[str, Column]] = DIFF_COLUMNS


def columns_shown(rows: Sequence[Changed], lead: str) -> tuple[str, ...]:
    """The names of the columns that are worth printing of these rows."""
    columns = [f"{lead}_a", f"{lead}_b", f"{lead}_difference", f"{lead}_change"]
    if any(row.changes[lead].interval is not None for row in rows if lead in row.changes):
        columns.append(f"{lead}_interval")
    names = [name for name in ("device_self", *SHOWN_BESIDE) if name != lead]
    if any("flops_self" in row.changes for row in rows):
        names.remove("flops")  # of lines, with what was called
    beside = [
        f"{name}_difference" for name in names if any(row.changes[name].difference for row in rows if name in row.changes)
    ]
    return (*columns, "verdict", *beside[:MOST_BESIDE])


def headers_shown(lead: str) -> dict[str, str]:
    """Of the leading figure, it goes without saying which it is."""
    return {f"{lead}_difference": "Difference"} if lead in FIGURES else {}

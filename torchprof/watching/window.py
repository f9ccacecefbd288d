"""What a few steps took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.records import Record
from torchprof.analysis.time.step_records import step_records
from torchprof.tables.table import Table, worth_showing
from torchprof.trace.trace import Trace

__all__ = ["Window", "table_of", "window_of"]

MEANS: Final = "time device kernels forward recompute backward optimizer data other allocated".split()
MOST: Final = ("peak", "held")


@dataclass(frozen=True, slots=True)
class Window:
    """What the steps of one window of `torchprof.watch` took.

    Attributes:
        first, last: numbers of the steps, both included.
        ended_by: the class of the exception that ended the window before its last step; empty where none did.
        figures: means over the steps: ``time`` in nanoseconds and, of it, ``forward recompute backward optimizer data other``;
            ``allocated`` in bytes; where kernels were recorded ``device``, nanoseconds in which a device worked, and
            ``kernels``. And the most of them: ``peak`` and ``held`` in bytes, of what was allocated in the window (with
            ``aggregate=False`` also of what was there before). None: not known.
    """

    first: int
    last: int
    ended_by: str
    figures: dict[str, float | None]


def window_of(trace: Trace) -> Window | None:
    """The window that a trace is of; None where no step that counts came to its end."""
    records = [record for record in step_records(trace) if not record["warmup"]]
    if not records:
        return None
    figures: dict[str, float | None] = {}
    for name in (*MEANS, *MOST):
        values = [record[name] for record in records if name in record]
        if values:
            figures[name] = None if None in values else max(values) if name in MOST else sum(values) / len(values)
    return Window(int(records[0]["step"]), int(records[-1]["step"]), trace.facts.get("ended_by", ""), figures)


def table_of(windows: Sequence[Window]) -> Table:
    """The windows as rows."""
    rows: list[Record] = [{"name": f"{window.first:,} to {window.last:,}", **window.figures} for window in windows]
    columns = [name for name in (*MEANS, *MOST) if any(name in row for row in rows)]
    rows = [dict.fromkeys(columns) | row for row in rows]
    shown = worth_showing(rows, columns, optional=[name for name in columns if name != "time"]) if rows else ()
    lines = ("Each row is the mean of the steps of a window; host time", "Peak and held: the most of them")
    return Table("Steps", rows, shown, lines if rows else ("No window came to its end yet",), unknown="?")

"""The memory account of a trace, to print."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.categories import CATEGORIES, UNTRACKED
from torchprof.analysis.memory.modules import NO_MODULE, in_module, module_label
from torchprof.analysis.memory.steps import not_recorded
from torchprof.analysis.records import Record
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.tables.footer import of_what, remarks
from torchprof.tables.table import About, Table, worth_showing

__all__ = ["SHOWN", "Memory"]

SHOWN: Final = 10
BEFORE, UNKNOWN = "(before the recording)", "(unknown)"
"""In place of a line."""


class Memory(MemoryAccount, Printed):
    """What held every byte, when the most was held, and what never went away. ``str()`` is the printed text.

    Beside the figures of `MemoryAccount` (``peak``, ``by_category``, ``by_module``, ``saved_by_module``, ``timeline()``,
    ``leaks``; of a device ``reserved``, ``max_reserved``, ``fragmentation``, ``untracked``) it has tables of them, to sort,
    select and export: ``categories``, ``modules``, ``peak_lines`` and ``leak_table``.
    """

    @cached_property
    def categories(self) -> Table:
        """What was held at the peak, by category; the rows add up to it."""
        whole = self.peak.bytes
        rows = [
            {"name": name, "at_peak": count, "share": count / whole if whole else 0.0}
            for name, count in self.by_category.items()
            if count
        ]
        shares = About(("share",), f"Share: of the peak, {format_bytes(whole)}")
        return Table("Held at the peak", rows, ("at_peak", "share"), (shares,))

    @cached_property
    def modules(self) -> Table:
        """What was held at the peak, by module and category, and what was kept for backward; most first."""
        columns = {category: f"peak_{category.replace(' ', '_')}" for category in CATEGORIES}
        rows: list[Record] = []
        for path in dict.fromkeys([*self.by_module, *self.saved_by_module]):
            held = self.by_module.get(path, {})
            row = {
                "name": module_label(self.trace, path),
                "at_peak": sum(held.values()),
                "saved": self.saved_by_module.get(path, 0) if self.saved_unknown is None else None,
            }
            rows.append({**row, **{column: held.get(category, 0) for category, column in columns.items()}})
        shown = [column for column in columns.values() if any(row[column] for row in rows)]
        saved = ("saved",) if self.saved_unknown is None else ()
        return Table("Module", rows, ("at_peak", *saved, *shown)).sort("at_peak")

    @cached_property
    def peak_lines(self) -> Table:
        """What was held at the peak, by the line of the program that made it, category and module; the rows add up to it.

        Without rows where the trace has no stacks.
        """
        sums = self._sums_by_line(np.flatnonzero(self.held_at_peak) if len(self.trace.stacks) else np.zeros(0, dtype=np.int64))
        if len(self.trace.stacks) and self.untracked:
            sums[UNKNOWN, UNTRACKED, NO_MODULE] = [self.untracked, 0]
        return self._table_of_lines(sums, self.peak.bytes, "Held at the peak, made at", "the peak")

    def lines_of_rows(self, rows: npt.NDArray[np.int64], title: str, of: str) -> Table:
        """The same of any rows of ``allocations``; what their shares are of is called ``of``."""
        return self._table_of_lines(self._sums_by_line(rows), int(self.allocations["bytes"][rows].sum()), title, of)

    def _sums_by_line(self, rows: npt.NDArray[np.int64]) -> dict[tuple[str, str, str], list[int]]:
        """Bytes and blocks of these rows by line, category and path of the module."""
        sums: dict[tuple[str, str, str], list[int]] = {}
        columns = (self.lines_of(rows), *(self.allocations[name][rows].tolist() for name in ("start", "bytes")))
        for row, line, start, size in zip(rows.tolist(), *columns, strict=True):
            name = line or (BEFORE if start < 0 else UNKNOWN)
            found = sums.setdefault((name, CATEGORIES[int(self.category[row])], self.module_path(row)), [0, 0])
            found[0] += size
            found[1] += 1
        return sums

    def _table_of_lines(self, sums: dict[tuple[str, str, str], list[int]], whole: int, title: str, of: str) -> Table:
        records: list[Record] = [
            {
                "name": line,
                "at_peak": size,
                "share": size / whole if whole else 0.0,
                "count": count,
                "category": category,
                "module": module_label(self.trace, module),
            }
            for (line, category, module), (size, count) in sums.items()
        ]
        shares = About(("share",), f"Share: of {of}, {format_bytes(whole)}")
        shown = ("at_peak", "share", "count", "category", "module")
        return Table(title, records, shown, (shares,), headers={"count": "Blocks"}).sort("at_peak")

    @cached_property
    def leak_table(self) -> Table:
        """The leaks: ops in modules, and lines, that hold more and more at the ends of steps; the most growth first."""
        rows = [
            {
                "name": leak.op or "(no op)",
                "module": module_label(self.trace, leak.module),
                "category": leak.category,
                "growth": leak.growth,
                "held": leak.bytes,
                "count": leak.count,
                "steps": leak.steps,
                "lines": [leak.line] if leak.line else [],
            }
            for leak in self.leaks
        ]
        shown = worth_showing(rows, ("lines", "module", "category", "growth", "held", "count", "steps"), optional=("lines",))
        headers = {"count": "Blocks", "steps": "Grew in steps", "lines": "At"}
        return Table("Made by", rows, shown, headers=headers)

    def to_dict(self) -> dict[str, Any]:
        """The account as plain data: bytes, nanoseconds; None is not known."""
        return {
            "device": self.device,
            "peak": asdict(self.peak),
            "reserved": self.reserved,
            "max_reserved": self.max_reserved,
            "fragmentation": self.fragmentation,
            "by_category": self.by_category,
            "modules": self.modules.to_dict(),
            "peak_lines": self.peak_lines.to_dict(),
            "saved": sum(self.saved_by_module.values()) if self.saved_unknown is None else None,
            "saved_unknown": self.saved_unknown,
            "held_at_ends": self._ends_of_steps(),
            "leaks": self.leak_table.to_dict(),
            "leaks_unknown": self.leaks_unknown,
            "remarks": remarks(self.trace),
        }

    def __repr__(self) -> str:
        return f"<Memory: peak {format_bytes(self.peak.bytes)} on {self.device}>"

    def parts(self) -> Parts:
        peak = self.peak
        step = f"{'warm-up ' if peak.warmup else ''}step {peak.step}" if peak.step is not None else ""
        module = in_module(self.trace, peak.module)
        where = ", ".join(text for text in (step, peak.phase, peak.op, module, peak.line) if text)
        of_recorded = " (INCOMPLETE: of what was recorded)" if self.trace.losses.get("allocations") else ""
        yield f"Peak on {self.device}: {format_bytes(peak.bytes)}{of_recorded} at {format_ns(peak.time)} ({where})"
        if self.reserved is not None and self.max_reserved is not None and self.fragmentation is not None:
            yield (
                f"Reserved then: {format_bytes(self.reserved)}, {format_bytes(self.fragmentation)} of it free; "
                f"at most: {format_bytes(self.max_reserved)}"
            )
        yield from self.categories.parts()
        if self.untracked != self.untracked_at_start:
            yield (
                f"Untracked: {format_bytes(self.untracked_at_start)} from before the recording, "
                f"{format_bytes(self.untracked - self.untracked_at_start)} of threads that do not report to it"
            )
        yield from self.modules.head(SHOWN).parts()
        yield from self._lines_at_peak()
        if self.saved_unknown is not None:
            yield f"Kept for backward: unknown, because {self.saved_unknown}"
        else:
            saved = sum(self.saved_by_module.values())
            kept = f", at most: {format_bytes(saved)} (Saved: then, by module)" if saved else ": nothing that was recorded"
            yield f"Kept for backward{kept}"
        if missing := not_recorded(self.trace):
            why = "The file has no addresses of tensors" if "addresses" in missing else f"Recorded with {missing[0]}=False"
            yield f"{why}: little of the memory can be told apart by category or module"
        if len(self.trace.steps):
            yield self._held_at_ends()
        yield of_what(self.trace, self.device)
        if self.leaks:
            yield "Leaks: these held more and more at the ends of steps"
            yield from self.leak_table.head(SHOWN).parts()
        if self.leaks_unknown is not None:
            yield f"{'Further leaks' if self.leaks else 'Leaks'}: unknown, because {self.leaks_unknown}"
        elif not self.leaks:
            yield "Leaks: nothing held more and more at the ends of steps"
        yield from remarks(self.trace)

    def _lines_at_peak(self) -> Parts:
        """The largest blocks at the peak, by line, where the trace knows these."""
        if len(self.peak_lines):
            yield from self.peak_lines.head(SHOWN).parts()

    def _ends_of_steps(self) -> list[Record] | None:
        """The bytes held at the end of each step; None where they are not known."""
        if self.trace.losses.get("allocations"):
            return None
        numbers = self.trace.steps["number"].tolist()
        held = self.steps.held.tolist() if numbers else []
        return [{"step": number, "held": count} for number, count in zip(numbers, held, strict=True)]

    def _held_at_ends(self) -> str:
        """The bytes held at the ends of steps, of many steps those of some."""
        ends = self._ends_of_steps()
        if ends is None:
            return "Held at the ends of steps: unknown, because allocations were lost"
        rows = [round(at * (len(ends) - 1) / (SHOWN - 1)) for at in range(SHOWN)] if len(ends) > SHOWN else range(len(ends))
        listed = ", ".join(f"{ends[row]['step']}: {format_bytes(ends[row]['held'])}" for row in rows)
        some = (
            f"Held at the ends of {len(rows)} of {len(ends):,} steps:" if len(rows) < len(ends) else "Held at the end of step"
        )
        return f"{some} {listed}"

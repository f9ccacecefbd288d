"""`Diff`: what is different between two things, to print, sort, select and export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from torchprof.analysis.records import Record
from torchprof.analysis.steps import PHASE_COLUMNS
from torchprof.comparison.change import Change
from torchprof.comparison.changes import Changed, changed_rows, changes_of_totals, lead_of, record_of, same_work
from torchprof.comparison.conditions import unlike
from torchprof.comparison.limits import Check, Limit, check, no_such_row
from torchprof.comparison.noise import CONFIDENCE
from torchprof.comparison.side import Side
from torchprof.comparison.table import TITLES, DiffTable, columns_shown, headers_shown
from torchprof.comparison.words import ABOUT, noise_lines, nothing_changed, same_ops_lines, total_grid, verdict_lines
from torchprof.paths import AnyPath, text_written, written
from torchprof.rendering.grid import Parts
from torchprof.rendering.html import as_page
from torchprof.rendering.printed import Printed
from torchprof.tables.table import Table
from torchprof.wording import counted

if TYPE_CHECKING:
    import pandas

__all__ = ["Diff"]

SHOWN: Final = 20
OF_STEPS: Final = ("time", *PHASE_COLUMNS, "other")
"""Figures of the whole that are known wherever rows were lost."""


@dataclass(frozen=True)
class Diff(Printed):
    """What is different between two things. ``str()`` is the printed text.

    Attributes:
        a, b: both sides: their rows and totals, and what these are of.
        name_a, name_b: what they are called, such as the names of files; may be empty.
    """

    a: Side
    b: Side
    name_a: str = ""
    name_b: str = ""

    @cached_property
    def _rows(self) -> list[Changed]:
        return changed_rows(self.a, self.b)

    @cached_property
    def _totals(self) -> list[Change]:
        totals = changes_of_totals(self.a, self.b)
        return [change._replace(same_ops=True) for change in totals] if self._is_same_work(totals) else totals

    def _is_same_work(self, totals: list[Change]) -> bool:
        return not self.notes and same_work(self._rows, totals)

    @cached_property
    def lead(self) -> str:
        """The figure that rows are sorted by: the one that tells best what changed."""
        return lead_of(self.a, self.b)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What is not the same about the two, so that differences of figures may come from there."""
        return tuple(unlike(self.a, self.b))

    @cached_property
    def totals(self) -> list[Record]:
        """The whole, one record per figure.

        Keys: ``figure unit``; ``a b difference``; ``change``, a part of a; of times ``low high`` (of the difference),
        ``change_low change_high``; ``verdict``; ``unknown_because``. None where something is not known.
        """
        return [_total(change) for change in self._totals]

    @cached_property
    def table(self) -> Table:
        """All rows, what changed most first: of every figure ``_a _b _difference _change`` and, of times, ``_low _high``."""
        return self._table(self._rows)

    @property
    def changed(self) -> Table:
        """The rows of which something changed beyond noise."""
        return self._table([row for row in self._rows if row.is_changed(self.lead)])

    def _table(self, rows: list[Changed]) -> Table:
        records = [record_of(row, self.lead) for row in rows]
        return DiffTable(TITLES[self.a.by], records, columns_shown(rows, self.lead), headers=headers_shown(self.lead))

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        changed = sum(row.is_changed(self.lead) for row in self._rows)
        return f"<Diff: {changed:,} of {counted(len(self._rows), 'row')} by {self.a.by} changed>"

    def parts(self) -> Parts:
        whole = str(self.b.totals.record["name"])
        for letter, side, name in (("A", self.a, self.name_a), ("B", self.b, self.name_b)):
            yield f"{letter}: {', '.join(text for text in (name, side.of) if text)}"
        yield from verdict_lines(self._totals, whole)
        yield from same_ops_lines(self._totals)
        yield from self.notes
        if self._totals:
            yield total_grid(self._totals, whole)
        changed = self.changed
        yield (
            f"By {self.a.by}, what changed most first: A and B are {ABOUT[self.lead]}"
            if len(changed)
            else nothing_changed(len(self), sum(row.verdict(self.lead) == "unknown" for row in self._rows), self.a.by)
        )
        if len(changed):
            yield from changed.head(SHOWN).parts()
            if folded := len(self) - len(changed):
                yield f"Not shown: {counted(folded, 'row')} without a change beyond noise"
        yield from noise_lines(self.a, self.b, self._totals, self.lead, len(self))
        for letter, side in (("A", self.a), ("B", self.b)):
            yield from (f"{letter}: {remark}" for remark in side.remarks)

    def check(self, *limits: str, strict: bool = False) -> list[Check]:
        """Hold limits against the changes: one `Check` each.

        Args:
            limits: a figure, ``>`` or ``<``, and how much it may change: ``"time > +5%"``, ``"peak > +200 MiB"``,
                ``"flops < -1 G"``; of one row, ``"encoder.0: backward > +1 ms"``. Figures are those of ``totals`` and
                ``table``.
            strict: times fail also where what is beyond the limit may be noise.

        Raises:
            ArgumentError: a limit cannot be read, or there is no such figure or row.
        """
        return [self._check(Limit.parse(text), strict) for text in limits]

    def failures(self, *limits: str, strict: bool = False) -> list[Check]:
        """The checks that failed, of those that `check` makes: the change is beyond the limit, or it is not known.

        Example:
            >>> assert not torchprof.diff(trace, prof.trace).failures("flops > +1%")
        """
        return [each for each in self.check(*limits, strict=strict) if each.failed]

    def _check(self, limit: Limit, strict: bool) -> Check:
        changes = self._of_row(limit) if limit.row else {change.figure.name: change for change in self._totals}
        name = "at_peak" if limit.row and limit.figure == "peak" else limit.figure
        if name not in changes:
            return Check(limit.text, True, f"it cannot be told: {name} is known of neither")
        incomplete = [letter for letter, side in (("A", self.a), ("B", self.b)) if side.losses]
        if incomplete and (limit.row or name not in OF_STEPS):
            return Check(limit.text, True, f"it cannot be told: {' and '.join(incomplete)} lost rows")
        return check(limit, changes[name]._replace(outside=1 - CONFIDENCE), strict=strict)

    def _of_row(self, limit: Limit) -> dict[str, Change]:
        labels = [{pair.label for pair in (row.pair.a, row.pair.b) if pair is not None} for row in self._rows]
        for label, row in zip(labels, self._rows, strict=True):
            if limit.row in label:
                return row.changes
        raise no_such_row(limit.row, sorted(set().union(*labels)), self.a.by)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data: ``a b by notes totals rows``."""
        return {
            "a": self.name_a,
            "b": self.name_b,
            "by": self.a.by,
            "notes": list(self.notes),
            "totals": self.totals,
            "rows": self.table.to_dict(),
        }

    def to_json(self, path: AnyPath | None = None) -> str:
        """The same as JSON; also written to ``path`` if given.

        Raises:
            OSError: the file cannot be written.
        """
        return text_written(json.dumps(self.to_dict(), indent=1), path)

    def to_csv(self, path: AnyPath | None = None) -> str:
        """The rows, as `Table.to_csv`."""
        return self.table.to_csv(path)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows, as `Table.to_pandas`."""
        return self.table.to_pandas()

    def to_html(self, path: AnyPath) -> None:
        """Write a page that shows it, which needs nothing else.

        Raises:
            OSError: the file cannot be written.
        """
        names = " and ".join(name for name in (self.name_a, self.name_b) if name)
        with written(path) as file:
            file.write(as_page(f"torchprof diff {names}".rstrip(), self.parts()).encode())


def _total(change: Change) -> Record:
    interval, of_fraction = change.interval, change.fraction_interval
    low, high = interval if interval is not None else (None, None)
    change_low, change_high = of_fraction if of_fraction is not None else (None, None)
    return {
        "figure": change.figure.name,
        "unit": change.figure.quantity.unit,
        "a": change.a,
        "b": change.b,
        "difference": change.difference,
        "change": change.fraction,
        **{"low": low, "high": high, "change_low": change_low, "change_high": change_high},
        "verdict": change.verdict,
        "unknown_because": change.unknown_because,
    }

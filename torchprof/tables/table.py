"""The one table of figures: rows as data, and as text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torchprof.analysis.records import Record
from torchprof.arguments import check_flag, check_int
from torchprof.errors import ArgumentError
from torchprof.paths import AnyPath, text_written
from torchprof.rendering.grid import Grid, GridColumn, Kind, Parts
from torchprof.rendering.printed import Printed
from torchprof.tables.columns import COLUMNS, LEFT_OUT_FIRST, Column, columns_of, with_computed
from torchprof.wording import counted, nearest

if TYPE_CHECKING:
    import pandas

__all__ = ["About", "Table", "data_frame", "label_of", "worth_showing"]


def label_of(row: Record) -> str:
    """The name of a row and, of a module, its class: ``fc (Linear)``, but ``Linear`` where both are the same."""
    name, type = str(row["name"]), row.get("type")
    return f"{name} ({type})" if type and name not in (type, f"<{type}>") else name


class About(NamedTuple):
    """A line below a table that is printed only where one of these columns is; without them, ``otherwise`` is, if given."""

    columns: tuple[str, ...]
    line: str
    otherwise: str = ""


@dataclass(frozen=True)
class Table(Printed):
    """Rows of figures. ``str()`` is the printed text; every method that changes something returns a new table.

    Attributes:
        title: header of the names.
        rows: one dict per row, with every figure by name, printed or not: nanoseconds, bytes, elements, fractions. None is a
            figure that is not known. A ``note`` is printed behind its row.
        columns: names of the columns that are printed: keys of ``torchprof.tables.columns.COLUMNS``.
        footer: lines below, some of them about a column.
        is_tree: whether rows have a ``depth`` and are drawn as a tree.
        headers: of columns that this table calls otherwise, by name.
        blank: names of columns in which nothing is printed for 0.
        unknown: what is printed for None; by default what the column says.
        label: what is printed as the name of a row.
        is_dim: which rows are printed dim on a terminal.
        details: further lines below a row, each a text and a note.

    Raises:
        ArgumentError: a column is unknown.
    """

    title: str
    rows: list[Record]
    columns: tuple[str, ...]
    footer: tuple[str | About, ...] = ()
    is_tree: bool = False
    _: KW_ONLY
    headers: Mapping[str, str] = field(default_factory=dict)
    blank: frozenset[str] = frozenset()
    unknown: str | None = None
    label: Callable[[Record], str] = label_of
    is_dim: Callable[[Record], bool] | None = None
    details: Callable[[Record], Sequence[tuple[str, str]]] | None = None
    known: ClassVar[Mapping[str, Column]] = COLUMNS
    """The columns that there are, by name."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.columns if name not in self.known]:
            raise ArgumentError(f"columns={self.columns!r} contains {unknown[0]!r}, which is unknown: see the keys of COLUMNS")
        object.__setattr__(self, "rows", with_computed(self.rows, self.known))

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self) -> Parts:
        chosen = [self.known[name] for name in self.columns]
        yield Grid(
            self.title,
            [self.label(row) for row in self.rows],
            [
                GridColumn(
                    self.headers.get(column.name, column.header),
                    self._cells(column),
                    column.quantity.left,
                    column.meaning,
                    LEFT_OUT_FIRST.get(column.name, len(LEFT_OUT_FIRST)),
                )
                for column in chosen
            ],
            [self._kind(row) for row in self.rows],
            [row.get("note", "") for row in self.rows],
            self._below(),
            [row["depth"] for row in self.rows] if self.is_tree else None,
            [self.details(row) for row in self.rows] if self.details is not None else None,
        )

    def _below(self) -> tuple[str, ...]:
        shown = set(self.columns)
        lines = [
            each if isinstance(each, str) else each.otherwise if shown.isdisjoint(each.columns) else each.line
            for each in self.footer
        ]
        return tuple(line for line in lines if line)

    def _kind(self, row: Record) -> Kind:
        if row.get("failed"):
            return "failed"
        if self.is_tree and not row["depth"]:
            return "root"
        return "dim" if self.is_dim is not None and self.is_dim(row) else "row"

    def _cells(self, column: Column) -> list[str]:
        write = column.quantity.write
        missing = column.quantity.missing if self.unknown is None else self.unknown
        values = column.values(self.rows)
        if column.name in self.blank:
            return [write(value) if value else "" for value in values]
        cells = [missing if value is None else write(value) for value in values]
        if column.unknown:
            unknown = [row.get(column.unknown) for row in self.rows]
            cells = [
                cell if not names else "?" if value is None else f">= {cell}"
                for cell, names, value in zip(cells, unknown, values, strict=True)
            ]
        return cells

    def select(self, *columns: str) -> Table:
        """Print these columns.

        Raises:
            ArgumentError: a name is unknown.
        """
        return replace(self, columns=tuple(self._known(name) for name in columns))

    def with_columns(self, *columns: str) -> Table:
        """Print these columns as well.

        Raises:
            ArgumentError: a name is unknown.
        """
        return self.select(*self.columns, *(name for name in columns if name not in self.columns))

    def without_columns(self, *columns: str) -> Table:
        """Do not print these columns.

        Raises:
            ArgumentError: a name is unknown.
        """
        unwanted = {self._known(name) for name in columns}
        return self.select(*(name for name in self.columns if name not in unwanted))

    def sort(self, by: str, *, descending: bool = True) -> Table:
        """Order the rows by one of their figures, those without it last, or by name. A tree becomes a list of paths.

        Raises:
            ArgumentError: the name is unknown.
        """
        if by != "name":
            self._known(by)
        known = [row for row in self.rows if row.get(by) is not None]
        unknown = [row for row in self.rows if row.get(by) is None]
        rows = sorted(known, key=lambda row: row[by], reverse=descending) + unknown
        if self.is_tree:
            rows = [{**row, "name": row["path"] or row["name"], "depth": 0} for row in rows]
        return replace(self, rows=rows, is_tree=False)

    def head(self, count: int) -> Table:
        """The first rows; a line of the footer says how many were left out.

        Raises:
            ArgumentError: the count is no int, or negative.
        """
        check_int("head(count)", count, 0)
        if count >= len(self.rows):
            return self
        return replace(self, rows=self.rows[:count], footer=(counted(len(self.rows) - count, "more row"), *self.footer))

    def to_dict(self) -> list[Record]:
        """The rows, as plain data."""
        return [dict(row) for row in self.rows]

    def to_json(self, path: AnyPath | None = None, *, printed_only: bool = False) -> str:
        """The rows as JSON; also written to ``path`` if given.

        Args:
            printed_only: the name and path of each row, and its printed columns, in their order, instead of every figure.

        Raises:
            OSError: the file cannot be written.
        """
        check_flag("printed_only", printed_only)
        return text_written(json.dumps(self._printed_rows() if printed_only else self.rows, indent=1), path)

    def to_csv(self, path: AnyPath | None = None, *, printed_only: bool = False) -> str:
        """The rows as CSV, one column per figure; also written to ``path`` if given.

        Args:
            printed_only: the name and path of each row, and its printed columns, in their order, instead of every figure.

        Raises:
            OSError: the file cannot be written.
        """
        text = io.StringIO()
        check_flag("printed_only", printed_only)
        rows = self._printed_rows() if printed_only else self.rows
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text_written(text.getvalue(), path)

    def _printed_rows(self) -> list[Record]:
        """The rows with what is printed of them alone, as data."""
        names = [name for name in ("name", "path") if self.rows and name in self.rows[0]]
        values = {name: self.known[name].values(self.rows) for name in self.columns}
        return [
            {**{name: row[name] for name in names}, **{name: of_rows[at] for name, of_rows in values.items()}}
            for at, row in enumerate(self.rows)
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a ``pandas.DataFrame``, one column per figure. Needs pandas.

        Raises:
            ImportError: pandas is not installed.
        """
        return data_frame(self.rows)

    def _known(self, name: Any) -> str:
        """The name of a column that the rows have figures for; any column where there are no rows."""
        if not isinstance(name, str):
            raise ArgumentError(f"column {name!r} is no name: give names one by one, such as table.select('calls', 'time')")
        if name in self.known and (not self.rows or all(need in self.rows[0] for need in self.known[name].needs)):
            return name
        figures = {figure for row in self.rows for figure in row}
        known = columns_of(figures, self.known) if self.rows else list(self.known)
        if name not in known:
            near = nearest(name, known)
            meant = f" (did you mean {near!r}?)" if near else ""
            raise ArgumentError(f"column {name!r} is unknown{meant}: this table has {', '.join(known)}")
        return name


def data_frame(rows: list[Record]) -> pandas.DataFrame:
    """Rows as a ``pandas.DataFrame``.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install pandas") from error
    return pandas.DataFrame(rows)


def worth_showing(rows: Sequence[Record], columns: Sequence[str], optional: Sequence[str]) -> tuple[str, ...]:
    """These columns, without those of the optional ones in which every row has 0 or nothing."""

    def is_worth(name: str) -> bool:
        unknown = COLUMNS[name].unknown
        return any(row.get(name) or (unknown and row.get(unknown)) for row in rows)

    return tuple(name for name in columns if name not in optional or is_worth(name))

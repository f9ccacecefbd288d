"""A table as data for the page: the texts that are printed, and the values that it is sorted by."""

from __future__ import annotations

import math
from typing import Any, Final

from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.records import Record
from torchprof.rendering.grid import Grid
from torchprof.reporting.figure import CAUSE_COLORS, PHASE_COLORS, category_color
from torchprof.tables.columns import COLUMNS
from torchprof.tables.table import Table
from torchprof.terminal import printable

__all__ = ["MOST_ROWS", "grid_data", "number", "row_key", "table_data"]

MOST_ROWS: Final = 1000
"""Rows of a list that are on the page."""

BARS: Final = ("share", "device_share", "busy_share", "idle_share", "roofline")
"""Columns whose values are drawn as bars, too."""

COLORS: Final = {
    **PHASE_COLORS,
    "busy": "--busy",
    **{f"idle_{cause.replace('-', '_')}": color for cause, color in CAUSE_COLORS.items()},
    **{f"peak_{category.replace(' ', '_')}": category_color(category) for category in CATEGORIES},
}
"""Columns that have the color of what they show in charts."""

Data = dict[str, Any]


def table_data(table: Table, most: int = MOST_ROWS) -> Data:
    """A table for the page. Of a list, the first rows; its footer then says how many were left out."""
    if not table.is_tree:
        table = table.head(most)
    grid = next(part for part in table.parts() if isinstance(part, Grid))
    values = [COLUMNS[name].values(table.rows) for name in table.columns]
    data = grid_data(grid)
    data["keys"] = [printable(row_key(row)) for row in table.rows]
    for column, name, of_rows in zip(data["columns"], table.columns, values, strict=True):
        column["name"] = name
        column["bar"] = name in BARS
        if name in COLORS:
            column["color"] = COLORS[name]
        column["values"] = [number(value) for value in of_rows]
        if all(value is None for value in column["values"]):
            del column["values"]  # it is sorted by its texts
    return data


def grid_data(grid: Grid) -> Data:
    """What is printed of any table."""
    columns = [
        {
            "header": printable(column.header),
            "meaning": printable(column.meaning),
            "left": column.left,
            "texts": [printable(text) for text in column.texts],
        }
        for column in grid.columns
    ]
    data: Data = {"title": printable(grid.title), "names": [printable(name) for name in grid.names], "columns": columns}
    data["footer"] = [printable(line) for line in grid.footer]
    data["kinds"] = {row: kind for row, kind in enumerate(grid.kinds) if kind not in ("row", "root")}
    data["notes"] = {row: printable(note) for row, note in enumerate(grid.notes) if note}
    if grid.depths is not None:
        data["depths"] = list(grid.depths)
    if grid.details is not None:
        data["details"] = {
            row: [printable(" ".join(text for text in detail if text)) for detail in details]
            for row, details in enumerate(grid.details)
            if details
        }
    return data


def row_key(row: Record) -> str:
    """What a row is found by: the path of a module, or else its name."""
    return str(row.get("path") or row["name"])


def number(value: Any) -> float | int | None:
    """A value to sort by, of seven digits; None where it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(f"{value:.7g}")

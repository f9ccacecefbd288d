"""The module tree as an icicle chart, by any of its figures."""

from __future__ import annotations

from typing import Any, Final

from torchprof.tables.columns import COLUMNS
from torchprof.tables.table import Table

__all__ = ["icicle"]

FIGURES: Final = {
    "time": "--slate",
    "forward": "--forward",
    "recompute": "--recompute",
    "backward": "--backward",
    "optimizer": "--optimizer",
    "device": "--busy",
    "flops": "--forward",
    "saved": "--activations",
    "at_peak": "--activations",
}
"""Figures of modules that contain those of the modules below, and the color of each."""


def icicle(modules: Table) -> list[dict[str, Any]]:
    """The figures that can be chosen of a table by module: those that any row has. The page draws them from its rows."""
    roots = [row for row in modules.rows if not row["depth"]]
    found = []
    for name, color in FIGURES.items():
        if name in modules.columns and any(row.get(name) for row in modules.rows):
            column = COLUMNS[name]
            whole = column.quantity.write(sum(row.get(name) or 0 for row in roots))
            found.append({"name": name, "header": column.header, "color": color, "whole": whole})
    return found

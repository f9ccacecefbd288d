"""Rows of both sides, whatever they are."""

from __future__ import annotations

from torchprof.comparison.alignment.lines import align_lines
from torchprof.comparison.alignment.modules import align_modules
from torchprof.comparison.alignment.named import align_kernels, align_named, align_places
from torchprof.comparison.alignment.pair import Pair
from torchprof.comparison.side import Side

__all__ = ["align"]


def align(a: Side, b: Side) -> list[Pair]:
    """Which rows belong together; every row is in one pair."""
    match a.by:
        case "module" if a.kind != "memory":
            return align_modules(a.rows, b.rows)
        case "line" if a.kind in ("memory", "snapshot"):
            return align_places(a.rows, b.rows)
        case "line" | "function":
            return align_lines(a.rows, b.rows, functions=a.by == "function")
        case "kernel":
            return align_kernels(a.rows, b.rows)
    return align_named(a.rows, b.rows, lambda row: row.record["name"])

"""The columns of comparisons: for every figure its values on both sides, their difference, and where that may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.comparison.figures import FIGURES, Figure
from torchprof.tables.columns import Column, Quantity

__all__ = ["DIFF_COLUMNS", "percent", "percent_range"]


def percent(fraction: float | None) -> str:
    """``+12.3%``; of what became many times as large ``x12.3``."""
    if fraction is None:
        return ""
    if fraction >= 9.995:
        return f"x{1 + fraction:,.1f}"
    text = f"{100 * fraction:+.1f}%"
    return "0.0%" if text in ("+0.0%", "-0.0%") else text


def percent_range(low: float, high: float) -> str:
    """``+1.2 to +3.4%``."""
    if high >= 9.995:
        return f"{percent(low)} to {percent(high)}"
    return f"{100 * low:+.1f} to {100 * high:+.1f}%"


def _columns(figure: Figure) -> Iterator[Column]:
    name, meaning = figure.name, figure.meaning.partition("; in a summary")[0]
    plain = Quantity(figure.write, figure.quantity.unit, missing="?")
    signed = Quantity(figure.write_signed, figure.quantity.unit, missing="?")
    yield Column(f"{name}_a", "A", plain, f"{figure.header} in A: {meaning}", unknown=f"{name}_unknown_a")
    yield Column(f"{name}_b", "B", plain, f"{figure.header} in B: {meaning}", unknown=f"{name}_unknown_b")
    yield Column(f"{name}_difference", f"{figure.header} diff", signed, f"{figure.header} in B less that in A")
    yield Column(f"{name}_change", "Change", Quantity(percent, "fraction"), f"{figure.header} diff as a part of A")
    if figure.is_time:
        yield Column(f"{name}_low", "From", signed, f"{figure.header} diff is at least this, with the confidence that is said")
        yield Column(f"{name}_high", "To", signed, f"{figure.header} diff is at most this, with the confidence that is said")
        yield Column(
            f"{name}_interval",
            "Interval",
            Quantity(lambda ends: figure.write_range(*ends), figure.quantity.unit),
            f"where {figure.header} diff is, with the confidence that is said",
            (f"{name}_low", f"{name}_high"),
            lambda low, high: (low, high),
        )


DIFF_COLUMNS: Final[dict[str, Column]] = {
    **{column.name: column for figure in FIGURES.values() for column in _columns(figure)},
    "verdict": Column("verdict", "", Quantity(str, left=True), "whether it changed, by the figure that is shown on both sides"),
}
"""The columns by name."""

"""The steps of a recording as a chart: the time of each, by phase."""

from __future__ import annotations

from typing import Final

from torchprof.analysis.records import Record
from torchprof.rendering.units import format_ns
from torchprof.reporting.figure import PHASE_COLORS, Figure, label, time_axis
from torchprof.tables.columns import COLUMNS
from torchprof.tables.table import Table

__all__ = ["MOST_BARS", "steps_chart"]

MOST_BARS: Final = 400
WARMUP_OPACITY: Final = 0.45


def steps_chart(steps: Table) -> tuple[Figure, list[str]]:
    """The chart of a table by step, and what must be said of it.

    Where there are more steps than bars, a bar is the slowest one of some steps in a row.
    """
    rows, each = _slowest(steps.rows)
    said = [f"Each bar is the slowest of {each:,} steps in a row"] if each > 1 else []
    numbers = [row["step"] for row in rows]
    opacity = [WARMUP_OPACITY if row["warmup"] else 1.0 for row in rows]
    texts = [_hover(row) for row in rows]
    data = []
    for name, color in PHASE_COLORS.items():
        if any(row.get(name) for row in rows):
            data.append(
                {
                    "type": "bar",
                    "name": COLUMNS[name].header,
                    "x": numbers,
                    "y": [row.get(name) or 0 for row in rows],
                    "marker": {"color": color, "opacity": opacity},
                    "hovertext": texts,
                    "hovertemplate": "%{hovertext}<extra></extra>",
                }
            )
    if any(row.get("device") for row in rows):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "Device busy",
                "x": numbers,
                "y": [row.get("device") for row in rows],
                "marker": {"color": "--ink", "symbol": "line-ew-open", "size": 12, "line": {"width": 2}},
                "hovertext": texts,
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )
    layout = {
        "barmode": "stack",
        "bargap": 0.25 if len(rows) <= 60 else 0,
        "xaxis": {"title": {"text": "step"}, "fixedrange": True, "showgrid": False, **_ticks(numbers)},
        "yaxis": time_axis(max((row["time"] for row in rows), default=0)),
    }
    return {"data": data, "layout": layout}, said


def _ticks(numbers: list[int]) -> Figure:
    return {"tickvals": numbers} if len(numbers) <= 20 else {"tickformat": "d"}


def _slowest(rows: list[Record]) -> tuple[list[Record], int]:
    each = -(-len(rows) // MOST_BARS) if rows else 1
    return [max(rows[at : at + each], key=lambda row: row["time"]) for at in range(0, len(rows), each)], each


def _share(time: float, whole: float) -> str:
    return f"{100 * time / whole:.1f}%" if whole else "?"


def _hover(row: Record) -> str:
    warmup = " (warm-up)" if row["warmup"] else ""
    lines = [f"<b>step {row['step']}{warmup}: {format_ns(row['time'])}</b>"]
    for name in PHASE_COLORS:
        if row.get(name):
            lines.append(f"{COLUMNS[name].header}: {format_ns(round(row[name]))}, {_share(row[name], row['time'])}")
    if row.get("device"):
        lines.append(f"Device busy: {format_ns(row['device'])}")
    return "<br>".join([lines[0], *map(label, lines[1:])])

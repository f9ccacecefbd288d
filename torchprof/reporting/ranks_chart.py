"""The ranks of a run as a chart: the time of a step of each, by phase."""

from __future__ import annotations

from typing import Final

from torchprof.analysis.records import Record
from torchprof.rendering.units import format_ns
from torchprof.reporting.figure import PHASE_COLORS, Figure, label, time_axis
from torchprof.tables.columns import COLUMNS
from torchprof.tables.table import Table

__all__ = ["MOST_BARS", "ranks_chart"]

MOST_BARS: Final = 256
BESIDE: Final = ("compute", "communication", "exposed", "idle")


def ranks_chart(ranks: Table) -> tuple[Figure, list[str]]:
    """The chart of a table by rank, and what must be said of it.

    Where there are more ranks than bars, a bar is the one of some in a row that was longest in forward: ranks that train
    together take equally long, and a slow one shows in what it does itself.
    """
    known = [row for row in ranks.rows if row["time"] is not None]
    each = max(1, -(-len(known) // MOST_BARS))
    rows = [max(known[at : at + each], key=lambda row: row["forward"] or 0) for at in range(0, len(known), each)]
    said = [f"Each bar is that of {each:,} ranks in a row which is longest in forward"] if each > 1 else []
    numbers, texts = [row["rank"] for row in rows], [_hover(row) for row in rows]
    data = [
        {
            "type": "bar",
            "name": COLUMNS[name].header,
            "x": numbers,
            "y": [round(row[name] or 0) for row in rows],
            "marker": {"color": color},
            "hovertext": texts,
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for name, color in PHASE_COLORS.items()
        if any(row.get(name) for row in rows)
    ]
    ticks: Figure = {"tickvals": numbers} if len(numbers) <= 20 else {"tickformat": "d"}
    layout = {
        "barmode": "stack",
        "bargap": 0.25 if len(rows) <= 60 else 0,
        "xaxis": {"title": {"text": "rank"}, "fixedrange": True, "showgrid": False, **ticks},
        "yaxis": time_axis(round(max((row["time"] for row in rows), default=0))),
    }
    return {"data": data, "layout": layout}, said


def _hover(row: Record) -> str:
    lines = [f"<b>rank {row['rank']}: {format_ns(round(row['time']))}</b>"]
    for name in (*PHASE_COLORS, *BESIDE):
        if row.get(name):
            lines.append(f"{COLUMNS[name].header}: {format_ns(round(row[name]))}, {100 * row[name] / row['time']:.1f}%")
    return "<br>".join([lines[0], *map(label, lines[1:])])

"""The roofline as a chart: the rate that every op reached over its FLOPs per byte, below what the device can do."""

from __future__ import annotations

import math
from typing import Final

from torchprof.analysis.records import Record
from torchprof.rendering.shapes import all_shapes
from torchprof.rendering.units import format_ns
from torchprof.reporting.figure import Figure, flops_text, label
from torchprof.tables.table import Table
from torchprof.trace.ceilings import Ceilings

__all__ = ["MOST_POINTS", "roofline_chart"]

MOST_POINTS: Final = 400
SMALLEST, LARGEST = 5, 26
LONGEST_SHAPES: Final = 60
PREFIXES: Final = {0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}


def roofline_chart(ops: Table, ceilings: Ceilings | None) -> Figure | None:
    """A point for every op and shapes with FLOPs, as large as the time that it took; None where there is none."""
    time = "device_self" if any("device_self" in row for row in ops.rows) else "self"
    rows = [row for row in ops.rows if all(_is_drawn(row.get(name)) for name in ("intensity", "flop_rate"))]
    rows = sorted(rows, key=lambda row: -row[time])[:MOST_POINTS]
    if not rows:
        return None
    x, y = [row["intensity"] for row in rows], [row["flop_rate"] for row in rows]
    most = max(row[time] for row in rows) or 1
    sizes = [SMALLEST + (LARGEST - SMALLEST) * math.sqrt(max(row[time], 0) / most) for row in rows]
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "ops",
        "showlegend": False,
        "x": x,
        "y": y,
        "marker": {"size": [round(size, 1) for size in sizes], "color": "--forward", "opacity": 0.7},
        "hovertext": [_hover(row, time) for row in rows],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    data = [points]
    if ceilings is not None:
        ridge = ceilings.flops / ceilings.bytes
        xs = [min([*x, ridge]) / 3, ridge, max([*x, ridge]) * 3]
        roof = [ceilings.attainable(each) for each in xs]
        line = {"color": "--accent", "width": 1.5}
        name = label(f"{ceilings.device}, {ceilings.dtype}: {flops_text(ceilings.flops)}")
        data.append({"type": "scatter", "mode": "lines", "name": name, "x": xs, "y": roof, "line": line, "hoverinfo": "skip"})
        y = [*y, *roof]
    layout = {
        "hovermode": "closest",
        "xaxis": {"type": "log", "title": {"text": "FLOPs per byte"}, "fixedrange": True, **_numbers(x)},
        "yaxis": {"type": "log", "title": {"text": "FLOP/s"}, "fixedrange": True, **_powers(y)},
    }
    return {"data": data, "layout": layout}


def _is_drawn(rate: float | None) -> bool:
    """Whether it has a place on an axis of logarithms: rates of damaged files may have none."""
    return rate is not None and 0 < rate < math.inf


def _numbers(values: list[float]) -> Figure:
    """Ticks at powers of ten, of few ones also in between, as whole numbers: plotly writes 20 as 2, between powers."""
    low, high = math.floor(math.log10(min(values) / 3)), math.ceil(math.log10(max(values) * 3))
    factors = (1, 2, 5) if high - low <= 4 else (1,)
    ticks = [factor * 10.0**at for at in range(low, high + 1) for factor in factors]
    return {"tickvals": ticks, "ticktext": [f"{tick:,.10g}" for tick in ticks]}


def _powers(values: list[float]) -> Figure:
    """Ticks at powers of ten, of few ones also in between, with prefixes."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    factors = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = {
        factor * 10.0**at: f"{factor * 10 ** (at % 3)} {_prefix(at - at % 3)}"
        for at in range(low, high + 1)
        for factor in factors
    }
    near = [math.log10(min(values) / 2), math.log10(max(values) * 2)]
    return {"tickvals": list(ticks), "ticktext": [text.strip() for text in ticks.values()], "range": near}


def _prefix(power: int) -> str:
    return PREFIXES.get(power, f"e{power}")


def _hover(row: Record, time: str) -> str:
    shapes = all_shapes(row["shapes"]) if row.get("shapes") else ""
    roof = [f"{100 * row['roofline']:.1f}% of roof"] if row.get("roofline") is not None else []
    lines = [
        *([shapes if len(shapes) <= LONGEST_SHAPES else f"{shapes[: LONGEST_SHAPES - 1]}…"] if shapes else []),
        f"{flops_text(row['flop_rate'])} at {row['intensity']:,.1f} FLOP/B",
        *roof,
        f"{format_ns(round(row[time]))} per step",
    ]
    return f"<b>{label(row['name'])}</b><br>{'<br>'.join(map(label, lines))}"

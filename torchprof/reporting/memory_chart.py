"""Memory over time as a chart: what was held, by category, and the peak; where it is pointed at, what is alive."""

from __future__ import annotations

from typing import Final

import numpy as np

from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.modules import NO_MODULE, module_label
from torchprof.analysis.memory.moments import Alive, Moments
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.reporting.figure import Figure, bytes_axis, category_color, label, times_in
from torchprof.trace.trace import Trace

__all__ = ["memory_chart"]

MOST_STEPS: Final = 60
"""Steps whose beginnings are drawn."""
SHORTEST_LABEL: Final = 40


def memory_chart(account: MemoryAccount) -> tuple[Figure, list[str]]:
    """The chart, and what must be said of it."""
    found = account.moments()
    times, end = found.times.tolist(), max(int(account.trace.facts.get("duration_ns", 0)), int(found.times[-1]))
    total = found.held.sum(axis=1)
    x = times_in([*times, end])
    data: list[Figure] = []
    for index, name in enumerate(CATEGORIES):
        held = found.held[:, index]
        if not held.any():
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "stackgroup": "held",
                "name": name,
                "x": x,
                "y": [*np.maximum(held, 0).tolist(), max(int(held[-1]), 0)],
                "line": {"width": 0, "shape": "hv"},
                "fillcolor": category_color(name),
                "hoverinfo": "skip",
            }
        )
    texts = [_hover(account.trace, found, row, int(total[row])) for row in range(len(times))]
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "held",
            "showlegend": False,
            "x": x,
            "y": [*total.tolist(), int(total[-1])],
            "line": {"width": 1.2, "shape": "hv", "color": "--ink"},
            "hovertext": [*texts, texts[-1]],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
    )
    peak = account.peak
    most = max(int(total.max()), peak.bytes)
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "peak",
            "showlegend": False,
            "x": times_in([peak.time]),
            "y": [peak.bytes],
            "marker": {"color": "--accent", "size": 9, "line": {"color": "--paper", "width": 2}},
            "hoverinfo": "skip",
        }
    )
    left = peak.time < end / 2
    layout = {
        "hovermode": "x",
        "hoverdistance": -1,
        "xaxis": {"ticksuffix": " ms", "range": [0, end / 10**6 or 1]},
        "yaxis": {**bytes_axis(most), "range": [0, most * 1.15 or 1]},
        "shapes": _steps(account.trace),
        "annotations": [
            {
                "x": peak.time / 10**6,
                "y": peak.bytes,
                "text": f"<b>peak {format_bytes(peak.bytes)}</b>",
                "showarrow": False,
                "yshift": 14,
                "xanchor": "left" if left else "right",
                "font": {"color": "--accent"},
            }
        ],
    }
    said = ["Drag to look closer, double-click to see all"]
    if found.changes > 1:
        said.insert(
            0,
            f"Each point is the moment at which the most was held, of {found.changes:,} allocations and frees in a row: less "
            "was held in between",
        )
    return {"data": data, "layout": layout}, said


def _steps(trace: Trace) -> list[Figure]:
    """A line where every step begins, and where the last one ends, if there are few."""
    if not 0 < len(trace.steps) <= MOST_STEPS:
        return []
    times = times_in([*trace.steps["start"].tolist(), int(trace.steps["end"][-1])])
    line = {"color": "--rule", "width": 1, "dash": "dot"}
    return [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line} for x in times if x >= 0]


def _hover(trace: Trace, found: Moments, row: int, total: int) -> str:
    head = f"<b>{format_bytes(total)}</b> at {format_ns(int(found.times[row]))}"
    held = [(int(found.held[row, index]), name) for index, name in enumerate(CATEGORIES) if found.held[row, index]]
    categories = [f"{format_bytes(size)} {label(name)}" for size, name in sorted(held, reverse=True)[:5]]
    alive = [_alive(trace, each) for each in found.alive[row]]
    return "<br>".join([head, *categories, *(["<b>alive, the largest</b>", *alive] if alive else [])])


def _alive(trace: Trace, alive: Alive) -> str:
    module = "in no module" if alive.module == NO_MODULE else _short(module_label(trace, alive.module))
    return label(f"{format_bytes(alive.bytes)} {alive.category}, {module}")


def _short(path: str) -> str:
    return path if len(path) <= SHORTEST_LABEL else f"…{path[1 - SHORTEST_LABEL :]}"

"""Memory over time as a chart: what was held, by category, and the peak; where it is pointed at, what is alive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from torchprof.allocator.block_categories import SNAPSHOT_CATEGORIES
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.modules import NO_MODULE, module_label
from torchprof.analysis.memory.moments import Alive, Moments
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.reporting.figure import Figure, bytes_axis, category_color, label, times_in
from torchprof.tables.snapshot_memory import SnapshotMemory, line_of
from torchprof.trace.trace import Trace

__all__ = ["memory_chart", "snapshot_chart"]

MOST_STEPS: Final = 60
"""Steps whose beginnings are drawn."""
SHORTEST_LABEL: Final = 40


class Held(NamedTuple):
    """What was held, over time.

    Attributes:
        found: the moments.
        categories: of memory.
        x: where each of the moments is drawn, and the end.
        at: when that was, in words.
        place: a place in words.
        peak: where the peak is drawn, and its bytes.
    """

    found: Moments
    categories: Sequence[str]
    x: list[float]
    at: list[str]
    place: Callable[[Alive], str]
    peak: tuple[float, int]


def memory_chart(account: MemoryAccount) -> tuple[Figure, list[str]]:
    """The chart of what a trace says, and what must be said of it."""
    found = account.moments()
    times, end = found.times.tolist(), max(int(account.trace.facts.get("duration_ns", 0)), int(found.times[-1]))
    peak = (account.peak.time / 10**6, account.peak.bytes)

    def place(alive: Alive) -> str:
        return "in no module" if alive.place == NO_MODULE else _short(module_label(account.trace, alive.place))

    held = Held(found, CATEGORIES, times_in([*times, end]), [f"at {format_ns(time)}" for time in times], place, peak)
    figure = _stacked(held)
    figure["layout"]["xaxis"]["ticksuffix"] = " ms"
    figure["layout"]["shapes"] = _steps(account.trace)
    return figure, _said(found)


def snapshot_chart(account: SnapshotMemory) -> tuple[Figure, list[str]] | None:
    """The same of a memory snapshot; None where it has no history."""
    timeline = account.timeline()
    if not len(timeline):
        return None
    found = account.moments()
    entries = found.times
    at = np.maximum(np.searchsorted(timeline["entry"], entries, side="right") - 1, 0)
    timed = bool((timeline["time"] >= 0).all())
    times = np.where(entries > 0, timeline["time"][at], 0).tolist() if timed else entries.tolist()
    last = int(timeline["time" if timed else "entry"][-1])
    x = times_in([*times, last]) if timed else [float(each) for each in [*times, last]]
    words = [f"at {format_ns(time)}" if timed else f"after entry {time:,}" for time in times]
    words[0] = "where the history begins"
    most = int(found.held.sum(axis=1).argmax())
    held = Held(found, SNAPSHOT_CATEGORIES, x, words, lambda alive: _short(line_of((alive.place,))), (x[most], account.peak))
    figure = _stacked(held)
    reserved = [*timeline["reserved"][at].tolist(), int(timeline["reserved"][-1])]
    line = {"width": 1.2, "shape": "hv", "color": "--dim", "dash": "dot"}
    figure["data"].insert(
        -2, {"type": "scatter", "mode": "lines", "name": "reserved", "x": x, "y": reserved, "line": line, "hoverinfo": "skip"}
    )
    axis = bytes_axis(max(reserved))
    figure["layout"]["yaxis"] = {**axis, "range": [0, max(*reserved, account.peak) * 1.15 or 1]}
    figure["layout"]["xaxis"] |= {"ticksuffix": " ms"} if timed else {"title": {"text": "entry of the history"}}
    return figure, _said(found)


def _said(found: Moments) -> list[str]:
    said = ["Drag to look closer, double-click to see all"]
    if found.changes > 1:
        each = f"{found.changes:,} allocations and frees in a row"
        said.insert(0, f"Each point is the moment at which the most was held, of {each}: less was held in between")
    return said


def _stacked(held: Held) -> Figure:
    found, x = held.found, held.x
    total = found.held.sum(axis=1)
    data: list[Figure] = []
    for index, name in enumerate(held.categories):
        of_category = found.held[:, index]
        if not of_category.any():
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "stackgroup": "held",
                "name": name,
                "x": x,
                "y": [*np.maximum(of_category, 0).tolist(), max(int(of_category[-1]), 0)],
                "line": {"width": 0, "shape": "hv"},
                "fillcolor": category_color(name),
                "hoverinfo": "skip",
            }
        )
    texts = [_hover(held, row, int(total[row])) for row in range(len(total))]
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
    when, size = held.peak
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "peak",
            "showlegend": False,
            "x": [when],
            "y": [size],
            "marker": {"color": "--accent", "size": 9, "line": {"color": "--paper", "width": 2}},
            "hoverinfo": "skip",
        }
    )
    most = max(int(total.max()), size)
    note = {
        "x": when,
        "y": size,
        "text": f"<b>peak {format_bytes(size)}</b>",
        "showarrow": False,
        "yshift": 14,
        "xanchor": "left" if when < x[-1] / 2 else "right",
        "font": {"color": "--accent"},
    }
    layout = {
        "hovermode": "x",
        "hoverdistance": -1,
        "xaxis": {"range": [0, x[-1] or 1]},
        "yaxis": {**bytes_axis(most), "range": [0, most * 1.15 or 1]},
        "annotations": [note],
    }
    return {"data": data, "layout": layout}


def _steps(trace: Trace) -> list[Figure]:
    """A line where every step begins, and where the last one ends, if there are few."""
    if not 0 < len(trace.steps) <= MOST_STEPS:
        return []
    times = times_in([*trace.steps["start"].tolist(), int(trace.steps["end"][-1])])
    line = {"color": "--rule", "width": 1, "dash": "dot"}
    return [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line} for x in times if x >= 0]


def _hover(held: Held, row: int, total: int) -> str:
    found = held.found
    sizes = [(int(found.held[row, index]), name) for index, name in enumerate(held.categories) if found.held[row, index]]
    categories = [f"{format_bytes(size)} {label(name)}" for size, name in sorted(sizes, reverse=True)[:5]]
    alive = [label(f"{format_bytes(each.bytes)} {each.category}, {held.place(each)}") for each in found.alive[row]]
    below = ["<b>alive, the largest</b>", *alive] if alive else []
    return "<br>".join([f"<b>{format_bytes(total)}</b> {held.at[row]}", *categories, *below])


def _short(path: str) -> str:
    return path if len(path) <= SHORTEST_LABEL else f"…{path[1 - SHORTEST_LABEL :]}"

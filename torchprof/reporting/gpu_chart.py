"""Devices as a chart: busy, and idle by cause."""

from __future__ import annotations

from typing import Final

from torchprof.analysis.gpu.gaps import CAUSES
from torchprof.rendering.units import format_ns
from torchprof.reporting.figure import CAUSE_COLORS, Figure, label
from torchprof.tables.gpu import Gpu

__all__ = ["gpu_chart"]

ROW: Final = 44
MARGIN: Final = 96


def gpu_chart(account: Gpu) -> Figure:
    """A bar for every device, whose length is its span."""
    devices = account.devices[::-1]  # plotly begins at the bottom
    names = [label(device.name) for device in devices]
    spans = [max(device.span, 1) for device in devices]
    parts = [("busy", "--busy", [device.busy for device in devices])]
    parts += [(f"idle, {cause}", CAUSE_COLORS[cause], [device.idle[cause] for device in devices]) for cause in CAUSES]
    data = []
    for name, color, times in parts:
        if not any(times):
            continue
        shares = [100 * time / span for time, span in zip(times, spans, strict=True)]
        texts = [
            f"<b>{device}</b><br>{name}: {format_ns(time)}, {share:.1f}%"
            for device, time, share in zip(names, times, shares, strict=True)
        ]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": names,
                "x": shares,
                "marker": {"color": color},
                "hovertext": texts,
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )
    layout = {
        "barmode": "stack",
        "bargap": 0.35,
        "height": MARGIN + ROW * len(devices),
        "hovermode": "closest",
        "xaxis": {"ticksuffix": "%", "range": [0, 100], "fixedrange": True},
        "yaxis": {"fixedrange": True, "automargin": True},
    }
    return {"data": data, "layout": layout}

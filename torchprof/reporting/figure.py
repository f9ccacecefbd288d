"""A figure for plotly, as plain data: colors are names of the page's own, and axes are ticked in torchprof's units."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from typing import Any, Final

from torchprof.rendering.units import format_bytes, format_flops, format_ns
from torchprof.terminal import printable

__all__ = [
    "CAUSE_COLORS",
    "PHASE_COLORS",
    "Figure",
    "bytes_axis",
    "category_color",
    "flops_text",
    "label",
    "time_axis",
    "times_in",
]

Figure = dict[str, Any]
"""``data`` and ``layout`` of plotly. A color such as ``"--forward"`` is that of the page's style, light or dark."""

PHASE_COLORS: Final = {
    "forward": "--forward",
    "recompute": "--recompute",
    "backward": "--backward",
    "optimizer": "--optimizer",
    "data": "--data",
    "other": "--other",
}
CAUSE_COLORS: Final = {
    "launch-bound": "--launch-bound",
    "data": "--data",
    "synchronization": "--synchronization",
    "other": "--other",
}
TICKS: Final = 5
MILLISECOND: Final = 10**6


def label(text: str) -> str:
    """Text for plotly, which reads some HTML in its labels."""
    return html.escape(printable(text), quote=False)


def category_color(category: str) -> str:
    """The color of a category of memory."""
    return f"--{category.replace(' ', '-')}"


def bytes_axis(most: int) -> Figure:
    """An axis from 0 to so many bytes."""
    step = 2.0 ** math.ceil(math.log2(max(most, 1) / TICKS)) if most > TICKS else 1.0
    return _axis(most, step, format_bytes)


def time_axis(most: int) -> Figure:
    """An axis from 0 to so many nanoseconds."""
    size = 10.0 ** math.floor(math.log10(max(most, 1) / TICKS)) if most > TICKS else 1.0
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size * TICKS >= most)
    return _axis(most, step, lambda ns: format_ns(ns) if ns else "0")


def _axis(most: int, step: float, write: Callable[[int], str]) -> Figure:
    ticks = [round(step * at) for at in range(TICKS + 1) if step * at <= most * 1.05]
    texts = [_plain(write(tick)) for tick in ticks]
    return {"tickvals": ticks, "ticktext": texts, "range": [0, most * 1.08 or 1], "fixedrange": True}


def _plain(text: str) -> str:
    """Without zeros behind the point: ``5.00 ms`` is ``5 ms``."""
    figure, _, unit = text.partition(" ")
    return f"{figure.rstrip('0').rstrip('.') if '.' in figure else figure} {unit}".strip()


def flops_text(value: float) -> str:
    """FLOPs per second, as text."""
    return f"{format_flops(value)}FLOP/s"


def times_in(ns: list[int]) -> list[float]:
    """Milliseconds, of which plotly writes the ticks itself."""
    return [time / MILLISECOND for time in ns]

"""The loop waits for data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.advice.finding import Finding
from torchprof.advice.idle_of import idle_of
from torchprof.advice.loop import loop_of
from torchprof.advice.ops_of import are_counted, host_time, lines_by
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.gpu.data_waits import outermost_waits
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.steps import how_to_mark_steps, step_times
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["data_loading"]

LEAST: Final = 0.03
"""Part of the time of steps below which it is not worth a word."""


@rule("waits for data")
def data_loading(trace: Trace) -> Iterator[Finding]:
    """The time of ``next()`` of a ``DataLoader`` and of `torchprof.data`: what loads ahead of need takes next to nothing.

    Where kernels of a device were recorded, what counts is the time in which it was idle meanwhile.
    """
    times = step_times(trace)
    if times is None or not times.is_step or not len(times.time):
        raise NotTold(f"no steps: {how_to_mark_steps(trace)}")
    loop, waited = loop_of(trace), int(times.by_phase[Phase.DATA].mean())
    idle = idle_of(trace) if len(trace.kernels) and loop.steps > 1 and not is_aggregated(trace) else None
    starved = float(idle.for_data.sum()) / loop.steps if idle is not None else loop.most_saved(waited)
    worth = min(float(waited), starved)
    if worth < LEAST * loop.time:
        return
    of_host = " of the host" if loop.of_devices else ""
    rows = outermost_waits(trace)
    rows = rows[are_counted(trace)[rows]]
    yield Finding(
        "data_loading",
        f"A step waits {format_ns(waited)} for data, {100 * waited / loop.host:.1f}% of its time{of_host}"
        + (f"; {idle.device} is idle for {format_ns(round(starved))} of that" if idle is not None else ""),
        "Load ahead of need: DataLoader(num_workers=...) with persistent_workers and, for a GPU, pin_memory; then look at what "
        "the workers do for each sample.",
        "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html",
        loop.worth(
            worth,
            "the time in which data was waited for"
            if loop.idle is None
            else "the idle time of the device while data was waited for"
            if idle is not None
            else "the time in which data was waited for, as far as devices are idle",
        ),
        lines=lines_by(trace, rows, host_time(trace, rows)),
    )

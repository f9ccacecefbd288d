"""The loop waits for data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.steps import how_to_mark_steps, step_times
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["data_loading"]

LEAST: Final = 0.03
"""Part of the time of steps below which it is not worth a word."""


@rule("waits for data")
def data_loading(trace: Trace) -> Iterator[Finding]:
    """The time of ``next()`` of a ``DataLoader`` and of `torchprof.data`: what loads ahead of need takes next to nothing."""
    times = step_times(trace)
    if times is None or not times.is_step or not len(times.time):
        raise NotTold(f"no steps: {how_to_mark_steps(trace)}")
    step, waited = int(times.time.mean()), int(times.by_phase[Phase.DATA].mean())
    if waited < LEAST * step:
        return
    yield Finding(
        "data_loading",
        f"A step waits {format_ns(waited)} for data, {100 * waited / step:.1f}% of its time",
        "Load ahead of need: DataLoader(num_workers=...) with persistent_workers and, for a GPU, pin_memory; then look at what "
        "the workers do for each sample.",
        "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html",
        Worth("step time", 0, waited, step, measured=True, basis="the time in which data was waited for"),
    )

"""How long devices take for a step: the host only launches their work, and may be far ahead of them when its step ends."""

from __future__ import annotations

import numpy as np

from torchprof.analysis.gpu.devices import devices_and_gaps
from torchprof.analysis.gpu.gaps import gaps_between
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.trace import Trace

__all__ = ["device_busy", "device_span"]


def device_busy(trace: Trace) -> int:
    """Nanoseconds of an active step, on average, in which any device ran anything; 0 where none did."""
    active = active_steps(trace)
    if active["busy"].any():
        return int(active["busy"].mean())
    kernels = trace.kernels[(trace.kernels["end"] > trace.kernels["start"]) & (trace.kernels["start"] >= 0)]
    if len(trace.steps) or not len(kernels):
        totals = step_totals(trace)
        return int(totals.kernels["time"].sum()) // totals.steps
    begins, ends, _ = gaps_between(kernels["start"], kernels["end"])
    return int(kernels["end"].max() - kernels["start"].min() - (ends - begins).sum())


@remembered
def device_span(trace: Trace) -> int:
    """Nanoseconds of an active step, on average, from the first kernel of the active steps to the end of the last.

    Of the device that takes longest. Time between active steps, as of warm-up steps in their midst, is left out. Where there
    are sums only, it is the time in which devices were busy; 0 where none did anything.
    """
    active = active_steps(trace)
    if len(trace.steps) and not len(active):
        return 0
    if trace.facts.get("aggregate") or not len(trace.kernels):
        return device_busy(trace)
    between = int(np.maximum(0, active["start"][1:] - active["end"][:-1]).sum())
    longest = max((device.span for device, _ in devices_and_gaps(trace)), default=0)
    return max(0, longest - between) // max(1, len(active))

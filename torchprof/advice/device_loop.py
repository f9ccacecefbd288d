"""For how long devices are busy in a step, and how much of the step a change of their work can be worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from torchprof.advice.finding import Worth
from torchprof.advice.loop import Loop, loop_of
from torchprof.advice.registry import NotTold
from torchprof.analysis.gpu.backend import has_kernels, why_no_kernels
from torchprof.analysis.gpu.step_spans import device_busy
from torchprof.analysis.lines.where import most_first
from torchprof.analysis.model.module_tree import module_labels
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import Activity, Rows
from torchprof.trace.trace import Trace

__all__ = ["DeviceLoop", "device_loop_of", "kernel_modules", "kernels_named"]


@dataclass(frozen=True, slots=True)
class DeviceLoop:
    """What devices did in a loop.

    Attributes:
        steps: how many active steps; 1 where no steps were marked, which is then the whole recording.
        busy: nanoseconds of one, on average, in which any device ran anything.
        loop: of which it is a part.
    """

    steps: int
    busy: int
    loop: Loop

    def worth(self, high: float, basis: str, *, measured: bool = True) -> Worth:
        """At most so many nanoseconds of a step: where the device waits for the host or another rank, nothing is saved."""
        return self.loop.worth(min(high, self.busy), basis, measured=measured)

    def is_small(self, time: float) -> bool:
        """Whether so many nanoseconds of a step are not worth a word."""
        return self.loop.is_small(time)


def device_loop_of(trace: Trace) -> DeviceLoop:
    """
    Raises:
        NotTold: the trace has no kernels of a device, or none of an active step.
    """
    if not has_kernels(trace):
        raise NotTold(why_no_kernels(trace))
    loop = loop_of(trace)
    busy = device_busy(trace)
    if not busy:
        raise NotTold("no kernel of an active step was recorded")
    return DeviceLoop(loop.steps, busy, loop)


def kernels_named(trace: Trace, wanted: Callable[[str], object]) -> Rows:
    """The sums of kernels of active steps, copies not among them, whose name is wanted: rows of `StepTotals.kernels`."""
    sums = step_totals(trace).kernels
    known = np.zeros(len(trace.strings) + 1, dtype=np.bool_)
    for name in np.unique(sums["name"]).tolist():
        known[name] = bool(wanted(trace.strings[name]))
    found: Rows = sums[known[sums["name"]] & np.isin(sums["kind"], (Activity.KERNEL, Activity.INTERVAL))]
    return found


def kernel_modules(trace: Trace, kernels: Rows) -> list[str]:
    """The modules that these sums of kernels belong to, most time first; what belongs to none is left out."""
    labels = [*module_labels(trace)[:-1], ""]
    return most_first(zip([labels[row] for row in kernels["module"].tolist()], kernels["time"].tolist(), strict=True))

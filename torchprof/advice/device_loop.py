"""For how long devices are busy in a step, which is what findings about kernels are a part of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from torchprof.advice.finding import Worth
from torchprof.advice.loop import LEAST, loop_of
from torchprof.advice.registry import NotTold
from torchprof.analysis.gpu.backend import has_kernels, why_no_kernels
from torchprof.analysis.gpu.gaps import gaps_between
from torchprof.analysis.lines.where import most_first
from torchprof.analysis.model.module_tree import module_labels
from torchprof.analysis.steps import active_steps
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
        time: nanoseconds of one, on average.
    """

    steps: int
    busy: int
    time: int

    def worth(self, high: float, basis: str, *, low: float = 0, measured: bool = True) -> Worth:
        """So many nanoseconds of device time of a step, at most all of it."""
        most = min(round(high), self.busy)
        return Worth("device time", min(round(low), most), most, self.busy, measured, basis)

    def is_small(self, time: float) -> bool:
        """Whether so many nanoseconds of a step are not worth a word: of the device's time, or of a step that it idles in."""
        return time < LEAST * max(self.busy, self.time)


def device_loop_of(trace: Trace) -> DeviceLoop:
    """
    Raises:
        NotTold: the trace has no kernels of a device, or none of an active step.
    """
    if not has_kernels(trace):
        raise NotTold(why_no_kernels(trace))
    loop = loop_of(trace)
    busy = _busy(trace)
    if not busy:
        raise NotTold("no kernel of an active step was recorded")
    return DeviceLoop(loop.steps, busy, loop.time)


def _busy(trace: Trace) -> int:
    active = active_steps(trace)
    if active["busy"].any():
        return int(active["busy"].mean())
    kernels = trace.kernels[(trace.kernels["end"] > trace.kernels["start"]) & (trace.kernels["start"] >= 0)]
    if len(trace.steps) or not len(kernels):
        totals = step_totals(trace)
        return int(totals.kernels["time"].sum()) // totals.steps
    begins, ends, _ = gaps_between(kernels["start"], kernels["end"])
    return int(kernels["end"].max() - kernels["start"].min() - (ends - begins).sum())


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

"""The host waits for the device in the loop, instead of launching ahead of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.idle_of import idle_of
from torchprof.advice.loop import Loop, loop_of
from torchprof.advice.op_sums import lines_of, names_of, of_names, sum_tensors
from torchprof.advice.ops_of import on_host, uses_device
from torchprof.advice.places import Places, per_step
from torchprof.advice.registry import NotTold, rule
from torchprof.advice.waits_of import places_of_waits, waits_of, worth_of_waits
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["synchronizations"]

Ints = npt.NDArray[np.int64]

WAITING = ("aten::_local_scalar_dense", "aten::nonzero")
"""Ops that wait until their input has been computed: ``item()``, ``tolist()``, ``if tensor:``; masks, ``nonzero()``."""
COPY = "aten::copy_"
OFTEN = 1.5
"""Waits in a step, above which it is more than a figure that is looked at once."""
WHY = "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html#avoid-unnecessary-cpu-gpu-synchronization"


@rule("waits of the host for the device, as of .item(), .cpu() and masks")
def synchronizations(trace: Trace) -> Iterator[Finding]:
    """Waits of the host by line, and the idle time of the device that follows; without a device nothing waits."""
    if not uses_device(trace):
        return
    loop = loop_of(trace)
    yield from _of_ops(trace, loop) if is_aggregated(trace) or not len(trace.runtime_calls) else _of_calls(trace, loop)


def _of_calls(trace: Trace, loop: Loop) -> Iterator[Finding]:
    """From the runtime calls that waited."""
    idle = idle_of(trace)
    if idle is None:
        return
    waits = waits_of(trace, idle).others
    worth = worth_of_waits(trace, loop, idle, waits)
    if loop.is_small(worth.high):
        return
    yield _finding(loop, places_of_waits(trace, waits), worth)


def _of_ops(trace: Trace, loop: Loop) -> Iterator[Finding]:
    """From the time of ops that wait, of which it is not known how much they waited."""
    sums = of_names(trace, *WAITING, COPY)
    if not len(sums):
        if not len(trace.ops) and not len(trace.op_totals):
            raise NotTold("neither ops nor calls of the device's runtime were recorded")
        return
    waits = sums[_wait(trace, sums)]
    time = int(waits["time"].sum())
    if loop.is_small(time / loop.steps):
        return
    # At least nothing: it is not known whether the device had anything else to do.
    worth = loop.worth(time / loop.steps, "the time of ops that wait for the device")
    yield _finding(loop, Places.of(names_of(trace, waits), lines_of(trace, waits), waits["time"], waits["count"]), worth)


def _wait(trace: Trace, sums: Rows) -> npt.NDArray[np.bool_]:
    """Which of the ops wait: those that read a tensor of a device, and copies from one to the host."""
    first, second = (on_host(trace, sum_tensors(trace, sums, place)) for place in (0, 1))
    is_copy = np.array([name == COPY for name in names_of(trace, sums)], dtype=np.bool_)
    return np.where(is_copy, first & ~second, ~first)


def _finding(loop: Loop, places: Places, worth: Worth) -> Finding:
    often = places.count > OFTEN * loop.steps
    return Finding(
        "synchronizations",
        f"The host waits for the device {per_step(places.count, loop, 'time')}, for {format_ns(places.time // loop.steps)}",
        "Keep figures on the device, and read them (.item(), .cpu(), print) once in many steps; use torch.where in place of "
        "masks that select, and shapes that do not depend on values."
        if often
        else "Read figures (.item(), .cpu(), print) once in many steps, or of the step before: that one is done.",
        WHY,
        worth,
        lines=places.lines,
        details=places.details(loop),
    )

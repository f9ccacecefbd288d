"""Times and steps of kernels, copies and memsets: the rows of ``trace.kernels``.

A kernel belongs to the step in which its launch began: the runtime call that launched it or, where that was not recorded, the
op that did. Where no op is known either, it belongs to the step in which it started on the device; if another tool recorded it
that was launched before the recording began, to none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.model.callers import callers
from torchprof.analysis.spans import with_descendants
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import Activity, Phase, Rows
from torchprof.trace.streams import launched_before
from torchprof.trace.trace import Trace

__all__ = ["call_kernel_times", "kernel_steps", "kernel_times", "launch_times", "launches_before", "unseen_launches"]

Ints = npt.NDArray[np.int64]


def kernel_times(kernels: Rows) -> Ints:
    """Nanoseconds of every row of ``kernels``; 0 where the end was not recorded, or lies before the start."""
    start, end = kernels["start"], kernels["end"]
    return np.where((end != -1) & (end > start), end - start, 0)


def call_kernel_times(trace: Trace) -> tuple[Ints, Ints, Ints]:
    """For every row of ``module_calls``, the device time of the kernels attributed to it and to the calls it made.

    Returns:
        Device time of forward, of recomputation and of backward.
    """
    call, phase = trace.kernels["module_call"], trace.kernels["phase"]
    backward, again = phase == Phase.BACKWARD, phase == Phase.RECOMPUTATION
    time, made_by = kernel_times(trace.kernels), callers(trace)

    def summed(mask: npt.NDArray[np.bool_]) -> Ints:
        mask = mask & (call >= 0)
        sums = np.bincount(call[mask], weights=time[mask], minlength=len(made_by))
        return with_descendants(sums.astype(np.int64), made_by)

    return summed(~backward & ~again), summed(again), summed(backward)


def launch_times(trace: Trace) -> Ints:
    """When the host began to launch every row of ``kernels``: the start of its runtime call or, without one, of its op.

    -1 where neither is known.
    """
    kernels = trace.kernels
    call, op = kernels["runtime_call"].astype(np.int64), kernels["op"].astype(np.int64)
    of_call = np.append(trace.runtime_calls["start"], -1)[np.where(call >= 0, call, -1)]
    of_op = np.append(trace.ops["start"], -1)[np.where(op >= 0, op, -1)]
    return np.where(call >= 0, of_call, of_op)


def kernel_steps(trace: Trace, active: Rows) -> Ints:
    """The index of the active step that every row of ``kernels`` belongs to; -1 for none."""
    launched = launch_times(trace)
    step = step_of(np.where(launched >= 0, launched, trace.kernels["start"]), trace, active)
    return np.where(_launched_before(trace), -1, step)


def launches_before(trace: Trace) -> int:
    """The number of kernels that were launched before the recording began: they are of no step."""
    return int(_launched_before(trace).sum())


def _launched_before(trace: Trace) -> npt.NDArray[np.bool_]:
    # The sums of an aggregated recording have them, so its single rows do too.
    return launched_before(trace.kernels) if "source" in trace.facts else np.zeros(len(trace.kernels), dtype=np.bool_)


def unseen_launches(trace: Trace) -> int:
    """The number of kernels of active steps whose launch was not recorded, where launches are recorded at all."""
    counted = kernel_steps(trace, active_steps(trace)) >= 0
    return int((counted & (trace.kernels["runtime_call"] < 0) & (trace.kernels["kind"] != Activity.INTERVAL)).sum())

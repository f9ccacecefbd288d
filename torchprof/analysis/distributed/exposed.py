"""How long a rank computed in a step, and how long it did nothing but communicate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchprof.analysis.distributed.collective_names import is_collective_kernel, is_collective_op
from torchprof.analysis.distributed.computing import named_rows, on_cpu
from torchprof.analysis.distributed.intervals import Intervals
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.remembered import remembered
from torchprof.analysis.spans import closed_ends
from torchprof.analysis.steps import active_steps
from torchprof.trace.trace import Trace

__all__ = ["Work", "work_of"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a rank did in its active steps: nanoseconds in all of them; None where that is not known.

    Where devices worked, this is their time: kernels of NCCL and RCCL communicate, all else that runs there computes. On the
    CPU, innermost ops compute, on any thread, and the threads of a backend such as gloo communicate.

    Attributes:
        compute: time in which it computed.
        communication: time in which a collective ran.
        exposed: of that, time in which it computed nothing.
        idle: time in which no device worked; None where none was recorded.
    """

    compute: int | None
    communication: int | None
    exposed: int | None
    idle: int | None


@remembered
def work_of(trace: Trace) -> Work:
    """What the rank of this trace did. An aggregated trace knows how long devices were busy, and no more."""
    steps = active_steps(trace) if len(trace.steps) else None
    if trace.facts.get("aggregate"):
        if steps is None or not (steps["kernels"].any() or steps["busy"].any()):
            return Work(None, None, None, None)
        return Work(None, None, None, int((steps["end"] - steps["start"] - steps["busy"]).sum()))
    if steps is None:
        window = Intervals.of(np.array([0]), np.array([int(trace.facts.get("duration_ns", 0))]))
    else:
        window = Intervals.of(steps["start"], steps["end"])
    if trace.losses.get("kernels") or trace.losses.get("ops"):
        return Work(None, None, None, None)
    if has_kernels(trace):
        sends = named_rows(trace, trace.kernels["name"], is_collective_kernel)
        start, end = trace.kernels["start"], trace.kernels["end"]
        compute, communication = (Intervals.of(start[rows], end[rows]) & window for rows in (~sends, sends))
        exposed = communication.without(compute)
        return Work(compute.length, communication.length, exposed, window.length - compute.length - exposed)
    if not len(trace.ops):
        return Work(None, None, None, None)
    computes, communicates = on_cpu(trace)
    ends = closed_ends(trace, trace.ops)
    compute, communication = (Intervals.of(trace.ops["start"][rows], ends[rows]) & window for rows in (computes, communicates))
    if not communicates.any() and named_rows(trace, trace.op_names, is_collective_op).any():
        return Work(compute.length, None, None, None)  # of a backend whose threads tell nothing
    return Work(compute.length, communication.length, communication.without(compute), None)

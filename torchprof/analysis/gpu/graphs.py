"""CUDA graphs: their launches, and the kernels that they ran."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchprof.analysis.gpu.kernels import kernel_steps, kernel_times
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import RuntimeCallKind
from torchprof.trace.trace import Trace

__all__ = ["Graphs", "cuda_graphs"]


@dataclass(frozen=True, slots=True)
class Graphs:
    """CUDA graphs of active steps.

    Attributes:
        launches: the number of launches.
        unseen: the number of launches of which no kernel was recorded: CUPTI may report no kernels of a graph that was
            captured during an earlier recording.
        kernels, time: the number of kernels that they ran, and nanoseconds of device time.
    """

    launches: int
    unseen: int
    kernels: int
    time: int


def cuda_graphs(trace: Trace) -> Graphs:
    """Launches of CUDA graphs, and the kernels that they ran."""
    active = active_steps(trace)
    calls = np.flatnonzero(trace.runtime_calls["kind"] == RuntimeCallKind.GRAPH_LAUNCH)
    calls = calls[step_of(trace.runtime_calls["start"][calls], trace, active) >= 0]
    unseen = int((~np.isin(calls, trace.kernels["runtime_call"])).sum())
    kernels = trace.kernels[(kernel_steps(trace, active) >= 0) & (trace.kernels["graph"] != 0)]
    return Graphs(len(calls), unseen, len(kernels), int(kernel_times(kernels).sum()))

"""When the busiest device had nothing to run in the active steps, and why: what a host that is in time could gain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.advice.registry import NotTold
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.gpu.devices import devices_and_gaps
from torchprof.analysis.gpu.kernels import kernel_steps
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps
from torchprof.trace.trace import Trace

__all__ = ["DeviceIdle", "check_kernels", "idle_of"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DeviceIdle:
    """The gaps of a device that ended with a kernel of an active step: one value for each in the arrays, in nanoseconds.

    Attributes:
        device: its name.
        begin, end: from the start of its first kernel of the active steps to the end of its last.
        busy: nanoseconds in between in which it ran anything.
        kernels: how many of the active steps it ran.
        kernel: the row of ``trace.kernels`` that ended the gap.
        wait: the row of ``trace.runtime_calls`` in which the host waited; -1: it did not.
        data: the row of ``trace.ops`` with the first wait for data; -1: there was none.
        launch_bound: because the host was late to launch, and waited neither for data nor for the device.
        for_data: because it waited for data.
        synchronization: because it waited for the device.
    """

    device: str
    begin: int
    end: int
    busy: int
    kernels: int
    kernel: Ints
    wait: Ints
    data: Ints
    launch_bound: Ints
    for_data: Ints
    synchronization: Ints


def check_kernels(trace: Trace) -> None:
    """
    Raises:
        NotTold: the trace has no single kernels.
    """
    if is_aggregated(trace) and has_kernels(trace):
        raise NotTold("the recording was aggregated, which keeps no gaps between kernels")
    if not len(trace.kernels):
        raise NotTold("no kernels of the device were recorded")


@remembered
def idle_of(trace: Trace) -> DeviceIdle | None:
    """Of the device that was busy for the longest; None where none ran anything in the active steps."""
    devices = devices_and_gaps(trace)
    if not devices:
        return None
    device, gaps = max(devices, key=lambda each: each[0].busy)
    kept = np.flatnonzero(kernel_steps(trace, active_steps(trace))[gaps.kernel] >= 0)
    launch_bound, data, synchronization, _ = gaps.parts[:, kept]
    return DeviceIdle(
        device.name,
        device.start,
        device.start + device.span,
        device.busy,
        device.kernels,
        gaps.kernel[kept],
        gaps.wait[kept],
        gaps.data[kept],
        launch_bound,
        data,
        synchronization,
    )

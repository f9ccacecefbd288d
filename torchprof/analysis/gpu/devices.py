"""How busy every device was, and the gaps in which it was idle.

The span of a device is the time from the start of its first kernel of the active steps to the end of its last. All that it ran
in its span counts as busy, also for other steps. Kernels without valid times are counted, and take no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.device_names import device_name
from torchprof.analysis.gpu.gaps import CAUSES, Gaps, gaps_between, split_gaps
from torchprof.analysis.gpu.kernels import kernel_steps, kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.steps import active_steps
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["Device", "Stream", "devices_and_gaps"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of a device: the number of kernels it ran, and the nanoseconds in which it ran any."""

    number: int
    kernels: int
    busy: int


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Attributes:
        name: as in ``cuda:0``.
        kernels: the number of kernels, copies and memsets of the active steps.
        start, span: when the first of them started, and nanoseconds from then to the end of the last.
        busy: nanoseconds of the span in which any stream ran anything.
        idle: the rest of the span, by cause: see ``torchprof.analysis.gpu.gaps``.
        streams: its streams.
    """

    name: str
    kernels: int
    start: int
    span: int
    busy: int
    idle: dict[str, int]
    streams: tuple[Stream, ...]


def devices_and_gaps(trace: Trace) -> list[tuple[Device, Gaps]]:
    """Every device that ran a kernel of an active step, with its gaps."""
    kernels = trace.kernels
    time = kernel_times(kernels)
    counted = np.flatnonzero(kernel_steps(trace, active_steps(trace)) >= 0)
    groups = Groups.by([kernels["device_type"][counted], kernels["device_index"][counted]])
    found = []
    for group, first in enumerate(counted[groups.first].tolist()):
        device_type, index = int(kernels["device_type"][first]), int(kernels["device_index"][first])
        own = counted[groups.of == group]
        timed = own[time[own] > 0]
        if not len(timed):
            continue
        begin, end = int(kernels["start"][timed].min()), int(kernels["end"][timed].max())
        on_device = (kernels["device_type"] == device_type) & (kernels["device_index"] == index) & (time > 0)
        rows = np.flatnonzero(on_device & (kernels["end"] > begin) & (kernels["start"] < end))
        starts, ends = np.maximum(kernels["start"][rows], begin), np.minimum(kernels["end"][rows], end)
        gap_starts, gap_ends, after = gaps_between(starts, ends)
        gaps = split_gaps(trace, gap_starts, gap_ends, rows[after])
        idle = {cause: int(part.sum()) for cause, part in zip(CAUSES, gaps.parts, strict=True)}
        span = end - begin
        streams = _streams(kernels["stream"][own], kernels["stream"][rows], starts, ends)
        device = Device(device_name(trace, device_type, index), len(own), begin, span, span - sum(idle.values()), idle, streams)
        found.append((device, gaps))
    return found


def _streams(of_kernels: Rows, of_intervals: Rows, starts: Ints, ends: Ints) -> tuple[Stream, ...]:
    """The streams of a device.

    Args:
        of_kernels: the stream of every kernel that counts.
        of_intervals, starts, ends: the stream and the times of everything that ran in the span.
    """
    streams = []
    for number, count in zip(*np.unique(of_kernels, return_counts=True), strict=True):
        on_stream = of_intervals == number
        streams.append(Stream(int(number), int(count), _covered(starts[on_stream], ends[on_stream])))
    return tuple(streams)


def _covered(start: Ints, end: Ints) -> int:
    """Nanoseconds that lie in any of these intervals."""
    if not len(start):
        return 0
    gap_starts, gap_ends, _ = gaps_between(start, end)
    return int(end.max() - start.min() - (gap_ends - gap_starts).sum())

"""Gaps: when a device had nothing to run, and why.

A device is busy while any of its streams runs anything; the rest of its span is gaps. A gap ends when the next kernel starts.
The host began to launch that kernel when its runtime call began (where that was not recorded: its op). The time of a gap is

    launch-bound      if the launch began when the queue of the device was already empty: the host was too slow;
    data              the part of such a gap in which the thread that launched was in `Phase.DATA`: in ``next()`` of a
                      ``DataLoader``, or in `torchprof.data`;
    synchronization   of what is left of such a gap, as much as the host had spent waiting for a device: in waits that began
                      before the launch, and ended when the queue was empty or later. Without them it would have launched that
                      much earlier;
    other             if the launch began in time: the kernel waited for another stream, or took its time to start; or if it is
                      not known when the launch began.

Times of the host and of devices agree to within ``facts["gpu_clock_error_ns"]``: a shorter gap may get the wrong cause. A wait
that ended less than this before the queue was empty counts as one that ended then. Waits of threads that recorded nothing else
do not count: they do not block the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.data_waits import launching_threads, waited_for_data
from torchprof.analysis.gpu.kernels import launch_times
from torchprof.analysis.gpu.waits import waiting_calls
from torchprof.analysis.spans import merged
from torchprof.trace.schema import NO_THREAD
from torchprof.trace.trace import Trace

__all__ = ["CAUSES", "Gaps", "gaps_between", "split_gaps"]

Ints = npt.NDArray[np.int64]

CAUSES: Final = ("launch-bound", "data", "synchronization", "other")


@dataclass(frozen=True, slots=True)
class Gaps:
    """The gaps of a device: one value for each in every attribute.

    Attributes:
        start, end: nanoseconds since the start of the recording.
        kernel: the row of ``trace.kernels`` whose start ended the gap.
        data: the row of ``trace.ops`` with the first wait for data; -1 where there is none.
        wait: the row of ``trace.runtime_calls`` with the first wait of the host; -1 where it did not wait.
        parts: nanoseconds by cause, ``[4, n]`` in the order of ``CAUSES``; they add up to the gap.
    """

    start: Ints
    end: Ints
    kernel: Ints
    data: Ints
    wait: Ints
    parts: Ints


def gaps_between(start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """The times that lie in none of these intervals: starts and ends of the gaps, and the row of the interval after each."""
    order = np.argsort(start, kind="stable")
    start, latest = start[order], np.maximum.accumulate(end[order])
    after_gap = np.flatnonzero(start[1:] > latest[:-1]) + 1
    return latest[after_gap - 1], start[after_gap], order[after_gap]


def split_gaps(trace: Trace, start: Ints, end: Ints, kernel: Ints) -> Gaps:
    """Gaps of a device by cause.

    Args:
        start, end, kernel: as in `Gaps`.
    """
    gap = end - start
    launched = launch_times(trace)[kernel]
    queue_empty = (launched >= 0) & (launched > start)
    for_data, data = waited_for_data(trace, launching_threads(trace, kernel), start, np.minimum(launched, end))
    for_data = np.where(queue_empty, for_data, 0)
    waited, wait = _waited(trace, start, launched)
    synchronization = np.where(queue_empty, np.minimum(gap - for_data, waited), 0)
    launch_bound = np.where(queue_empty, gap - for_data - synchronization, 0)
    parts = np.stack([launch_bound, for_data, synchronization, np.where(queue_empty, 0, gap)])
    return Gaps(start, end, kernel, np.where(for_data > 0, data, -1), np.where(synchronization > 0, wait, -1), parts)


def _waited(trace: Trace, empty: Ints, launched: Ints) -> tuple[Ints, Ints]:
    """How long the host had waited before these launches in waits that ended when the queue was empty or later.

    Returns:
        Nanoseconds, and the row of the first of these waits, -1 for none.
    """
    rows = waiting_calls(trace)
    rows = rows[trace.runtime_calls["thread"][rows] != NO_THREAD]
    starts, ends, first_rows = merged(trace.runtime_calls["start"][rows], trace.runtime_calls["end"][rows])
    up_to = np.append(0, np.cumsum(ends - starts))
    first = np.searchsorted(ends, empty - int(trace.facts.get("gpu_clock_error_ns", 0)), side="left")
    last = np.maximum(first, np.searchsorted(starts, launched, side="left"))
    row = np.append(rows[first_rows], -1)[first]
    return up_to[last] - up_to[first], np.where(last > first, row, -1)

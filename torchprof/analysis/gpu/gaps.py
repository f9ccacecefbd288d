"""When a device had nothing to do, and why.

A device is busy while any of its streams runs anything; the rest of its span are gaps. A gap ends when a kernel starts: the
late one. The host asked for it when its runtime call began (where that was not seen: its op). The time of a gap is

    launch-bound      if the host asked when the device had run dry already: it was too slow in asking;
    synchronization   of such a gap, as much as the host had waited for a device: in waits that lasted until the device ran dry
                      or longer and began before the host asked. Had they returned at once, it would have asked that much
                      earlier. Never more than the gap;
    other             if the host had asked in time: the kernel waited for another stream, or took its time to start; or if
                      it is not known when the host asked.

Times of the host and of devices are known to ``facts["gpu_clock_error_ns"]`` on one axis: a gap shorter than that may be put
down to the wrong cause. A wait that ended so shortly before the device ran dry is taken to have lasted until then.

A wait is a runtime call that returns when a device is done (``RuntimeCallKind.SYNCHRONIZE``), one that allocates memory from
the driver or frees it (``RuntimeCallKind.MEMORY``: these hold up the host, and many wait for the device), or a copy that
returned no earlier than its copy was over. Waits of threads of which nothing else was recorded hold up nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernels import launch_times
from torchprof.trace.schema import NO_THREAD, Activity, RuntimeCallKind
from torchprof.trace.trace import Trace

__all__ = ["CAUSES", "Gaps", "gaps_between", "split_gaps", "waiting_calls"]

Ints = npt.NDArray[np.int64]

CAUSES: Final = ("launch-bound", "synchronization", "other")


@dataclass(frozen=True, slots=True)
class Gaps:
    """One value for each gap.

    Attributes:
        start, end: nanoseconds since the start of the recording.
        kernel: the row of ``trace.kernels`` that started late.
        wait: the row of ``trace.runtime_calls`` that the host waited in, the first of them; -1 if it did not.
        parts: nanoseconds by cause, ``[3, n]`` in the order of ``CAUSES``; they add up to the gap.
    """

    start: Ints
    end: Ints
    kernel: Ints
    wait: Ints
    parts: Ints


def gaps_between(start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """Where none of these intervals is: starts and ends of the gaps, and the row of the interval that ends each."""
    order = np.argsort(start, kind="stable")
    start, latest = start[order], np.maximum.accumulate(end[order])
    late = np.flatnonzero(start[1:] > latest[:-1]) + 1
    return latest[late - 1], start[late], order[late]


def split_gaps(trace: Trace, start: Ints, end: Ints, kernel: Ints) -> Gaps:
    """Gaps of a device by cause.

    Args:
        start, end, kernel: as in `Gaps`.
    """
    gap = end - start
    asked = launch_times(trace)[kernel]
    late = (asked >= 0) & (asked > start)
    waited, wait = _waited(trace, start, asked)
    synchronization = np.where(late, np.minimum(gap, waited), 0)
    launch_bound = np.where(late, gap - synchronization, 0)
    parts = np.stack([launch_bound, synchronization, np.where(late, 0, gap)])
    return Gaps(start, end, kernel, np.where(synchronization > 0, wait, -1), parts)


def waiting_calls(trace: Trace) -> Ints:
    """The rows of ``trace.runtime_calls`` in which the host waited for a device."""
    calls, kernels = trace.runtime_calls, trace.kernels
    copies = kernels[(kernels["kind"] == Activity.COPY) & (kernels["runtime_call"] >= 0) & (kernels["end"] != -1)]
    over = np.full(len(calls), np.iinfo(np.int64).max)
    over[copies["runtime_call"]] = copies["end"]
    waited = np.isin(calls["kind"], [RuntimeCallKind.SYNCHRONIZE, RuntimeCallKind.MEMORY])
    waited |= (calls["kind"] == RuntimeCallKind.COPY) & (calls["end"] >= over)
    return np.flatnonzero(waited & (calls["end"] > calls["start"]))


def _waited(trace: Trace, dry: Ints, asked: Ints) -> tuple[Ints, Ints]:
    """How long the host had waited in waits that lasted until a device ran dry, and began before it asked; and the first."""
    rows = waiting_calls(trace)
    rows = rows[trace.runtime_calls["thread"][rows] != NO_THREAD]
    begins, ends, firsts = _united(trace.runtime_calls["start"][rows], trace.runtime_calls["end"][rows])
    up_to = np.append(0, np.cumsum(ends - begins))
    first = np.searchsorted(ends, dry - int(trace.facts.get("gpu_clock_error_ns", 0)), side="left")
    last = np.maximum(first, np.searchsorted(begins, asked, side="left"))
    row = np.append(rows[firsts], -1)[first]
    return up_to[last] - up_to[first], np.where(last > first, row, -1)


def _united(start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """Intervals that overlap as one: starts, ends, and the row that began first."""
    if not len(start):
        none = np.zeros(0, dtype=np.int64)
        return none, none, none
    order = np.argsort(start, kind="stable")
    latest = np.maximum.accumulate(end[order])
    first = np.append(0, np.flatnonzero(start[order][1:] > latest[:-1]) + 1)
    return start[order][first], latest[np.append(first[1:], len(order)) - 1], order[first]

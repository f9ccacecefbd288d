"""Memory over a window of a trace, from PyTorch's own reports of what was handed out and given back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchprof.trace.schema import DEVICE_NAMES, Rows
from torchprof.trace.trace import Trace

__all__ = ["MemoryWindow", "memory_between", "real_and_meta"]

META = DEVICE_NAMES.index("meta")


@dataclass(frozen=True, slots=True)
class MemoryWindow:
    """What happened to memory between two moments, in bytes.

    Attributes:
        allocated: sum of everything handed out.
        peak: the most that was held at once beyond what was held at the start; at least 0.
        kept: what was still held at the end beyond what was held at the start; negative when more was freed.
    """

    allocated: int
    peak: int
    kept: int


def memory_between(allocations: Rows, start: int, end: int) -> MemoryWindow:
    """What happened from ``start`` on and before ``end``, in nanoseconds, to these rows of ``trace.allocations``."""
    times, changes = changes_of(allocations)
    inside = (times >= start) & (times < end)
    changes = changes[inside]
    held = np.cumsum(changes)
    return MemoryWindow(
        allocated=int(changes[changes > 0].sum()),
        peak=max(0, int(held.max(initial=0))),
        kept=int(held[-1]) if len(held) else 0,
    )


def changes_of(allocations: Rows) -> tuple[Rows, Rows]:
    """When memory was handed out (positive bytes) and given back (negative), in order of time."""
    born = allocations[allocations["start"] >= 0]
    died = allocations[allocations["end"] >= 0]
    times = np.concatenate([died["end"], born["start"]])
    changes = np.concatenate([-died["bytes"], born["bytes"]])
    order = np.argsort(times, kind="stable")
    return times[order], changes[order]


def real_and_meta(trace: Trace) -> tuple[Rows, Rows]:
    """The allocations on real devices, and those of ``meta`` tensors, which stand for memory but take none."""
    meta = trace.allocations["device_type"] == META
    return trace.allocations[~meta], trace.allocations[meta]

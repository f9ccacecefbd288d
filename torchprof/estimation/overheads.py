"""Memory that is not the program's own: workspaces that libraries keep, and what CUDA takes for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["Overhead", "with_overheads"]


@dataclass(frozen=True, slots=True)
class Overhead:
    """Memory that is not the program's own.

    Attributes:
        name, bytes, source: what it is, how much, and where that is known from.
        reserved: whether it comes from PyTorch's allocator, and is part of what is allocated and reserved.
        taken_at: of what comes from there, the rows of the trace's ops at which equal parts of it are allocated, and kept.
        at_least, at_most: the range that it is known to be in, in bytes, where it is not known exactly; None: it is.
    """

    name: str
    bytes: int
    source: str
    reserved: bool
    taken_at: tuple[int, ...] = ()
    at_least: int | None = None
    at_most: int | None = None


def with_overheads(trace: Trace, allocations: Rows, overheads: Sequence[Overhead]) -> Rows:
    """The allocations, and among them those of the overheads: after the results of the op that takes them."""
    taken = [(overhead.bytes // len(overhead.taken_at), op) for overhead in overheads for op in overhead.taken_at]
    extra = np.zeros(len(taken), dtype=allocations.dtype)
    if len(allocations):
        extra["device_type"], extra["device_index"] = allocations[0]["device_type"], allocations[0]["device_index"]
    extra["end"] = -1
    for row, (size, op) in enumerate(taken):
        results = allocations["start"][allocations["op"] == op]
        extra[row]["bytes"], extra[row]["start"] = size, results.max(initial=trace.ops["start"][op])
    return np.concatenate([allocations, extra])

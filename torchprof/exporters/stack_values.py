"""What stacks add up, and its values: one for every op and module call, or for every block of memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.on_device import rows_on
from torchprof.analysis.model.flops import counted_bytes, counted_flops
from torchprof.analysis.time.self_times import self_times
from torchprof.trace.schema import OP_NESTED, OP_WRAPPER
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["MEMORY", "UNITS", "VALUES", "Blocks", "blocks"]

Ints = npt.NDArray[np.int64]

UNITS: Final = {
    "time": "nanoseconds",
    "device": "nanoseconds",
    "flops": "none",
    "bytes": "bytes",
    "allocated": "bytes",
    "peak": "bytes",
}
"""What the values of stacks may be, and their units as speedscope names them."""
MEMORY: Final = ("allocated", "peak")
"""Those of blocks of memory."""


class Blocks(NamedTuple):
    """Blocks of memory.

    Attributes:
        rows: of ``trace.allocations``.
        bytes: of each.
        before: for those that were there before the recording, what they are; empty for others.
        untracked: bytes that the device's allocator had beyond all recorded blocks.
    """

    rows: Ints
    bytes: Ints
    before: list[str]
    untracked: int


def blocks(trace: Trace, by: str, device: str | None) -> Blocks:
    """The blocks that were allocated on a device while recording, or that were held when the most was.

    Args:
        by: ``"allocated"`` or ``"peak"``.
        device: as for `torchprof.memory`.

    Raises:
        ArgumentError: as `torchprof.memory`.
    """
    account = MemoryAccount.of(trace, device)
    rows = rows_on(trace, account.device)
    began = account.allocations["start"] >= 0
    kept = np.flatnonzero(account.held_at_peak if by == "peak" else began)
    before = ["" if began[row] else CATEGORIES[int(account.category[row])] for row in kept.tolist()]
    untracked = account.untracked if by == "peak" else 0
    return Blocks(rows[kept], account.allocations["bytes"][kept], before, untracked)


def _flops(trace: Trace) -> tuple[Ints, Ints]:
    flops = counted_flops(trace, trace.ops["signature"], trace.ops["flags"] & OP_NESTED != 0)
    return flops, np.zeros(len(trace.module_calls), dtype=np.int64)


def _bytes(trace: Trace) -> tuple[Ints, Ints]:
    flags = trace.ops["flags"]
    moved = counted_bytes(trace, trace.ops["signature"], flags & OP_NESTED != 0, flags & OP_WRAPPER != 0)
    unknown = np.isnan(moved)
    if unknown.any():
        warnings.warn(
            f"the bytes of {counted(int(unknown.sum()), 'op')} are unknown, and left out: the trace does not know the size of "
            "the dtypes",
            RuntimeWarning,
            stacklevel=4,
        )
    known: Ints = np.where(unknown, 0, moved).astype(np.int64)
    return known, np.zeros(len(trace.module_calls), dtype=np.int64)


VALUES: Final[dict[str, Callable[[Trace], tuple[Ints, Ints]]]] = {
    "time": self_times,
    "flops": _flops,
    "bytes": _bytes,
}
"""The values of every op and of every module call."""

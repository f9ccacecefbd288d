"""What of every allocation is shown by line: whether it was held at the peak, saved for backward, or leaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.leaks import grown_places, why_unknown
from torchprof.analysis.memory.on_device import rows_on
from torchprof.analysis.memory.steps import held_at_ends, memory_is_known
from torchprof.errors import ArgumentError
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["MemoryCosts", "memory_costs"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MemoryCosts:
    """Allocations on the device of the account of memory, one value for each.

    Attributes:
        device: of which the memory is.
        steps: rows of ``trace.steps``; None where it cannot be told what leaks.
        rows: of ``trace.allocations``.
        allocations: these rows.
        at_peak: whether it was held at the peak.
        saved: whether it was an activation kept for backward, when the most were kept; None where that is not known.
    """

    device: str
    steps: Rows | None
    rows: Ints
    allocations: Rows
    at_peak: Flags
    saved: Flags | None

    def grown(self, place: Ints) -> dict[int, tuple[int, float]]:
        """What leaks: by place, the bytes held at the end of the last step, and how many more in every step.

        Args:
            place: of every allocation.
        """
        if self.steps is None:
            return {}
        first, last = held_at_ends(self.steps, self.allocations)
        places = place.tolist()
        found = grown_places(first, last, self.allocations["bytes"], len(self.steps), places.__getitem__)
        return {grown.place: (grown.bytes, grown.growth) for grown in found if grown.keeps_growing}


def memory_costs(trace: Trace) -> MemoryCosts | None:
    """The allocations of a trace; None where it has none."""
    if not memory_is_known(trace) or not len(trace.allocations):
        return None
    try:
        account = MemoryAccount.of(trace)
    except ArgumentError:  # it says why: the trace has no single allocations
        return None
    rows = rows_on(trace, account.device)
    saved = account.saved if account.saved_unknown is None else None
    steps = trace.steps if why_unknown(trace) is None else None
    return MemoryCosts(account.device, steps, rows, account.allocations, account.held_at_peak, saved)

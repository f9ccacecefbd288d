"""The rows of a trace that are of one device, and what every account of its memory needs of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.device_names import on_device
from torchprof.analysis.memory.categories import categories
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.memory.modules import AllocationModules
from torchprof.analysis.remembered import remembered
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["allocations_on", "categories_on", "changes_on", "modules_on", "rows_on", "totals_on"]


@remembered
def rows_on(trace: Trace, device: str) -> npt.NDArray[np.int64]:
    """Which rows of ``trace.allocations`` are on the device with this name."""
    return np.flatnonzero(on_device(trace, trace.allocations, device))


@remembered
def allocations_on(trace: Trace, device: str) -> Rows:
    """The rows of ``trace.allocations`` on the device with this name."""
    return _rows(trace, trace.allocations, device)


@remembered
def totals_on(trace: Trace, device: str) -> Rows:
    """The rows of ``trace.allocator_totals`` of the device with this name."""
    return _rows(trace, trace.allocator_totals, device)


@remembered
def categories_on(trace: Trace, device: str) -> npt.NDArray[np.int64]:
    """The category of each of `allocations_on`."""
    found = categories(trace, allocations_on(trace, device))
    found.flags.writeable = False
    return found


@remembered
def changes_on(trace: Trace, device: str) -> Changes:
    """`allocations_on` in order of time."""
    return Changes(allocations_on(trace, device))


@remembered
def modules_on(trace: Trace, device: str) -> AllocationModules:
    """The modules of `allocations_on`."""
    return AllocationModules.of(trace, allocations_on(trace, device))


def _rows(trace: Trace, table: Rows, device: str) -> Rows:
    mask = on_device(trace, table, device)
    rows: Rows = table if mask.all() else table[mask]
    rows.flags.writeable = False
    return rows

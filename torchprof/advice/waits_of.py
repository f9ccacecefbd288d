"""Waits of the host for the device in the active steps: those of copies to the device, and all others.

Calls that allocate memory from the driver or free it wait as well. They are no matter of synchronization, but of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.advice.finding import Worth
from torchprof.advice.idle_of import DeviceIdle
from torchprof.advice.loop import Loop
from torchprof.advice.places import Places
from torchprof.analysis.gpu.waits import outermost_ops, waiting_calls
from torchprof.analysis.lines.where import lines_of_launches
from torchprof.analysis.lookups import names_of_ops
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.schema import Activity, Direction, RuntimeCallKind
from torchprof.trace.trace import Trace

__all__ = ["HostWaits", "places_of_waits", "waits_of", "worth_of_waits"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HostWaits:
    """Rows of ``trace.runtime_calls`` in which the host waited.

    Attributes:
        to_device: for a copy to the device.
        others: until the device was done, or for a copy from it.
    """

    to_device: Ints
    others: Ints


def waits_of(trace: Trace, idle: DeviceIdle) -> HostWaits:
    """The waits while the device had begun to work for the active steps, and was not yet done: others delay nothing."""
    calls, kernels = trace.runtime_calls, trace.kernels
    rows = waiting_calls(trace)
    rows = rows[calls["kind"][rows] != RuntimeCallKind.MEMORY]
    rows = rows[step_of(calls["start"][rows], trace, active_steps(trace)) >= 0]
    rows = rows[(calls["end"][rows] > idle.begin) & (calls["end"][rows] < idle.end)]
    copies = kernels[(kernels["kind"] == Activity.COPY) & (kernels["direction"] == Direction.HOST_TO_DEVICE)]
    by_call = np.isin(rows, copies["runtime_call"])
    op = calls["op"][rows]
    by_op = (op >= 0) & np.isin(op, copies["op"])
    is_to_device = by_call | by_op
    return HostWaits(rows[is_to_device], rows[~is_to_device])


def worth_of_waits(trace: Trace, loop: Loop, idle: DeviceIdle, waits: Ints) -> Worth:
    """What it is worth that the host does not wait there.

    At least the gaps that began while it waited. At most it is ahead of the device by as much as it waited, which also fills
    gaps that come later; but never more than there are.
    """
    calls = trace.runtime_calls
    waited = int((calls["end"][waits] - calls["start"][waits]).sum())
    low = int(idle.synchronization[np.isin(idle.wait, waits)].sum())
    gaps = sum(int(part.sum()) for part in (idle.synchronization, idle.launch_bound, idle.for_data))
    high = max(low, min(waited, gaps))
    return loop.worth(high / loop.steps, "idle time of the device that followed from it", low=low / loop.steps)


def places_of_waits(trace: Trace, waits: Ints) -> Places:
    """Where the host waited: what the program called, or the runtime call where it called no op; each op counts once."""
    calls = trace.runtime_calls[waits]
    op = calls["op"].astype(np.int64)
    names = names_of_ops(trace, outermost_ops(trace, op))
    whats = [trace.strings[name] for name in np.where(names >= 0, names, calls["name"].astype(np.int64)).tolist()]
    is_first = np.ones(len(op), dtype=np.bool_)
    of_ops = np.flatnonzero(op >= 0)
    is_first[of_ops] = False
    is_first[of_ops[np.unique(op[of_ops], return_index=True)[1]]] = True
    return Places.of(whats, lines_of_launches(trace, calls), calls["end"] - calls["start"], is_first.astype(np.int64))

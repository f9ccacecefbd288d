"""What Python was running at a time between two ops: what is in the stack of both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lines.common_stacks import common_stacks
from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.trace.schema import NO_THREAD, Rows
from torchprof.trace.trace import Trace

__all__ = ["running_at_launches", "running_between"]

Ints = npt.NDArray[np.int64]


def running_at_launches(trace: Trace, rows: Rows, of_ops: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """What was running when these kernels or runtime calls were launched: the stack of the op that did.

    Without one, as for ``torch.cuda.synchronize()``, it is what was running at the op before and at the op after it, or else
    the stack of the module call around.

    Args:
        of_ops: the stack of every op.

    Returns:
        As `running_between`.
    """
    stack = np.where(rows["op"] >= 0, np.append(of_ops, -1)[rows["op"]], -1)
    is_line = np.ones(len(rows), dtype=np.bool_)
    without = np.flatnonzero(stack < 0)
    calls = rows[without]
    if "runtime_call" in (rows.dtype.names or ()):  # kernels, which run later
        calls = np.append(trace.runtime_calls, np.zeros(1, dtype=trace.runtime_calls.dtype))[calls["runtime_call"]]
        calls["thread"][rows["runtime_call"][without] < 0] = NO_THREAD
    stack[without], is_line[without] = running_between(trace, calls["thread"], calls["start"])
    call = np.append(trace.call_stacks.astype(np.int64), -1)[rows["module_call"]]
    return np.where(stack >= 0, stack, call), is_line | (stack < 0)


def running_between(trace: Trace, threads: Ints, times: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """For each of these times of a thread, the innermost function in the stacks of the op before and of the op after it.

    Returns:
        Rows of ``trace.stacks``, -1: not known; and whether the line of the row was running at both, or only its function.
    """
    ops, own = trace.ops, op_stacks(trace).own
    before, after = np.full(len(times), -1), np.full(len(times), -1)
    for thread in np.unique(threads).tolist():
        rows = np.flatnonzero((ops["thread"] == thread) & (own >= 0))
        if len(rows):
            rows = rows[np.argsort(ops["start"][rows], kind="stable")]
            wanted = np.flatnonzero(threads == thread)
            at = np.searchsorted(ops["start"][rows], times[wanted], side="right")
            before[wanted] = np.where(at > 0, own[rows[at - 1]], -1)
            after[wanted] = np.append(own[rows], -1)[at]
    row, later = common_stacks(trace, before, after)
    return row, (row == later) & (row >= 0)

"""Self times of ops and of module calls, nested in each other: they add up to the time that was recorded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.crossing import crossing_ranges
from torchprof.analysis.spans import closed_ends
from torchprof.trace.schema import OP_ATTRIBUTED
from torchprof.trace.trace import Trace

__all__ = ["nested_self_times"]

Ints = npt.NDArray[np.int64]


def nested_self_times(trace: Trace) -> tuple[Ints, Ints]:
    """Nanoseconds of every op and of every module call, each without the ops and calls directly inside it.

    Of the op and the call that something ran in, the call is the inner one if it began inside that op. Where user ranges do not
    nest, a moment belongs to the one that began last.
    """
    ops, calls = trace.ops, trace.module_calls
    op_ends, call_ends = closed_ends(trace, ops), closed_ends(trace, calls)
    op_durations, call_durations = op_ends - ops["start"], call_ends - calls["start"]
    call_around = _calls_around(trace, op_ends, call_ends)
    op_self, call_self = op_durations.copy(), call_durations.copy()
    for durations, op, call in ((op_durations, ops["parent"], call_around), (call_durations, calls["op"], calls["parent"])):
        in_call = (call >= 0) & (calls["op"][call] == op) if len(calls) else np.zeros(len(call), dtype=np.bool_)
        in_op = ~in_call & (op >= 0)
        np.subtract.at(call_self, call[in_call], durations[in_call])
        np.subtract.at(op_self, op[in_op], durations[in_op])
    for thread in np.unique(ops["thread"][crossing_ranges(trace, op_ends, call_ends)]):
        _follow(trace, int(thread), op_ends, call_ends, op_self, call_self)
    return op_self, call_self


def _follow(trace: Trace, thread: int, op_ends: Ints, call_ends: Ints, op_self: Ints, call_self: Ints) -> None:
    """Find the self times of one thread moment by moment: slower, and right whatever is open when something ends."""
    spans: list[tuple[int, int, int, int, Ints]] = []
    for order, (rows, ends, own) in enumerate(((trace.module_calls, call_ends, call_self), (trace.ops, op_ends, op_self))):
        for row in np.flatnonzero(rows["thread"] == thread).tolist():
            own[row] = 0
            # At one time, a call comes before the ops inside it, but after the op that it was made in.
            after = order if order or rows["op"][row] < 0 else 2
            spans.append((int(rows["start"][row]), after, row, int(ends[row]), own))
    spans.sort(key=lambda span: span[:3])
    now = 0
    open_spans: list[tuple[int, int, Ints]] = []  # end, row and where its self time is
    for start, _, row, end, own in (*spans, (np.iinfo(np.int64).max, 0, -1, 0, op_self)):
        while open_spans:
            until, innermost, of_innermost = open_spans[-1]
            of_innermost[innermost] += max(0, min(start, until) - now)
            now = max(now, min(start, until))
            if until > start:
                break
            open_spans.pop()
        now = max(now, start)
        open_spans.append((end, row, own))


def _calls_around(trace: Trace, op_ends: Ints, call_ends: Ints) -> Ints:
    """For every op, the module call that it ran in.

    The ``module_call`` of an attributed op is another one, so the call around it is found by time.
    """
    ops, calls = trace.ops, trace.module_calls
    found: Ints = ops["module_call"].astype(np.int64)
    attributed = np.flatnonzero((ops["flags"] & OP_ATTRIBUTED) != 0)
    for thread in np.unique(ops["thread"][attributed]):
        rows = attributed[ops["thread"][attributed] == thread]
        of_thread = np.flatnonzero(calls["thread"] == thread)
        of_thread = np.append(of_thread[np.argsort(calls["start"][of_thread], kind="stable")], -1)
        call = of_thread[np.searchsorted(calls["start"][of_thread[:-1]], ops["start"][rows], side="right") - 1]
        while (ended := (call >= 0) & (call_ends[call] < op_ends[rows]) if len(calls) else call >= 0).any():
            call = np.where(ended, calls["parent"][call], call)
        found[rows] = call
    return found

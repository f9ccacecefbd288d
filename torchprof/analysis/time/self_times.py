"""Self times of ops and of module calls, nested in each other: they add up to the time that was recorded.

A range around the autograd engine has none while that works on threads of its own: see `engine_waits`.

A step may end while an op or a call is open: the range around the step of an optimizer, whose end ends the step, or a range of
the user's own around the whole loop. Of these, only what lies in the step that they began in is of that step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.crossing import crossing_ranges
from torchprof.analysis.spans import closed_ends, latest_before, sum_by
from torchprof.analysis.steps import end_of_step
from torchprof.analysis.time.engine_waits import engine_waits
from torchprof.trace.schema import OP_ATTRIBUTED, Rows
from torchprof.trace.trace import Trace

__all__ = ["calls_around", "nested_self_times", "self_times", "self_times_in_steps"]

Ints = npt.NDArray[np.int64]


def nested_self_times(trace: Trace) -> tuple[Ints, Ints]:
    """Nanoseconds of every op and of every module call, each without the ops and calls directly inside it, on its own thread.

    Of the op and the call that something ran in, the call is the inner one if it began inside that op. Where user ranges do not
    nest, a moment belongs to the one that began last.
    """
    ops, calls = trace.ops, trace.module_calls
    op_ends, call_ends = closed_ends(trace, ops), closed_ends(trace, calls)
    op_durations, call_durations = op_ends - ops["start"], call_ends - calls["start"]
    op_self, call_self = op_durations.copy(), call_durations.copy()
    for durations, (op, call) in zip((op_durations, call_durations), _parents(trace, op_ends, call_ends), strict=True):
        call_self -= sum_by(call, durations, len(calls))
        op_self -= sum_by(op, durations, len(ops))
    for thread in np.unique(ops["thread"][crossing_ranges(trace, op_ends, call_ends)]):
        _follow(trace, int(thread), op_ends, call_ends, op_self, call_self)
    return op_self, call_self


def self_times(trace: Trace) -> tuple[Ints, Ints]:
    """The same, without what a thread only waited for the autograd engine."""
    op_self, call_self = nested_self_times(trace)
    return op_self - engine_waits(trace, closed_ends(trace, trace.ops), closed_ends(trace, trace.module_calls)), call_self


def self_times_in_steps(trace: Trace) -> tuple[Ints, Ints]:
    """The same, of what began in an active step without what is after the end of that step. So they add up to the steps."""
    op_self, call_self = nested_self_times(trace)
    ops, calls = trace.ops, trace.module_calls
    op_ends, call_ends = closed_ends(trace, ops), closed_ends(trace, calls)
    op_until, call_until = end_of_step(ops["start"], trace), end_of_step(calls["start"], trace)
    op_after, call_after = np.maximum(0, op_ends - op_until), np.maximum(0, call_ends - call_until)
    waits = engine_waits(trace, op_ends, call_ends, op_until)
    if not op_after.any() and not call_after.any():
        return op_self - waits, call_self
    ends = ((ops["start"], op_ends), (calls["start"], call_ends))
    for (start, end), (op, call) in zip(ends, _parents(trace, op_ends, call_ends), strict=True):
        for parent, until, after in ((op, op_until, op_after), (call, call_until, call_after)):
            later = np.maximum(0, end - np.maximum(start, np.append(until, np.iinfo(np.int64).max)[parent]))
            after -= sum_by(parent, later, len(after))
    # Where ranges do not nest, more may be inside one than it lasts.
    return np.maximum(0, op_self - np.maximum(0, op_after) - waits), np.maximum(0, call_self - np.maximum(0, call_after))


def _parents(trace: Trace, op_ends: Ints, call_ends: Ints) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """The op that each op is directly in, and the call, of which at least one is -1; and the same of each call."""
    ops, calls = trace.ops, trace.module_calls

    def directly(op: Rows, call: Rows) -> tuple[Ints, Ints]:
        op, call = op.astype(np.int64), call.astype(np.int64)
        in_call = (call >= 0) & (calls["op"][call] == op) if len(calls) else np.zeros(len(call), dtype=np.bool_)
        return np.where(~in_call & (op >= 0), op, -1), np.where(in_call, call, -1)

    return directly(ops["parent"], calls_around(trace, op_ends, call_ends)), directly(calls["op"], calls["parent"])


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


def calls_around(trace: Trace, op_ends: Ints, call_ends: Ints) -> Ints:
    """For every op, the module call that it ran in.

    The ``module_call`` of an attributed op is another one, so the call around it is found by time.
    """
    ops, calls = trace.ops, trace.module_calls
    found: Ints = ops["module_call"].astype(np.int64)
    if not len(calls):
        return found
    attributed = np.flatnonzero((ops["flags"] & OP_ATTRIBUTED) != 0)
    threads, parents = ops["thread"][attributed], calls["parent"].astype(np.int64)
    for thread in np.unique(threads):
        rows = attributed if (threads == thread).all() else attributed[threads == thread]
        of_thread = np.flatnonzero(calls["thread"] == thread)
        of_thread = of_thread[np.argsort(calls["start"][of_thread], kind="stable")]
        latest = latest_before(calls["start"][of_thread], ops["start"][rows])
        # Most ops begin between two calls: what is open there is found once for all of them.
        after, until = _open_between(of_thread, calls["start"], call_ends, parents)
        end = op_ends[rows]
        call = np.where(end > until[latest], after[latest], np.append(of_thread, -1)[latest])
        left = np.flatnonzero(call >= 0)
        while len(left := left[(call[left] >= 0) & (call_ends[call[left]] < end[left])]):
            call[left] = parents[call[left]]
        found[rows] = call
    return found


def _open_between(calls: Ints, start: Rows, ends: Ints, parents: Ints) -> tuple[Ints, Ints]:
    """What is open where the next call begins.

    Args:
        calls: of one thread, in order of their start.

    Returns:
        For each of them the innermost call around the start of the next that is itself or around it, -1 for none; and until
        when those inside that one lasted. Both have one more row, of what comes before the first call.
    """
    following = np.append(start[calls[1:]], np.iinfo(np.int64).max)
    after, until = calls.copy(), np.full(len(calls) + 1, -1, dtype=np.int64)
    left = np.arange(len(calls))
    while len(left := left[(after[left] >= 0) & (ends[after[left]] < following[left])]):
        until[left] = np.maximum(until[left], ends[after[left]])
        after[left] = parents[after[left]]
    return np.append(after, -1), until

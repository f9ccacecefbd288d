"""Which op and which module call everything ran in, by thread and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from torchprof.importers.kineto.columns import Ints
from torchprof.trace.schema import Rows

__all__ = ["Nesting", "levels", "nest", "open_at", "order_of"]

AT_ONCE: Final = 2**16
"""Rows that are lists of Python at one time."""


@dataclass(frozen=True, slots=True)
class Nesting:
    """What the rows of ``ops`` and ``module_calls`` ran in, and both in one order.

    Attributes:
        op_parent, op_call: for every op, the op and the call around it.
        call_parent, call_op: for every call, the call and the op around it.
        order: rows of ops and calls together, parents first: below the number of ops one of these, above it a call.
    """

    op_parent: Ints
    op_call: Ints
    call_parent: Ints
    call_op: Ints
    order: Ints


def order_of(thread: Rows, start: Rows, end: Rows) -> Ints:
    """The order of spans by thread and start. Of those that start at one time, the longest comes first."""
    found: Ints = np.lexsort((-end, start, thread))
    return found


def nest(ops: Rows, calls: Rows) -> Nesting:
    """Find what every op and call ran in. Both are in their order, and have ends.

    A range may end after what is around it: until then it is the innermost, as the recorder has it.
    """
    n_ops = len(ops)
    both = [np.concatenate([ops[name], calls[name]]) for name in ("thread", "start", "end")]
    thread, start, end = both
    is_op = np.arange(len(start)) < n_ops
    order = np.lexsort((is_op, -end, start, thread))
    around_op, around_call = np.empty(len(start), dtype=np.int32), np.empty(len(start), dtype=np.int32)
    # What is open, outermost first: when it ends; the innermost op there and when that ends; and the innermost call.
    stack: list[tuple[int, int, int, int, int]] = []
    of_thread = -1
    for first in range(0, len(order), AT_ONCE):
        rows = order[first : first + AT_ONCE]
        ops_around: list[int] = []
        calls_around: list[int] = []
        for row, on, begins, ends in zip(
            *(values.tolist() for values in (rows, thread[rows], start[rows], end[rows])), strict=True
        ):
            if on != of_thread:
                of_thread = on
                stack.clear()
            while stack and stack[-1][0] <= begins:
                stack.pop()
            op = call = op_end = call_end = -1
            if stack:
                _, op, op_end, call, call_end = stack[-1]
                if op >= 0 and op_end <= begins:  # a range outlived it
                    op, op_end = next(((at[1], at[2]) for at in reversed(stack) if at[2] > begins), (-1, -1))
                if call >= 0 and call_end <= begins:
                    call, call_end = next(((at[3], at[4]) for at in reversed(stack) if at[4] > begins), (-1, -1))
            ops_around.append(op)
            calls_around.append(call)
            if row < n_ops:
                stack.append((ends, row, ends, call, call_end))
            else:
                stack.append((ends, op, op_end, row - n_ops, ends))
        around_op[rows], around_call[rows] = ops_around, calls_around
    return Nesting(around_op[:n_ops], around_call[:n_ops], around_call[n_ops:], around_op[n_ops:], order)


def levels(parent: Rows) -> list[Ints]:
    """The rows by the number of rows around them, outermost first."""
    depth = np.zeros(len(parent), dtype=np.int32)
    above = parent.copy()
    while (is_inside := above >= 0).any():
        depth += is_inside
        above = np.where(is_inside, parent[above], -1)
    rows = np.argsort(depth, kind="stable")
    return np.split(rows, np.cumsum(np.bincount(depth))[:-1]) if len(rows) else []


def open_at(spans: Rows, parent: Rows, thread: int, times: Ints) -> Ints:
    """The innermost row of a thread that is open at each of these times; -1: none. The spans are in their order."""
    first, last = np.searchsorted(spans["thread"], [thread, thread + 1])
    if first == last:
        return np.full(len(times), -1, dtype=np.int64)
    found = first - 1 + np.searchsorted(spans["start"][first:last], times, side="right")
    found = np.where(found >= first, found, -1)
    while (ended := (found >= 0) & (spans["end"][found] < times)).any():
        found = np.where(ended, parent[found], found)
    return found

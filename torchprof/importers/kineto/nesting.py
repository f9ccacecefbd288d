"""Which op and which module call everything ran in, by thread and time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from torchprof.importers.kineto.columns import Ints
from torchprof.trace.schema import Rows

__all__ = ["Nesting", "nest", "open_at", "order_of", "parts", "together"]

PART: Final = 2**16
"""Rows that are computed with at one time."""
AT_ONCE: Final = 2**13
"""Rows that are lists of Python at one time."""


@dataclass(frozen=True, slots=True)
class Nesting:
    """What the rows of ``ops`` and ``module_calls`` ran in, and both in one order.

    Attributes:
        op_parent, op_call: for every op, the op and the call around it.
        call_parent, call_op: for every call, the call and the op around it.
        order: rows of ops and calls together, parents first: below the number of ops one of these, above it a call.
        levels: the rows of ops by the number of ops around them, outermost first.
    """

    op_parent: Ints
    op_call: Ints
    call_parent: Ints
    call_op: Ints
    order: Ints
    levels: list[Ints]


def parts(count: int) -> Iterator[slice]:
    """Slices that cover so many rows: what is computed of each has a part's size."""
    return (slice(first, min(first + PART, count)) for first in range(0, count, PART))


def order_of(thread: Rows, start: Rows, end: Rows) -> Ints:
    """The order of spans by thread and start. Of those that start at one time, the longest comes first."""
    found: Ints = np.lexsort((-end, start, thread))
    return found


def nest(ops: Rows, calls: Rows) -> Nesting:
    """Find what every op and call ran in. Both are in their order, and have ends.

    A range may end after what is around it: until then it is the innermost, as the recorder has it.
    """
    n_ops, count = len(ops), len(ops) + len(calls)
    order = _merged(ops, calls)
    around_op, around_call = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    # What is open, outermost first: when it ends; the innermost op there and when that ends; and the innermost call.
    stack: list[tuple[int, int, int, int, int]] = []
    of_thread = -1
    for first in range(0, count, AT_ONCE):
        rows = order[first : first + AT_ONCE]
        columns = (together(ops, calls, rows, name).tolist() for name in ("thread", "start", "end"))
        ops_around: list[int] = []
        calls_around: list[int] = []
        for row, on, begins, ends in zip(rows.tolist(), *columns, strict=True):
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
    op_parent = around_op[:n_ops]
    return Nesting(op_parent, around_call[:n_ops], around_call[n_ops:], around_op[n_ops:], order, _levels(op_parent))


def together(ops: Rows, calls: Rows, rows: Ints, column: str) -> Ints:
    """A column of these rows of ops and calls together."""
    is_op = rows < len(ops)
    found = np.empty(len(rows), dtype=ops[column].dtype)
    found[is_op], found[~is_op] = ops[column][rows[is_op]], calls[column][rows[~is_op] - len(ops)]
    return found


def _merged(ops: Rows, calls: Rows) -> Ints:
    """The order of ops and calls together. Of those that start at one time the longest comes first, and a call before an op."""
    at = np.empty(len(calls), dtype=np.int64)
    for thread in np.unique(calls["thread"]).tolist():
        first, last = np.searchsorted(ops["thread"], [thread, thread + 1])
        mine = calls["thread"] == thread
        at[mine] = first + np.searchsorted(ops["start"][first:last], calls["start"][mine])
    while len(ops):
        op = np.minimum(at, len(ops) - 1)
        later = (at < len(ops)) & (ops["thread"][op] == calls["thread"]) & (ops["start"][op] == calls["start"])
        later &= ops["end"][op] > calls["end"]
        if not later.any():
            break
        at += later
    return np.insert(np.arange(len(ops), dtype=np.int32), at, len(ops) + np.arange(len(calls), dtype=np.int32))


def _levels(parent: Rows) -> list[Ints]:
    """The rows by the number of rows around them, outermost first."""
    depth = np.zeros(len(parent), dtype=np.int16)
    above = parent.copy()
    while (is_inside := above >= 0).any():
        depth += is_inside
        above = np.where(is_inside, parent[above], -1)
    rows = np.argsort(depth, kind="stable").astype(np.int32)
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

"""The time of Python between ops: in module calls, in user ranges such as the step of an optimizer, and outside of both.

Nobody saw which line was running then. But the stacks are known in which the op before and the op after began:

    train.py:5 > net.py:12    the op before
    train.py:5 > net.py:13    the op after

So meanwhile ``train.py:5`` was running all the time, and in it the function of ``net.py:12``, of which no line is known. Where
both are in one line, that line was running.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.op_stacks import OpStacks
from torchprof.analysis.spans import closed_ends
from torchprof.analysis.steps import active_steps, step_of
from torchprof.analysis.time.self_times import calls_around
from torchprof.trace.schema import SCOPE_USER, Phase, Rows, phases, phases_of_calls
from torchprof.trace.trace import Trace

__all__ = ["PythonTimes", "python_times"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

OUTSIDE, CALL, RANGE = 0, 1, 2
"""What something began directly in: outside of all, in a module call, in a user range."""
WAITS: Final = (Phase.OTHER, Phase.OPTIMIZER, Phase.BACKWARD)
"""Phases of user ranges in which the main thread may wait for others."""


@dataclass(frozen=True, slots=True)
class PythonTimes:
    """Pieces of time, of the same length each.

    Attributes:
        stack: the row of ``trace.stacks`` that was running; -1: not known.
        line_known: whether the line of that row was; else only its function.
        phase: of the time.
        time: nanoseconds in active steps.
    """

    stack: Ints
    line_known: Flags
    phase: Ints
    time: Ints


class _Spans(NamedTuple):
    """What began directly in a module call, in a user range or outside of both: calls, ranges and ops, by what is around.

    Attributes:
        kind, around: what it is in, and the row of that; outside of both, the thread.
        start, end, stack, phase: of each.
    """

    kind: Ints
    around: Ints
    start: Ints
    end: Ints
    stack: Ints
    phase: Ints

    def take(self, rows: Ints | Flags) -> _Spans:
        return _Spans(*(column[rows] for column in self))


class _Gaps(NamedTuple):
    """Time between what began one after another in the same call, range or thread.

    Attributes:
        around: the row of that.
        start, end: of the time.
        before, after: the stacks of what came before and after; of a call or range itself at its start and end.
        phase: of what came before and after, where that is one; else -1.
    """

    around: Ints
    start: Ints
    end: Ints
    before: Ints
    after: Ints
    phase: Ints


class _Holders(NamedTuple):
    """Module calls or user ranges."""

    rows: Ints
    start: Ints
    end: Ints
    stack: Ints
    own: Ints
    phase: Ints
    waits: Flags


def python_times(trace: Trace, stacks: OpStacks, op_self: Ints, call_self: Ints) -> PythonTimes:
    """The times of Python of a trace that has stacks, and single ops and calls.

    Args:
        op_self, call_self: as `nested_self_times` gives them: the pieces in a call or range add up to these.
    """
    ops, calls = trace.ops, trace.module_calls
    op_ends, call_ends = closed_ends(trace, ops), closed_ends(trace, calls)
    call_stacks = trace.call_stacks.astype(np.int64)
    spans = _spans(trace, stacks.own, call_stacks, op_ends, call_ends)
    main = _main_thread(trace, stacks.own)
    meanwhile = _Meanwhile(trace, main, op_ends, call_ends)
    active = active_steps(trace)
    pieces = [_outside(trace, spans.take((spans.kind == OUTSIDE) & (spans.around == main)), meanwhile, active)]
    ranges = np.flatnonzero(ops["scope"] == SCOPE_USER)
    phase = phases(ops).astype(np.int64)
    waits = np.isin(phase, WAITS) & (ops["thread"] == main)
    never = np.zeros(len(calls), dtype=np.bool_)
    for kind, holders in (
        (
            CALL,
            _Holders(np.arange(len(calls)), calls["start"], call_ends, call_stacks, call_self, phases_of_calls(calls), never),
        ),
        (RANGE, _Holders(ranges, ops["start"], op_ends, stacks.own, op_self, phase, waits)),
    ):
        in_step = step_of(holders.start, trace, active) >= 0
        for columns in _inside(spans.take(spans.kind == kind), holders, meanwhile):
            around, before, after, time = columns
            counted = np.flatnonzero(in_step[around] & (time != 0))
            pieces.append((before[counted], after[counted], holders.phase[around[counted]], time[counted]))
    before, after, of_phase, time = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    stack, line_known = _common(trace, before, after)
    return PythonTimes(stack, line_known, of_phase, time)


def _spans(trace: Trace, op_stacks: Ints, call_stacks: Ints, op_ends: Ints, call_ends: Ints) -> _Spans:
    ops, calls = trace.ops, trace.module_calls
    is_range = np.append(ops["scope"] == SCOPE_USER, False)
    parts = []
    for rows, ends, stack, phase, op, call in (
        (ops, op_ends, op_stacks, phases(ops), ops["parent"].astype(np.int64), calls_around(trace, op_ends, call_ends)),
        (calls, call_ends, call_stacks, phases_of_calls(calls), calls["op"].astype(np.int64), calls["parent"].astype(np.int64)),
    ):
        in_call = (call >= 0) & (np.append(calls["op"].astype(np.int64), -1)[call] == op)
        kind = np.where(in_call, CALL, np.where(op < 0, OUTSIDE, np.where(is_range[op], RANGE, -1)))
        around = np.where(in_call, call, np.where(op >= 0, op, rows["thread"].astype(np.int64)))
        parts.append(_Spans(kind, around, rows["start"], ends, stack, phase.astype(np.int64)).take(kind >= 0))
    spans = _Spans(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.argsort(spans.start, kind="stable")  # ops and calls are in this order already, each of a thread
    key = spans.kind * (int(spans.around.max(initial=0)) + 1) + spans.around
    return spans.take(order[np.argsort(key[order], kind="stable")])


def _between(spans: _Spans) -> _Gaps:
    """The time between these, which are all of one kind."""
    until = np.flatnonzero(spans.around[1:] == spans.around[:-1]) + 1
    since = until - 1
    phase = np.where(spans.phase[since] == spans.phase[until], spans.phase[until], -1)
    end = np.maximum(spans.end[since], spans.start[until])
    return _Gaps(spans.around[until], spans.end[since], end, spans.stack[since], spans.stack[until], phase)


def _inside(spans: _Spans, holders: _Holders, meanwhile: _Meanwhile) -> list[tuple[Ints, Ints, Ints, Ints]]:
    """The row of the call or range, the stacks before and after, and nanoseconds."""
    changes = spans.around[1:] != spans.around[:-1]
    first, last = (np.flatnonzero(edge) for edge in (np.append(True, changes), np.append(changes, True)))
    if not len(spans.around):
        first = last = first[:0]
    stack = holders.stack
    begins, ends = spans.take(first), spans.take(last)
    none = np.full(len(first), -1)
    parts = (
        _between(spans),
        _Gaps(begins.around, holders.start[begins.around], begins.start, stack[begins.around], begins.stack, none),
        _Gaps(ends.around, ends.end, np.maximum(ends.end, holders.end[ends.around]), ends.stack, stack[ends.around], none),
    )
    gaps = _Gaps(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    time = gaps.end - gaps.start
    found = np.bincount(gaps.around, weights=time, minlength=len(holders.own)).astype(np.int64)
    # Where ranges do not nest, the time of one is not what is between those in it: it is of its own line.
    nests = (found == holders.own)[gaps.around] & (time >= 0)
    rest = holders.own.copy()
    np.subtract.at(rest, gaps.around[nests], time[nests])
    others = np.where(holders.waits[gaps.around], meanwhile.between(gaps.start, gaps.end), 0)
    time = np.where(nests, time - others, 0)
    before, after = (np.where(side >= 0, side, stack[gaps.around]) for side in (gaps.before, gaps.after))
    rows = holders.rows
    empty = np.isin(rows, spans.around, invert=True) & holders.waits[rows]
    left = rest[rows] - np.where(empty, np.minimum(meanwhile.between(holders.start[rows], holders.end[rows]), rest[rows]), 0)
    return [(gaps.around, before, after, time), (rows, stack[rows], stack[rows], left)]


def _outside(trace: Trace, spans: _Spans, meanwhile: _Meanwhile, active: Rows) -> tuple[Ints, Ints, Ints, Ints]:
    """The stacks before and after, the phase, and nanoseconds in active steps, of time outside of all calls and ranges."""
    gaps = _between(spans)
    start, end = (_in_steps(trace, active, side) for side in (gaps.start, gaps.end))
    time = np.maximum(0, end - start - meanwhile.between(gaps.start, gaps.end, trace, active))
    return gaps.before, gaps.after, np.where(gaps.phase == Phase.BACKWARD, gaps.phase, int(Phase.OTHER)), time


def _in_steps(trace: Trace, active: Rows, times: Ints) -> Ints:
    """How much of active steps was over at each of these times."""
    if not len(trace.steps):
        return times
    before = np.append(0, np.cumsum(active["end"] - active["start"]))
    step = np.searchsorted(active["start"], times, side="right") - 1
    inside = np.minimum(times, np.append(active["end"], 0)[step]) - np.append(active["start"], 0)[step]
    return np.where(step >= 0, before[step] + inside, 0)


class _Meanwhile:
    """What other threads did than the main one: it waits for them between its ops."""

    def __init__(self, trace: Trace, main: int, op_ends: Ints, call_ends: Ints) -> None:
        works: list[tuple[Ints, Ints]] = []
        for rows, ends, phase in (
            (trace.ops, op_ends, phases(trace.ops)),
            (trace.module_calls, call_ends, phases_of_calls(trace.module_calls)),
        ):
            is_other = (rows["thread"] != main) & (rows["parent"] < 0) & (phase != Phase.OTHER) & (phase != Phase.DATA)
            works.append((rows["start"][is_other], ends[is_other]))
        start, end = (np.concatenate(columns) for columns in zip(*works, strict=True))
        order = np.argsort(start, kind="stable")
        start, end = start[order], np.maximum.accumulate(end[order])
        begins = np.append(True, start[1:] > end[:-1])[: len(start)]
        self._start = start[begins]
        self._end = end[np.append(begins[1:], True)[: len(start)]]

    def between(self, start: Ints, end: Ints, trace: Trace | None = None, active: Rows | None = None) -> Ints:
        """Nanoseconds from each start to each end in which other threads worked; with steps, in active ones."""
        if not len(self._start):
            return np.zeros(len(start), dtype=np.int64)

        def position(times: Ints) -> Ints:
            return times if trace is None or active is None else _in_steps(trace, active, times)

        begins, ends = position(self._start), position(self._end)
        before = np.append(0, np.cumsum(ends - begins))

        def until(times: Ints) -> Ints:
            at = np.searchsorted(self._start, times, side="right") - 1
            inside = np.minimum(position(times), np.append(ends, 0)[at]) - np.append(begins, 0)[at]
            return np.where(at >= 0, before[at] + np.maximum(0, inside), 0)

        return until(np.maximum(start, end)) - until(start)


def _main_thread(trace: Trace, op_stacks: Ints) -> int:
    """The thread on which the most ops have stacks: those of autograd have none."""
    known = trace.ops["thread"][op_stacks >= 0], trace.module_calls["thread"][trace.call_stacks >= 0]
    counts = np.bincount(np.concatenate(known), minlength=1)
    return int(counts.argmax())


def _common(trace: Trace, before: Ints, after: Ints) -> tuple[Ints, Flags]:
    """What was running all the time between two stacks: the innermost function that is in both, and whether in one line."""
    pairs = Groups.by([before, after])
    parent, function = (np.append(trace.stacks[name].astype(np.int64), -1) for name in ("parent", "function"))
    activation = Groups.by([parent, function]).of  # rows that differ by line alone are the same
    depth = _depths(parent[:-1])
    a, b = before[pairs.first], after[pairs.first]
    while True:
        differ = (a >= 0) & (b >= 0) & (activation[a] != activation[b])
        if not differ.any():
            break
        up_a, up_b = differ & (depth[a] >= depth[b]), differ & (depth[b] >= depth[a])
        a, b = np.where(up_a, parent[a], a), np.where(up_b, parent[b], b)
    found = np.where(b >= 0, a, -1)
    return found[pairs.of], (a == b)[pairs.of]


def _depths(parent: Ints) -> Ints:
    """How many rows are around each; one more value, -1, of none."""
    found: list[int] = []
    for above in parent.tolist():
        found.append(found[above] + 1 if above >= 0 else 0)
    return np.array([*found, -1], dtype=np.int64)

"""The time of Python between ops: in module calls, in user ranges such as the step of an optimizer, and outside of both.

Nobody saw which line was running then. What is known are the stacks in which the op before and the op after began:

    train.py:5 > net.py:12 > linear.py:134    the op before
    train.py:5 > net.py:13                    the op after

The innermost function in both is that of ``net.py``: the time is of it. Its line is known where it was not left meanwhile:

    in a module call, the line that made the call; in a range, the line that called the function which opened it
    in a function of a library that went on to a later line, the line that called it

Two ops of one line say nothing of it: a loop may have gone around in between. What is before the first op of a module call, or
after its last one, is of the function that the call ran, if that is known and counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lines.called_functions import called_functions
from torchprof.analysis.lines.common_stacks import common_stacks
from torchprof.analysis.lines.op_stacks import RUN, OpStacks
from torchprof.analysis.lines.other_threads import Meanwhile, in_steps
from torchprof.analysis.spans import closed_ends
from torchprof.analysis.steps import NEVER, active_steps, end_of_step, step_of
from torchprof.analysis.time.self_times import calls_around
from torchprof.trace.schema import SCOPE_USER, Phase, Rows, phases, phases_of_calls
from torchprof.trace.trace import Trace

__all__ = ["PythonTimes", "python_in_calls", "python_times"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

OUTSIDE, CALL, RANGE = 0, 1, 2
"""What something began directly in: outside of all, in a module call, in a user range."""
OF_FUNCTIONS: Final = (RUN, "iter(DataLoader)")
"""Ranges that torchprof opens around the call of a function."""
WAITS: Final = (Phase.OTHER, Phase.OPTIMIZER, Phase.BACKWARD)
"""Phases of user ranges in which the main thread may wait for others."""


@dataclass(frozen=True, slots=True)
class PythonTimes:
    """Pieces of time, of the same length each.

    Attributes:
        stack: the row of ``trace.stacks`` whose function was running; -1: not known.
        line_known: whether the line was running of the innermost row in it that counts; else only the function was.
        phase: of the time.
        time: nanoseconds in active steps.
        step: the index of the active step that it is in, or begins in.
    """

    stack: Ints
    line_known: Flags
    phase: Ints
    time: Ints
    step: Ints


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
    """Module calls or user ranges.

    Attributes:
        sure: the innermost stack whose line was running all the time.
        until: when the step ends that each began in: what is later is of none.
    """

    rows: Ints
    start: Ints
    end: Ints
    stack: Ints
    sure: Ints
    own: Ints
    phase: Ints
    waits: Flags
    until: Ints


class _Pieces(NamedTuple):
    """Time between two stacks. ``sure`` is the innermost one whose line was running meanwhile; -1: none."""

    before: Ints
    after: Ints
    sure: Ints
    phase: Ints
    time: Ints
    step: Ints


def python_times(trace: Trace, stacks: OpStacks, counted: Ints, op_self: Ints, call_self: Ints) -> PythonTimes:
    """The times of Python of a trace that has stacks, and single ops and calls.

    Args:
        counted: of every row of ``trace.stacks``, the innermost row in it that counts; -1: none.
        op_self, call_self: as `nested_self_times` gives them: the pieces in a call or range add up to these.
    """
    ops, calls = trace.ops, trace.module_calls
    op_ends, call_ends = closed_ends(trace, ops), closed_ends(trace, calls)
    call_stacks = trace.call_stacks.astype(np.int64)
    spans = _spans(trace, stacks.own, call_stacks, op_ends, call_ends)
    main = _main_thread(trace, stacks.own)
    meanwhile = Meanwhile(trace, main, op_ends, call_ends)
    active = active_steps(trace)
    pieces = [_outside(trace, spans.take((spans.kind == OUTSIDE) & (spans.around == main)), meanwhile, active)]
    ranges = np.flatnonzero(ops["scope"] == SCOPE_USER)
    phase = phases(ops).astype(np.int64)
    waits = np.isin(phase, WAITS) & (ops["thread"] == main)
    sure = _not_left(trace, stacks.own, ranges)
    until, calls_until = end_of_step(ops["start"], trace), end_of_step(calls["start"], trace)
    of_ranges = _Holders(ranges, ops["start"], op_ends, stacks.own, sure, op_self, phase, waits, until)
    of_calls, of_ops = (step_of(rows["start"], trace, active) for rows in (calls, ops))
    pieces += _in_calls(trace, counted, spans, call_ends, call_self, of_calls, calls_until)
    pieces += _pieces(of_ranges, _inside(spans.take(spans.kind == RANGE), of_ranges, meanwhile), of_ops)
    return _found(trace, counted, pieces)


def python_in_calls(trace: Trace, stacks: OpStacks, counted: Ints, call_self: Ints) -> PythonTimes:
    """Those in module calls, in steps that are active or not: they add up to ``call_self``. Arguments: as `python_times`."""
    op_ends, call_ends = closed_ends(trace, trace.ops), closed_ends(trace, trace.module_calls)
    spans = _spans(trace, stacks.own, trace.call_stacks.astype(np.int64), op_ends, call_ends)
    all_in_one = np.zeros(len(trace.module_calls), dtype=np.int64)
    never = np.full(len(trace.module_calls), NEVER)
    return _found(trace, counted, _in_calls(trace, counted, spans, call_ends, call_self, all_in_one, never))


def _in_calls(trace: Trace, counted: Ints, spans: _Spans, ends: Ints, own: Ints, step: Ints, until: Ints) -> list[_Pieces]:
    calls, stacks = trace.module_calls, trace.call_stacks.astype(np.int64)
    never = np.zeros(len(calls), dtype=np.bool_)
    holders = _Holders(np.arange(len(calls)), calls["start"], ends, stacks, stacks, own, phases_of_calls(calls), never, until)
    inside = spans.take(spans.kind == CALL)
    functions = called_functions(trace, counted, inside.around, stacks[inside.around], inside.stack)
    return _pieces(holders, _inside(inside, holders, None, functions), step)


def _pieces(holders: _Holders, inside: list[tuple[Ints, Ints, Ints, Ints]], step: Ints) -> list[_Pieces]:
    """Those of the holders that are in a step; ``step`` is that of each."""
    pieces = []
    for around, before, after, time in inside:
        left = np.flatnonzero((step[around] >= 0) & (time != 0))
        at = around[left]
        pieces.append(_Pieces(before[left], after[left], holders.sure[at], holders.phase[at], time[left], step[at]))
    return pieces


def _found(trace: Trace, counted: Ints, pieces: list[_Pieces]) -> PythonTimes:
    before, after, sure, phase, time, step = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    stack, later = common_stacks(trace, before, after)
    line = np.append(trace.stacks["line"].astype(np.int64), -1)
    goes_on = line[stack] < line[later]
    shown = np.append(counted, -1)[stack]
    line_known = (np.where(shown >= 0, shown, stack) <= sure) | (goes_on & (shown >= 0) & (shown != stack))
    return PythonTimes(stack, line_known, phase, time, step)


def _not_left(trace: Trace, own: Ints, ranges: Ints) -> Ints:
    """For every op, of these user ranges, the innermost stack whose line was running from its start to its end; -1: none.

    torchprof opens a range around the call of a function. ``with record_function(...)`` opens one in ``__enter__``, and lines
    of the function with the ``with`` change meanwhile.
    """
    enters = {row for row, name in enumerate(trace.strings) if name.rpartition(".")[2] == "__enter__"}
    is_enter = [name in enters for name in trace.functions["name"].tolist()]
    parents = trace.stacks["parent"].tolist()
    outermost: list[int] = []  # of every stack, the outermost call of ``__enter__`` in it
    for row, (parent, function) in enumerate(zip(parents, trace.stacks["function"].tolist(), strict=True)):
        above = outermost[parent] if parent >= 0 else -1
        outermost.append(above if above >= 0 or not is_enter[function] else row)
    opened = np.array([parents[enter] if enter >= 0 else row for row, enter in enumerate(outermost)], dtype=np.int64)
    of_functions = np.array([name in OF_FUNCTIONS for name in trace.strings], dtype=np.bool_)[trace.op_names[ranges]]
    found = np.full(len(own), -1, dtype=np.int64)
    around = np.append(trace.stacks["parent"].astype(np.int64), -1)[np.append(opened, -1)[own[ranges]]]
    found[ranges] = np.where(of_functions, own[ranges], around)
    return found


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


def _inside(
    spans: _Spans, holders: _Holders, meanwhile: Meanwhile | None, functions: Ints | None = None
) -> list[tuple[Ints, Ints, Ints, Ints]]:
    """The row of the call or range, the stacks before and after, and nanoseconds.

    Args:
        functions: for each of the spans, the stack whose function ran before it, if it is the first in its call, and after it,
            if it is the last; -1 and None: not known.
    """
    changes = spans.around[1:] != spans.around[:-1]
    first, last = (np.flatnonzero(edge) for edge in (np.append(True, changes), np.append(changes, True)))
    if not len(spans.around):
        first = last = first[:0]
    stack = holders.stack
    begins, ends = spans.take(first), spans.take(last)
    ran = np.full(len(spans.around), -1) if functions is None else functions
    (begin, inner_begin), (end, inner_end) = (
        (np.where(ran[at] >= 0, ran[at], stack[spans.around[at]]), np.where(ran[at] >= 0, ran[at], spans.stack[at]))
        for at in (first, last)
    )
    none = np.full(len(first), -1)
    parts = (
        _between(spans),
        _Gaps(begins.around, holders.start[begins.around], begins.start, begin, inner_begin, none),
        _Gaps(ends.around, ends.end, np.maximum(ends.end, holders.end[ends.around]), inner_end, end, none),
    )
    gaps = _Gaps(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    time = gaps.end - gaps.start
    found = np.bincount(gaps.around, weights=time, minlength=len(holders.own)).astype(np.int64)
    # Where ranges do not nest, the time of one is not what is between those in it: it is of its own line.
    nests = (found == holders.own)[gaps.around] & (time >= 0)
    rest = holders.own.copy()
    np.subtract.at(rest, gaps.around[nests], time[nests])
    end = np.maximum(gaps.start, np.minimum(gaps.end, holders.until[gaps.around]))
    time = np.where(nests, end - gaps.start, 0)
    if meanwhile is not None:
        time = time - np.where(holders.waits[gaps.around], meanwhile.between(gaps.start, end), 0)
    time = np.where(nests, time, 0)
    before, after = (np.where(side >= 0, side, stack[gaps.around]) for side in (gaps.before, gaps.after))
    rows = holders.rows
    left = np.maximum(0, np.minimum(rest[rows], holders.until[rows] - holders.start[rows]))
    if meanwhile is not None:
        empty = np.isin(rows, spans.around, invert=True) & holders.waits[rows]
        left = left - np.where(empty, np.minimum(meanwhile.between(holders.start[rows], holders.end[rows]), left), 0)
    return [(gaps.around, before, after, time), (rows, stack[rows], stack[rows], left)]


def _outside(trace: Trace, spans: _Spans, meanwhile: Meanwhile, active: Rows) -> _Pieces:
    """Time outside of all calls and ranges, in active steps."""
    gaps = _between(spans)
    start, end = (in_steps(trace, active, side) for side in (gaps.start, gaps.end))
    time = np.maximum(0, end - start - meanwhile.between(gaps.start, gaps.end, trace, active))
    phase = np.where(gaps.phase == Phase.BACKWARD, gaps.phase, int(Phase.OTHER))
    begins = step_of(gaps.start, trace, active)
    step = np.where(begins >= 0, begins, np.maximum(0, step_of(gaps.end, trace, active)))
    return _Pieces(gaps.before, gaps.after, np.full(len(time), -1), phase, time, step)


def _main_thread(trace: Trace, op_stacks: Ints) -> int:
    """The thread on which the most ops have stacks: those of autograd have none."""
    known = trace.ops["thread"][op_stacks >= 0], trace.module_calls["thread"][trace.call_stacks >= 0]
    counts = np.bincount(np.concatenate(known), minlength=1)
    return int(counts.argmax())

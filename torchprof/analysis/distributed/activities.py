"""What a rank was doing at every moment: in which phase, for which module, at which line.

Where kernels ran on a device that are not of collectives, it is what they were launched for. Else it is what the host did: the
op of the innermost level, or Python in the module call that was open; on the threads on which autograd runs backward passes,
while the main thread waits for them, and else on the main one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.distributed.collective_names import is_collective_kernel
from torchprof.analysis.distributed.nested import innermost, innermost_at
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.called_functions import called_functions
from torchprof.analysis.lines.common_stacks import common_stacks, depths
from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.analysis.lines.where import lines_of_stacks
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.model.module_tree import module_labels
from torchprof.analysis.remembered import remembered
from torchprof.analysis.spans import closed_ends, each_once
from torchprof.trace.schema import SCOPE_USER, Phase, phases, phases_of_calls
from torchprof.trace.trace import Trace

__all__ = ["Activity", "Timeline", "timeline_of"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Activity(NamedTuple):
    """What a rank did.

    Attributes:
        phase: ``"forward"``, ``"data"``, ...; ``"other"`` for what is in none.
        module: its path, or its class for the root; empty for none.
        line: of the program: ``train.py:31``, or the function, ``net.py:20 forward``, where only that is known; empty: nothing
            is.
    """

    phase: str
    module: str
    line: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Pieces of time, in order, which do not overlap.

    Attributes:
        start, end: nanoseconds of the trace.
        what: the row of ``activities``.
        runs: whether an op or a kernel ran; else it is Python, which may wait for something.
        activities: each once.
    """

    start: Ints
    end: Ints
    what: Ints
    runs: Flags
    activities: tuple[Activity, ...]

    def between(self, start: int, end: int, python_from: int | None = None) -> dict[Activity, int]:
        """Nanoseconds of each activity from one time to another.

        Args:
            python_from: before this time, Python counts as waiting, and is left out.
        """
        first, last = np.searchsorted(self.end, start, side="right"), np.searchsorted(self.start, end, side="left")
        part = slice(int(first), int(last))
        starts = np.where(self.runs[part], start, start if python_from is None else max(start, python_from))
        time = np.maximum(np.minimum(self.end[part], end) - np.maximum(self.start[part], starts), 0)
        sums = np.bincount(self.what[part], weights=time)
        return {self.activities[row]: int(sums[row]) for row in np.flatnonzero(sums > 0).tolist()}


class _Pieces(NamedTuple):
    """Pieces of time that do not overlap, in order. ``module`` is a row of ``trace.modules``, ``stack`` one of
    ``trace.stacks``."""

    start: Ints
    end: Ints
    phase: Ints
    module: Ints
    stack: Ints
    is_line: Ints
    runs: Ints

    def take(self, rows: Ints | Flags) -> _Pieces:
        return _Pieces(*(column[rows] for column in self))

    def after(self, other: _Pieces) -> _Pieces:
        """The other's, and these where it has none."""
        times = each_once(np.concatenate([self.start, self.end, other.start, other.end]))
        if len(times) < 2:
            return other
        begins = times[:-1]
        parts = []
        for pieces in (other, self):
            at = np.searchsorted(pieces.start, begins, side="right") - 1
            inside = (at >= 0) & (begins < np.append(pieces.end, 0)[at])
            parts.append((at, inside))
        (first, in_first), (second, in_second) = parts
        in_second &= ~in_first
        rows = np.where(in_first, first, second + len(other.start))
        both = _Pieces(*(np.concatenate(columns) for columns in zip(other, self, strict=True)))
        kept = in_first | in_second
        return both.take(rows[kept])._replace(start=begins[kept], end=times[1:][kept])


@remembered
def timeline_of(trace: Trace) -> Timeline:
    """What the rank of a trace with single ops did."""
    pieces = _of_device(trace)
    main = _main_thread(trace)
    for thread in [*_threads_of_autograd(trace, main), main]:
        pieces = _of_thread(trace, thread, whole=thread == main).after(pieces)
    groups = Groups.by([pieces.phase, pieces.module, pieces.stack, pieces.is_line])
    first = pieces.take(groups.first)
    labels = [*module_labels(trace)[:-1], ""]
    lines = lines_of_stacks(trace, first.stack, first.is_line != 0)
    names = [phase.name.lower() for phase in Phase]
    named = [
        Activity(names[phase], labels[module], line)
        for phase, module, line in zip(first.phase.tolist(), first.module.tolist(), lines, strict=True)
    ]
    numbers = {activity: at for at, activity in enumerate(dict.fromkeys(named))}
    of_groups = np.array([numbers[activity] for activity in named], dtype=np.int64)
    return Timeline(pieces.start, pieces.end, of_groups[groups.of], pieces.runs != 0, tuple(numbers))


def _main_thread(trace: Trace) -> int:
    """The thread of the first module call or, without calls, of the first op."""
    rows = trace.module_calls if len(trace.module_calls) else trace.ops
    return int(rows["thread"][rows["start"].argmin()]) if len(rows) else 0


def _threads_of_autograd(trace: Trace, main: int) -> list[int]:
    is_backward = np.isin(phases(trace.ops), (Phase.BACKWARD, Phase.RECOMPUTATION)) & (trace.ops["thread"] != main)
    threads: list[int] = np.unique(trace.ops["thread"][is_backward]).tolist()
    return threads


def _of_device(trace: Trace) -> _Pieces:
    """What kernels ran for that are not of collectives: of those at one time, the one that began first."""
    kernels = trace.kernels
    sends = np.array([is_collective_kernel(name) for name in trace.strings], dtype=np.bool_)
    rows = np.flatnonzero((kernels["end"] > kernels["start"]) & ~np.append(sends, False)[kernels["name"]])
    rows = rows[np.argsort(kernels["start"][rows], kind="stable")]
    end = np.maximum.accumulate(kernels["end"][rows])
    start = np.maximum(kernels["start"][rows], np.append(np.iinfo(np.int64).min, end[:-1])[: len(rows)])
    stack, op = _attributed(trace), kernels["op"][rows].astype(np.int64)
    pieces = _Pieces(
        start,
        end,
        kernels["phase"][rows].astype(np.int64),
        modules_of_calls(trace, kernels["module_call"][rows]),
        np.append(stack, -1)[op],
        np.ones(len(rows), dtype=np.int64),
        np.ones(len(rows), dtype=np.int64),
    )
    return pieces.take(end > start)


def _of_thread(trace: Trace, thread: int, *, whole: bool) -> _Pieces:
    """What a thread did; of the ``whole`` main thread also between its outermost ops and calls."""
    ops, calls = trace.ops, trace.module_calls
    of_ops, of_calls = (np.flatnonzero(rows["thread"] == thread) for rows in (ops, calls))
    op_ends, call_ends = closed_ends(trace, ops), closed_ends(trace, calls)
    found_ops, found_calls = innermost(ops, op_ends, of_ops), innermost(calls, call_ends, of_calls)
    edges = [0, int(trace.facts.get("duration_ns", 0))] if whole else []
    times = each_once(np.concatenate([found_ops[0], found_calls[0], np.array(edges, dtype=np.int64)]))
    begins, ends = times[:-1], times[1:]
    op, call = innermost_at(begins, found_ops), innermost_at(begins, found_calls)
    in_call = (call >= 0) & (op == np.append(calls["op"].astype(np.int64), -1)[call])
    phase = np.where(op >= 0, np.append(phases(ops).astype(np.int64), 0)[op], int(Phase.OTHER))
    phase = np.where(in_call, np.append(phases_of_calls(calls), 0)[call], phase)
    attributed = np.where(op >= 0, np.append(ops["module_call"].astype(np.int64), -1)[op], -1)
    module = modules_of_calls(trace, np.where(in_call, call, attributed))
    is_op = (op >= 0) & ~in_call & (np.append(ops["scope"], SCOPE_USER)[op] != SCOPE_USER)
    stack, is_line = _python(trace, of_ops, of_calls, begins, np.where(in_call, call, -1), call_ends)
    stack = np.where(is_op, np.append(_attributed(trace), -1)[op], stack)
    pieces = _Pieces(begins, ends, phase, module, stack, (is_line | is_op).astype(np.int64), is_op.astype(np.int64))
    return pieces.take((ends > begins) & (whole | (op >= 0) | (call >= 0)))


def _attributed(trace: Trace) -> Ints:
    """The stack that each op is attributed to; -1: none."""
    if not len(trace.stacks):
        return np.full(len(trace.ops), -1)
    return op_stacks(trace).attributed(counted_rows(trace, False))


def _python(trace: Trace, of_ops: Ints, of_calls: Ints, times: Ints, call: Ints, call_ends: Ints) -> tuple[Ints, Flags]:
    """What Python of a thread was running from each of these times on, between ops: a stack, and whether its line was running.

    Args:
        of_ops, of_calls: those of the thread.
        call: the module call that it ran directly in; -1: none.
    """
    none = np.full(len(times), -1), np.zeros(len(times), dtype=np.bool_)
    if not len(trace.stacks):
        return none
    own = np.concatenate([op_stacks(trace).own[of_ops], trace.call_stacks[of_calls].astype(np.int64)])
    start = np.concatenate([trace.ops["start"][of_ops], trace.module_calls["start"][of_calls]])
    order = np.argsort(start, kind="stable")
    order = order[own[order] >= 0]
    if not len(order):
        return none
    own, start = own[order], start[order]
    at = np.searchsorted(start, times, side="right")
    before, after = np.where(at > 0, own[at - 1], -1), np.append(own, -1)[at]
    row, later = common_stacks(trace, before, after)
    is_line = (row == later) & (row >= 0)
    of_call = np.append(trace.call_stacks.astype(np.int64), -1)[call]
    # In a call in which nothing began before, or after: the function that it ran, if what began tells it.
    begun = (call >= 0) & (at > 0) & (start[at - 1] > np.append(trace.module_calls["start"], 0)[call])
    comes = (call >= 0) & (np.append(start, 0)[at] < np.append(call_ends, 0)[call]) & (at < len(start))
    counted = counted_rows(trace, False)
    edge = np.flatnonzero(begun != comes)
    inside = np.where(begun[edge], before[edge], after[edge])
    ran = called_functions(trace, counted, call[edge], of_call[edge], inside)
    row[edge] = np.where(ran >= 0, ran, of_call[edge])
    is_line[edge] = (ran < 0) | (ran == of_call[edge])
    # Between a hook of PyTorch, as of FSDP, and what the call runs, both have only the call's own stack in common, and what
    # stands below that and does not count: it is the function that the call ran, if only one is told.
    depth = depths(trace)
    apart = np.flatnonzero(begun & comes & (depth[np.append(counted, -1)[row]] <= depth[of_call]))
    both = np.concatenate([before[apart], after[apart]])
    ran = called_functions(trace, counted, np.tile(call[apart], 2), np.tile(of_call[apart], 2), both)
    earlier, later = np.split(ran, 2)
    function = np.append(trace.stacks["function"].astype(np.int64), -1)
    is_one = (earlier < 0) | (later < 0) | (function[earlier] == function[later])
    told = np.where(is_one, np.where(later >= 0, later, earlier), -1)
    row[apart] = np.where(told >= 0, told, row[apart])
    is_line[apart] = np.where(told >= 0, told == of_call[apart], is_line[apart])
    alone = (call >= 0) & ~begun & ~comes
    return np.where(alone, of_call, row), is_line | alone

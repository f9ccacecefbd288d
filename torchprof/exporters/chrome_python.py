"""Functions of Python as events of a timeline: a track for every thread that has stacks, with a slice for each line.

Stacks are known when ops and module calls begin. A slice lasts from the first that began in a line to the end of the last one,
as long as no other line of the same function was seen in between:

    main (train.py:30)          loss = net(x)
      Net.forward (net.py:12)   ops of net.fc
      Net.forward (net.py:13)   further ops
    main (train.py:31)          loss.backward()

What is inside a module call is not joined with what is inside the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.analysis.spans import closed_ends
from torchprof.analysis.time.self_times import calls_around
from torchprof.exporters.python_stacks import PythonStacks
from torchprof.exporters.trace_events import FIRST_THREAD, chunks, complete
from torchprof.trace.trace import Trace

__all__ = ["FIRST_PYTHON", "Slice", "python_events", "python_slices"]

Ints = npt.NDArray[np.int64]

FIRST_PYTHON: Final = 2**21
"""The track of the functions of the first thread: beyond those of ranges that do not nest."""


class Slice(NamedTuple):
    """A line of Python, for as long as it was running.

    Attributes:
        thread: the row of ``trace.threads``.
        stack: the row of ``trace.stacks``.
        start, end: nanoseconds.
    """

    thread: int
    stack: int
    start: int
    end: int


def python_events(trace: Trace, op_ends: Ints, libraries: bool, thread_names: list[str]) -> Iterator[list[str]]:
    """The tracks and their slices; none where no stacks are known.

    Args:
        op_ends: the end of every op as it is drawn.
        libraries: whether functions of libraries are shown, too.
        thread_names: of every row of ``trace.threads``.
    """
    if not len(trace.stacks):
        return
    python = PythonStacks(trace, libraries)
    slices = python_slices(trace, op_ends, python)
    for thread in sorted({each.thread for each in slices}):
        track, name = FIRST_PYTHON + thread, thread_names[thread] if thread < len(thread_names) else f"thread {thread}"
        yield [
            f'{{"ph":"M","pid":1,"tid":{track},"name":"thread_name","args":{{"name":"Python of {name}"}}}}',
            f'{{"ph":"M","pid":1,"tid":{track},"name":"thread_sort_index","args":{{"sort_index":{FIRST_THREAD + thread}}}}}',
        ]
    frames = python.frames()
    names = [json.dumps(frame.text) for frame in frames]
    places = [json.dumps(frame.file) for frame in frames]
    args = [
        f'"file":{place},"line":{frame.line}' if frame.line is not None else f'"file":{place}' if frame.file is not None else ""
        for frame, place in zip(frames, places, strict=True)
    ]
    for part in chunks(len(slices)):
        yield [
            complete(FIRST_PYTHON + thread, "python", names[stack], start, end, args=args[stack])
            for thread, stack, start, end in slices[part]
        ]


def python_slices(trace: Trace, op_ends: Ints, python: PythonStacks) -> list[Slice]:
    """The slices of all threads, each after those around it."""
    paths = _Paths(trace, python)
    found: list[tuple[int, Slice]] = []  # with the number of those around
    open_slices: list[_Open] = []
    of_thread = -1

    def close(count: int, until: int | None = None) -> None:
        """Close what is open beyond so many."""
        while len(open_slices) > count:
            line, start, end = open_slices.pop()
            end = end if until is None else max(start, min(end, until))
            found.append((len(open_slices), Slice(of_thread, line[0], start, end)))

    for thread, stack, call, start, end in _seen(trace, op_ends, python):
        if thread != of_thread:
            close(0)
            of_thread = thread
        path = paths.of(stack, call)
        same = next((at for at, each in enumerate(open_slices) if at >= len(path) or each.line != path[at]), len(open_slices))
        close(same, start)
        open_slices[:] = [each._replace(end=max(each.end, end)) for each in open_slices]
        open_slices += [_Open(line, start, end) for line in path[same:]]
    close(0)
    return [each for _, each in sorted(found, key=lambda item: (item[1].thread, item[1].start, item[0]))]


class _Open(NamedTuple):
    """A slice that goes on: its row of ``stacks`` and the module call that it is in, its start, and the end as far as seen."""

    line: tuple[int, int]
    start: int
    end: int


def _seen(trace: Trace, op_ends: Ints, python: PythonStacks) -> Iterator[list[int]]:
    """Thread, stack, module call around, start and end of ops and module calls with a stack, those in a row of one as one."""
    ops, calls = trace.ops, trace.module_calls
    call_ends = closed_ends(trace, calls)
    shown = np.append(python.shown, -1)
    parts = [
        np.stack([ops["thread"], shown[op_stacks(trace).own], calls_around(trace, op_ends, call_ends), ops["start"], op_ends]),
        np.stack([calls["thread"], shown[trace.call_stacks], calls["parent"], calls["start"], call_ends]),
    ]
    thread, stack, call, start, end = np.concatenate([part.astype(np.int64) for part in parts], axis=1)
    order = np.lexsort((-end, start, thread))
    order = order[stack[order] >= 0]
    thread, stack, call, start, end = (column[order] for column in (thread, stack, call, start, end))
    if not len(order):
        return
    changed = (np.diff(thread) != 0) | (np.diff(stack) != 0) | (np.diff(call) != 0)
    first = np.append(0, np.flatnonzero(changed) + 1)
    runs = np.stack([thread[first], stack[first], call[first], start[first], np.maximum.reduceat(end, first)])
    for part in chunks(len(first)):
        yield from runs[:, part].T.tolist()


class _Paths:
    """For a stack and the module call around, what is open: each row of ``stacks`` and the call that it runs in."""

    def __init__(self, trace: Trace, python: PythonStacks) -> None:
        self._above = python.above.tolist()
        self._parent = trace.module_calls["parent"].tolist()
        self._call_stack = np.append(python.shown, -1)[trace.call_stacks].tolist()
        self._known: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def of(self, stack: int, call: int) -> list[tuple[int, int]]:
        """From the outermost."""
        known = self._known.get((stack, call))
        if known is not None:
            return known
        key, found = (stack, call), []
        around = set(self._outward(stack))
        for row in self._outward(stack):
            # The line that called a module, and those around it, are not inside the call.
            while call >= 0 and (self._call_stack[call] == row or self._call_stack[call] not in around):
                call = self._parent[call]
            around.discard(row)
            found.append((row, call))
        self._known[key] = found[::-1]
        return self._known[key]

    def _outward(self, stack: int) -> Iterator[int]:
        while stack >= 0:
            yield stack
            stack = self._above[stack]

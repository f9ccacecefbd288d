"""How the time of the recording and of its steps divides into phases: the same rules as of the recorder.

At each moment a thread is in the innermost op or call that is open: the one that began last. What other threads do counts
where the main thread waits for them, between its ops.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.importers.kineto.columns import Ints
from torchprof.importers.kineto.nesting import AT_ONCE, together
from torchprof.trace.schema import SCOPE_USER, Phase, Rows, phases, phases_of_calls

__all__ = ["fill_steps", "phase_segments", "times_within"]

WAITS: Final = 16
"""Flag of a segment in which the main thread is between ops, beside its phase."""
PHASE: Final = 15
"""The part of a kind that is its phase."""
COLUMNS: Final = {
    "forward": Phase.FORWARD,
    "recompute": Phase.RECOMPUTATION,
    "backward": Phase.BACKWARD,
    "optimizer": Phase.OPTIMIZER,
    "data": Phase.DATA,
}

Segments = tuple[Ints, Ints, Ints]
"""Starts, ends and kinds (a phase, and ``WAITS``), in order and without overlaps."""


def phase_segments(ops: Rows, calls: Rows, order: Ints, end: int, main: int) -> Segments:
    """When the program was in which phase.

    Args:
        order: of ops and calls together, as `nest` found it.
        end: of the recording.
        main: the row of the thread that runs the loop.
    """
    of_main, of_others = _none(), _none()
    thread = together(ops, calls, order, "thread")
    bounds = [0, *(np.flatnonzero(np.diff(thread)) + 1).tolist(), len(thread)]
    for first, last in pairwise(bounds):
        if first == last:
            continue
        found = _of_thread(ops, calls, order[first:last], end)
        if thread[first] == main:
            of_main = found
        else:
            phase = found[2] & PHASE
            works = _only(found, (phase != Phase.OTHER) & (phase != Phase.DATA))
            of_others = _merged(of_others, _without(works, of_others))
    if not len(of_others[0]):
        return of_main
    waits = of_main[2] & WAITS != 0
    works, rest = _only(of_main, ~waits), _only(of_main, waits)
    del of_main, found, waits
    meanwhile = _without(of_others, works)
    works, rest = _merged(works, meanwhile), _without(rest, meanwhile)
    del of_others, meanwhile
    return _merged(works, rest)


def times_within(segments: Segments, start: int, end: int) -> Ints:
    """Nanoseconds between these times in each phase; of ``Phase.OTHER``, what is left."""
    starts, ends, kinds = segments
    first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left")
    part = slice(int(first), max(int(first), int(last)))
    time = np.minimum(ends[part], end) - np.maximum(starts[part], start)
    found = np.bincount(kinds[part] & PHASE, weights=time, minlength=len(Phase)).astype(np.int64)
    found[Phase.OTHER] = 0
    found[Phase.OTHER] = end - start - found.sum()
    return found


def fill_steps(steps: Rows, segments: Segments) -> None:
    """Fill in how the time of steps divides into phases."""
    for row in range(len(steps)):
        found = times_within(segments, int(steps["start"][row]), int(steps["end"][row]))
        for column, phase in COLUMNS.items():
            steps[column][row] = found[phase]


def _of_thread(ops: Rows, calls: Rows, order: Ints, end: int) -> Segments:
    """What one thread was in, moment by moment."""
    starts, ends, kinds = array("q"), array("q"), array("B")

    def add(start: int, until: int, kind: int) -> None:
        if ends and ends[-1] == start and kinds[-1] == kind:
            ends[-1] = until
        else:
            starts.append(start)
            ends.append(until)
            kinds.append(kind)

    now = 0
    stack: list[list[int]] = []  # until when, kind, and the phase of what ended last inside

    def advance(time: int, follows: int) -> None:
        """Close what has ended by then. ``follows``: the phase of what begins then."""
        nonlocal now
        while stack:
            until, kind, inside = stack[-1]
            over = until <= time
            reached = min(time, until)
            if reached > now:
                # Around forward and backward in the step of an optimizer is the Python of its closure.
                in_closure = kind == WAITS | Phase.OPTIMIZER and (
                    inside != Phase.OPTIMIZER or (not over and follows != Phase.OPTIMIZER)
                )
                add(now, reached, WAITS if in_closure else kind)
                now = reached
            if not over:
                return
            stack.pop()
            if stack:
                stack[-1][2] = kind & PHASE
        now = max(now, time)

    for first in range(0, len(order), AT_ONCE):
        for begins, until, kind in zip(*_spans(ops, calls, order[first : first + AT_ONCE]), strict=True):
            advance(begins, kind & PHASE)
            stack.append([until, kind, int(Phase.OPTIMIZER)])
    advance(end, int(Phase.OTHER))
    if not len(starts):
        return _none()
    return np.frombuffer(starts, np.int64), np.frombuffer(ends, np.int64), np.frombuffer(kinds, np.uint8)


def _spans(ops: Rows, calls: Rows, rows: Ints) -> tuple[list[int], list[int], list[int]]:
    """Starts, ends and kinds of these rows of ops and calls together."""
    n_ops = len(ops)
    is_op = rows < n_ops
    op, call = ops[rows[is_op]], calls[rows[~is_op] - n_ops]
    phase = phases(op).astype(np.int64)
    waits = (op["scope"] == SCOPE_USER) & np.isin(phase, (Phase.OTHER, Phase.OPTIMIZER, Phase.BACKWARD))

    def together(of_ops: npt.NDArray[np.int64], of_calls: npt.NDArray[np.int64]) -> list[int]:
        found = np.empty(len(rows), dtype=np.int64)
        found[is_op], found[~is_op] = of_ops, of_calls
        return found.tolist()

    return (
        together(op["start"], call["start"]),
        together(op["end"], call["end"]),
        together(phase | np.where(waits, WAITS, 0), phases_of_calls(call)),
    )


def _none() -> Segments:
    return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8)


def _only(segments: Segments, mask: npt.NDArray[np.bool_]) -> Segments:
    return segments[0][mask], segments[1][mask], segments[2][mask]


def _merged(a: Segments, b: Segments) -> Segments:
    order = np.argsort(np.concatenate([a[0], b[0]]), kind="stable")
    return tuple(np.concatenate([left, right])[order] for left, right in zip(a, b, strict=True))  # type: ignore[return-value]


def _without(segments: Segments, others: Segments) -> Segments:
    """The parts of segments that none of the others covers."""
    if not len(others[0]) or not len(segments[0]):
        return segments
    starts, ends, kinds = segments
    # Every bound of the others cuts a segment; of the pieces, those stay that begin in none of the others.
    cuts = np.unique(np.concatenate([starts, ends, others[0], others[1]]))
    first, last = np.searchsorted(cuts, starts), np.searchsorted(cuts, ends)
    count = last - first
    piece = np.repeat(first - np.append(0, np.cumsum(count)[:-1]), count) + np.arange(count.sum())
    begins, until, kind = cuts[piece], cuts[piece + 1], np.repeat(kinds, count)
    at = np.searchsorted(others[0], begins, side="right") - 1
    return _only((begins, until, kind), (at < 0) | (others[1][at] <= begins))

"""The phases of a training step, as events of a timeline: slices of one track that follow one another.

A slice is a run of ops of one phase. These are the ops of the main thread, and of the threads on which autograd runs backward
passes while the main thread waits. A user range may span phases: one of no phase has no slice, and the step of an optimizer
that is given a closure has those of forward and backward in it, as a backward pass has those of an optimizer in its hooks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import SCOPE_USER, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["phase_slices"]

Ints = npt.NDArray[np.int64]

NONE = 255
"""Between ops."""


def phase_slices(trace: Trace, ends: Ints, main: int) -> list[tuple[Phase, int, int]]:
    """Phase, start and end of every slice.

    Args:
        ends: the end of every op as it is drawn.
        main: the row of the main thread.
    """
    rows, above = _rows(trace, main)
    if not len(rows):
        return []
    start, phase = trace.ops["start"], phases(trace.ops)
    stop = _clipped(rows, above, start, ends)
    # After a row comes what is around it: of a range, only where no more of the same phase follows.
    around = above[rows]
    soft = (around < 0) | (trace.ops["scope"][around] == SCOPE_USER)
    after = np.where(around >= 0, phase[around].astype(np.int64), NONE)
    times = np.concatenate([stop[rows], start[rows]])
    states = np.concatenate([after, phase[rows]])
    weak = np.concatenate([soft, np.zeros(len(rows), dtype=np.bool_)])
    # At one time, what ends comes before what begins, and the inner before the outer, or the outer before the inner.
    is_start = np.repeat([0, 1], len(rows))
    order = np.lexsort((np.concatenate([-rows, rows]), is_start, times))
    return _runs(times[order], states[order], weak[order])


def _rows(trace: Trace, main: int) -> tuple[Ints, Ints]:
    """The ops that begin a phase inside what is around them, by start; and for every op, the one around it that has a phase."""
    ops = trace.ops
    phase, parent = phases(ops), ops["parent"].astype(np.int64)
    has_none = (ops["scope"] == SCOPE_USER) & (phase == Phase.OTHER)
    above = np.append(parent, -1)
    while (passing := (above >= 0) & np.append(has_none, False)[above]).any():
        above = np.where(passing, above[above], above)
    above = above[:-1]
    # In a range, each op begins its phase, also one of the same phase.
    begins = ~has_none & ((above < 0) | (phase[above] != phase) | (ops["scope"][above] == SCOPE_USER))
    shown = (ops["thread"] == main) | (phase == Phase.BACKWARD)
    outer = above
    while (inside := outer >= 0).any():  # also what hooks run in a backward pass on another thread
        shown |= inside & (phase[outer] == Phase.BACKWARD)
        outer = np.where(inside, above[outer], -1)
    rows = np.flatnonzero(begins & shown)
    return rows[np.argsort(ops["start"][rows], kind="stable")], above


def _clipped(rows: Ints, above: Ints, start: Ints, ends: Ints) -> Ints:
    """The ends of ops: an outermost one ends when the next begins, and the others with what is around them."""
    stop = ends.copy()
    outermost = rows[above[rows] < 0]
    stop[outermost[:-1]] = np.minimum(stop[outermost[:-1]], start[outermost[1:]])
    outer = above[rows]
    while (inside := outer >= 0).any():
        stop[rows[inside]] = np.minimum(stop[rows[inside]], stop[outer[inside]])
        outer = np.where(inside, above[outer], -1)
    stop[rows] = np.maximum(stop[rows], start[rows])
    return stop


def _runs(times: Ints, states: Ints, weak: npt.NDArray[np.bool_]) -> list[tuple[Phase, int, int]]:
    """Runs of one state, from the state that each time begins. A weak one between two of the same phase is part of the run."""
    kept = np.append(np.diff(times) > 0, True)  # of one time, the last
    times, states, weak = times[kept], states[kept], weak[kept]
    if len(times) < 2:  # ops that took no time
        return []
    count = np.arange(len(times))
    before = np.maximum.accumulate(np.where(weak, -1, count))
    behind = np.minimum.accumulate(np.where(weak, len(times), count)[::-1])[::-1]
    around = np.append(states, [NONE, NONE])  # NONE at index -1 and len(times)
    bridged = weak & (around[before] == around[behind])
    states = np.where(bridged, around[before], states)[:-1]
    firsts = np.flatnonzero(np.diff(states, prepend=-1))
    ends = times[np.append(firsts[1:], len(states))]
    runs = zip(states[firsts].tolist(), times[firsts].tolist(), ends.tolist(), strict=True)
    return [(Phase(state), start, end) for state, start, end in runs if state != NONE]

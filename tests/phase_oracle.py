"""How the time of steps divides into phases, found plainly: moment by moment between all starts and ends of a trace."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Final

from torchprof.trace.schema import CALL_LOADED_DATA, CALL_RECOMPUTED, SCOPE_USER, Phase

COLUMNS: Final = {
    Phase.FORWARD: "forward",
    Phase.RECOMPUTATION: "recompute",
    Phase.BACKWARD: "backward",
    Phase.OPTIMIZER: "optimizer",
    Phase.DATA: "data",
}


@dataclass
class Span:
    """An op or a module call. What began later is further inside."""

    start: int
    end: int
    thread: int
    phase: Phase
    is_range: bool


def spans(ops: Any, calls: Any, end: int) -> list[Span]:
    """All of them by start, an op after the call that it began with."""
    found = []
    for row in calls:
        phase = Phase.RECOMPUTATION if row["flags"] & CALL_RECOMPUTED else Phase.FORWARD
        phase = Phase.DATA if row["flags"] & CALL_LOADED_DATA else phase
        found.append(Span(int(row["start"]), int(row["end"]), int(row["thread"]), phase, False))
    for row in ops:
        phase = Phase(int(row["flags"]) >> 4)
        found.append(Span(int(row["start"]), int(row["end"]), int(row["thread"]), phase, row["scope"] == SCOPE_USER))
    for span in found:
        span.end = span.end if span.end >= 0 else end
    return sorted(found, key=lambda span: span.start)


def innermost(of_thread: list[Span], moments: list[int]) -> list[Span | None]:
    """What a thread is in from each moment on: spans are painted over one another, as they begin."""
    found: list[Span | None] = [None] * len(moments)
    for span in of_thread:
        first, last = bisect_left(moments, span.start), bisect_left(moments, span.end)
        found[first:last] = [span] * (last - first)
    return found


def phase_of(at: int, found: list[Span | None]) -> tuple[Phase, bool]:
    """The phase of a thread, and whether it waits for others: it is between ops."""
    span = found[at]
    if span is None:
        return Phase.OTHER, True
    waits = span.is_range and span.phase in (Phase.OTHER, Phase.OPTIMIZER, Phase.BACKWARD)
    if waits and span.phase is Phase.OPTIMIZER:  # between forward and backward it is the Python of a closure
        before = next((each for each in reversed(found[:at]) if each is not span), None)
        after = next((each for each in found[at:] if each is not span), None)
        inside = [each for each in (before, after) if each is not None and span.start <= each.start < span.end]
        if any(each.phase is not Phase.OPTIMIZER for each in inside):
            return Phase.OTHER, True
    return span.phase, waits


def phase_times(found: list[Span], start: int, end: int, main: int = 0) -> dict[Phase, int]:
    """Nanoseconds between two times in each phase: they add up."""
    times = dict.fromkeys(Phase, 0)
    moments = sorted({start, end, *(time for span in found for time in (span.start, span.end))})
    threads = sorted({span.thread for span in found}, key=lambda thread: (thread != main, thread))
    in_span = {thread: innermost([span for span in found if span.thread == thread], moments) for thread in threads}
    for at in range(bisect_left(moments, start), bisect_left(moments, end)):
        phase, waits = phase_of(at, in_span[main]) if main in in_span else (Phase.OTHER, True)
        if waits:
            others = (phase_of(at, in_span[thread])[0] for thread in threads if thread != main)
            phase = next((other for other in others if other not in (Phase.OTHER, Phase.DATA)), phase)
        times[phase] += moments[at + 1] - moments[at]
    return times


def fill_phases(steps: Any, ops: Any, calls: Any, end: int) -> None:
    """Set the times of the steps by phase."""
    found = spans(ops, calls, end)
    for step in steps:
        times = phase_times(found, int(step["start"]), int(step["end"]) if step["end"] >= 0 else end)
        for phase, column in COLUMNS.items():
            step[column] = times[phase]

"""Which rank came last to each collective, by how much, and what it had done more of than the others.

A rank comes to a collective when it asks for it or, where a kernel runs it, when the kernel begins. The last one is late by the
time from the median of the others to itself. Some of that it may have been late by at the collective before, in the same group,
for which the others did not wait; what is left is *new*, and has causes: of everything that it did since that collective, what
took longer than in the median of the others. Where the causes take longer than the rank is newly late, which it had made good
elsewhere, each is reduced by the same factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from torchprof.analysis.distributed.activities import Activity, timeline_of
from torchprof.analysis.distributed.clocks import clocks_of
from torchprof.analysis.distributed.collectives import Collective
from torchprof.analysis.distributed.matched import SYNCHRONIZING, Match, matched
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["BEFORE", "NOT_TOLD", "Late", "lateness"]

COMPARED: Final = 15
"""Of many ranks, so many others are compared with the last one: those that came nearest to their median."""
BEFORE: Final = Activity("before", "", "")
"""The rank began its first step later."""
NOT_TOLD: Final = Activity("not told", "", "")
"""It did nothing that took longer than in the others."""


@dataclass(frozen=True, slots=True)
class Late:
    """The rank that came last to a collective. Times are nanoseconds.

    Attributes:
        match: the collective.
        rank: who came last.
        call: what that rank asked for.
        late: from the median of the other ranks to it.
        new: of that, what it was not late by at the collective before.
        causes: what it did more of than the others; these add up to ``new``.
    """

    match: Match
    rank: int
    call: Collective
    late: int
    new: int
    causes: Mapping[Activity, int]


@remembered
def lateness(ranks: Ranks) -> tuple[Late, ...]:
    """Of every collective that waits for all of its ranks, who came last; in the order of `matched`."""
    origins = clocks_of(ranks).origins
    traces = dict(zip(ranks.numbers, ranks, strict=True))
    found = []
    before: dict[tuple[int, ...], _Arrivals] = {}
    for match in matched(ranks).matches:
        if match.kind not in SYNCHRONIZING:
            continue
        came = {number: _came(traces[number], call) for number, call in match.calls.items()}
        now = _Arrivals.of(came, origins)
        previous = before.get(match.members)
        new = max(0, now.late - (previous.of_rank(now.last) if previous is not None and now.median < previous.latest else 0))
        since = previous.came if previous is not None else {number: _begin(traces[number]) for number in came}
        causes = _causes(traces, now, since, new, origins, is_first=previous is None)
        found.append(Late(match, now.last, match.calls[now.last], now.late, new, causes))
        before[match.members] = now
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Arrivals:
    """When ranks came to a collective.

    Attributes:
        came: by rank, nanoseconds of its own trace.
        at: the same by one clock.
        last: who came last.
        median: of the others.
        latest: when the last one came.
    """

    came: Mapping[int, int]
    at: Mapping[int, int]
    last: int
    median: int

    @classmethod
    def of(cls, came: Mapping[int, int], origins: Mapping[int, int]) -> _Arrivals:
        at = {number: time + origins[number] for number, time in came.items()}
        last = max(at, key=lambda number: at[number])
        return cls(came, at, last, _median([time for number, time in at.items() if number != last]))

    @property
    def latest(self) -> int:
        return self.at[self.last]

    @property
    def late(self) -> int:
        return self.latest - self.median

    def of_rank(self, number: int) -> int:
        """By how much this rank came after the others; 0 where it did not."""
        return max(0, self.at[number] - _median([time for other, time in self.at.items() if other != number]))


def _came(trace: Trace, call: Collective) -> int:
    if call.entered is not None and has_kernels(trace):
        return call.entered
    return int(trace.ops["start"][call.op])


def _begin(trace: Trace) -> int:
    """When the first active step began."""
    steps = active_steps(trace)
    return int(steps["start"][0]) if len(steps) else 0


def _causes(
    traces: Mapping[int, Trace],
    now: _Arrivals,
    since: Mapping[int, int],
    new: int,
    origins: Mapping[int, int],
    *,
    is_first: bool,
) -> dict[Activity, int]:
    if not new:
        return {}
    others = sorted((number for number in now.at if number != now.last), key=lambda number: abs(now.at[number] - now.median))
    others = others[:COMPARED]
    mine = timeline_of(traces[now.last]).between(since[now.last], now.came[now.last])
    theirs = [timeline_of(traces[number]).between(since[number], now.came[number]) for number in others]
    more = {activity: time - _median([each.get(activity, 0) for each in theirs]) for activity, time in mine.items()}
    if is_first:
        begins = [since[number] + origins[number] for number in others]
        more[BEFORE] = since[now.last] + origins[now.last] - _median(begins)
    more = {activity: time for activity, time in more.items() if time > 0}
    whole = sum(more.values())
    if whole > new:
        more = {activity: part for activity, time in more.items() if (part := round(time * new / whole))}
    if (left := new - sum(more.values())) > 0:
        more[NOT_TOLD] = left
    return more


def _median(values: Sequence[int]) -> int:
    return int(np.median(np.array(values, dtype=np.int64)))

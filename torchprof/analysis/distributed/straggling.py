"""Which rank came last to each collective, by how much, and what it had done more of than the others.

The last one is late by the time from the median of the others to itself. Some of that it may have been late by at the
collective before, in the same group, for which the others did not wait; and at the first collective, by as much as it began its
first step later. What is left is *new*, and has causes: of everything that it did since that collective, what took longer than
in the median of the others. Until the last one had come to that, Python between ops may have been waiting, and counts for none
of them. Where the causes take longer than the rank is newly late, which it had made good elsewhere, each is reduced by the same
factor: what is said of them is their share of the lateness, and not by how much they took longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.distributed.activities import Activity, timeline_of
from torchprof.analysis.distributed.arrivals import Arrivals, arrivals, median
from torchprof.analysis.distributed.clocks import clocks_of
from torchprof.analysis.distributed.collectives import Collective
from torchprof.analysis.distributed.matched import Match
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["NOT_TOLD", "Late", "lateness"]

COMPARED: Final = 15
"""Of many ranks, so many others are compared with the last one: those that came nearest to their median."""
_BEGIN: Final = Activity("before", "", "")
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
        before: of that, by how much it began its first step later than the others, which happens once: 0 but at the first
            collective.
        new: of the rest, what it was not late by at the collective before.
        causes: what it did more of than the others; these add up to ``new``.
        came: when ranks came, and how far that may be off.
    """

    match: Match
    rank: int
    call: Collective
    late: int
    before: int
    new: int
    causes: Mapping[Activity, int]
    came: Arrivals

    @property
    def is_together(self) -> bool:
        """Whether all ranks came at once."""
        return self.came.is_together

    @property
    def is_told(self) -> bool:
        """Whether this rank came last, and by more than the clocks may be off."""
        return self.came.is_told


@remembered
def lateness(ranks: Ranks) -> tuple[Late, ...]:
    """Of every collective that waits for all of its ranks, who came last; in the order of `matched`."""
    origins = clocks_of(ranks).origins
    traces = dict(zip(ranks.numbers, ranks, strict=True))
    found = []
    before: dict[tuple[int, ...], Arrivals] = {}
    for now in arrivals(ranks):
        match = now.match
        previous = before.get(match.members)
        new = max(0, now.late - (previous.of_rank(now.rank) if previous is not None and now.median < previous.latest else 0))
        since = previous.came if previous is not None else {number: _begin(traces[number]) for number in now.came}
        waited = previous.latest if previous is not None else None
        causes = _causes(traces, now, since, new, origins, waited)
        begun = causes.pop(_BEGIN, 0)
        found.append(Late(match, now.rank, match.calls[now.rank], now.late, begun, new - begun, causes, now))
        before[match.members] = now
    return tuple(found)


def _begin(trace: Trace) -> int:
    """When the first active step began."""
    steps = active_steps(trace)
    return int(steps["start"][0]) if len(steps) else 0


def _causes(
    traces: Mapping[int, Trace],
    now: Arrivals,
    since: Mapping[int, int],
    new: int,
    origins: Mapping[int, int],
    waited: int | None,
) -> dict[Activity, int]:
    """
    Args:
        waited: until when ranks may have waited for the last one at the collective before: their Python counts from then on.
            None: there was none before.
    """

    def did(number: int) -> dict[Activity, int]:
        python_from = waited - origins[number] if waited is not None else None
        return timeline_of(traces[number]).between(since[number], now.came[number], python_from)

    if not new:
        return {}
    others = sorted((number for number in now.at if number != now.rank), key=lambda number: abs(now.at[number] - now.median))
    others = others[:COMPARED]
    mine, theirs = did(now.rank), [did(number) for number in others]
    more = {activity: time - median([each.get(activity, 0) for each in theirs]) for activity, time in mine.items()}
    if waited is None:
        begins = [since[number] + origins[number] for number in others]
        more[_BEGIN] = since[now.rank] + origins[now.rank] - median(begins)
    more = {activity: time for activity, time in more.items() if time > 0}
    whole = sum(more.values())
    if whole > new:
        more = {activity: part for activity, time in more.items() if (part := round(time * new / whole))}
    if (left := new - sum(more.values())) > 0:
        more[NOT_TOLD] = left
    return more

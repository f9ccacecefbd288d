"""The clocks of ranks, aligned by what they do together: no rank leaves a collective before the last has entered it.

A rank that left at ``l`` by its clock did so after another entered at ``e`` by its own: what must be added to the other's clock
is at most ``l - e``. Every collective bounds the offset from both sides, and these bounds are certain. But where one rank
always comes last, they are as wide as it is late, and their middle would halve that. So the offset is estimated within them by
the ends: when the last rank is there, all leave within the time that it takes then, which is the shortest run of any rank. The
offset is the median of the differences between the first to leave on either side. The error is the median of the shortest
runs, of those on either side the longer one: where a side always leaves late, its own runs are longer by that; or the range of
the middle half of the differences, if that is wider, as where ranks wait for a processor before they leave. Ranks on one host
read one clock, and need no offset; where the bounds say otherwise, by more than it may take to read that clock, the rank is
aligned by itself.

Ranks that do nothing together but send to each other, as stages of a pipeline, are aligned by that: what is received has come
after it began to be sent. Messages one way bound the offset from one side, and those back from the other. The offset is the
middle, and the error is half of what is between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from torchprof.analysis.distributed.matched import SYNCHRONIZING, Match, matched
from torchprof.analysis.distributed.paired_messages import Pair, paired
from torchprof.analysis.remembered import remembered
from torchprof.trace.ranks import Ranks

__all__ = ["Clock", "Clocks", "clocks_of"]

READING: Final = 2_000_000
"""Nanoseconds by which two ranks of one host may differ: a thread may lose its processor as it reads the clock."""
OF_SIDE: Final = 0.1
"""Part of the collectives in which a rank on one side must have run shortest, so that their times count."""

Together = dict[int, tuple[list[Match], list[Pair]]]
"""What each rank did together with others, by its number."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock that some ranks of a host read. All times are nanoseconds.

    Attributes:
        host: its name; None where it is not known.
        ranks: who reads it.
        offset: what is added to it, so that it shows what the first clock shows.
        error: how far the offset may be off, as far as the ends of collectives tell: 0 of the first clock; None where nothing
            tells the offset, which is then 0.
        collectives: how many told it.
        messages: how many told it where no collective did.
        contradiction: by how much they contradict each other: nothing is in all bounds.
        moved: whether other ranks of this host read another clock.
        tied_to: the first rank of the clock that this one is aligned to: the first of all that collectives tie it to.
        tied_error: how far it may be off from that one.
    """

    host: str | None
    ranks: tuple[int, ...]
    offset: int
    error: int | None
    collectives: int = 0
    contradiction: int = 0
    moved: bool = False
    tied_to: int = 0
    tied_error: int = 0
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks of the ranks of a run.

    Attributes:
        clocks: the first is the one that all are aligned to.
        origins: for every rank by number, nanoseconds to add to a time of its trace: all traces have one time line then, on
            which the first trace began at 0.
        of_ranks: the clock of every rank.
    """

    clocks: tuple[Clock, ...]
    origins: Mapping[int, int]
    of_ranks: Mapping[int, Clock]

    def apart(self, first: int, second: int) -> int | None:
        """How far the times of two ranks may be off from each other: 0 where they read one clock; None: it is not known."""
        one, other = self.of_ranks[first], self.of_ranks[second]
        if one is other:
            return 0
        return one.tied_error + other.tied_error if one.tied_to == other.tied_to else None


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What the offset of a clock is at least and at most, and how many collectives told it.

    Attributes:
        ends: of each of these, what the offset is if the first to leave on either side did so at once.
        runs: of each, the shortest run with the error of the others' clock, and whether that was on the side to be aligned.
        through: one of the others.
        are_messages: whether messages told it, and no collective.
    """

    least: int
    most: int
    count: int
    ends: Sequence[int] = ()
    runs: Sequence[tuple[int, bool]] = ()
    through: int = 0
    are_messages: bool = False

    @property
    def offset(self) -> int:
        """The estimate, within the bounds."""
        low, high = sorted((self.least, self.most))
        return min(max(int(np.median(self.ends)), low), high)

    @property
    def error(self) -> int:
        """How far the offset may be off: no further than the bounds, and half of what they are at odds by at least."""
        sides = ([run for run, is_mine in self.runs if is_mine is side] for side in (True, False))
        run = max(int(np.median(of)) for of in sides if len(of) >= OF_SIDE * len(self.runs) and of)
        low, high = np.percentile(self.ends, (25, 75))
        furthest = max(abs(self.most - self.offset), abs(self.offset - self.least))
        return max(min(max(run, int(high - low)), furthest), -((self.most - self.least) // 2))


@remembered
def clocks_of(ranks: Ranks) -> Clocks:
    """The clocks of these ranks. Traces that hold sums alone have no collectives that could tell."""
    began = {number: _origin(trace.facts) for number, trace in zip(ranks.numbers, ranks, strict=True)}
    first = next(iter(began.values()))
    origins = {number: time - first for number, time in began.items()}
    matches = [match for match in matched(ranks).matches if match.kind in SYNCHRONIZING]
    of_rank: Together = {number: ([], []) for number in ranks.numbers}
    for match in matches:
        for number in match.calls:
            of_rank[number][0].append(match)
    for pair in paired(ranks):
        of_rank[pair.sender][1].append(pair)
        of_rank[pair.receiver][1].append(pair)
    waiting = _same_clock(ranks, origins, of_rank)
    clocks: list[Clock] = []
    aligned: dict[int, int] = {}  # of every rank whose origin is known, its error
    tied_to: dict[int, int] = {}
    while waiting_now := [each for each in waiting if each[1][0] not in aligned]:
        # The first that anything ties to those that are aligned; where nothing ties any of them, the first.
        tied = ((each, _bounds(each[1], aligned, origins, of_rank)) for each in waiting_now)
        (host, of), found = next((each for each in tied if each[1].count), (waiting_now[0], _Bounds(0, 0, 0)))
        offset, error = (found.offset, found.error) if found.count else (0, 0)
        anchor = tied_to[found.through] if found.count else of[0]
        clocks.append(
            Clock(
                host,
                of,
                offset,
                error if anchor == ranks.numbers[0] else None,
                found.count if not found.are_messages else 0,
                max(0, found.least - found.most),
                _is_split(waiting, (host, of)),
                anchor,
                error,
                found.count if found.are_messages else 0,
            )
        )
        for number in of:
            origins[number] += offset
            aligned[number], tied_to[number] = error, anchor
    clocks.sort(key=lambda clock: clock.ranks)
    return Clocks(tuple(clocks), origins, {number: clock for clock in clocks for number in clock.ranks})


def _same_clock(ranks: Ranks, origins: Mapping[int, int], of_rank: Together) -> list[tuple[str | None, tuple[int, ...]]]:
    """The ranks that read one clock, with their host, in the order of their first ranks."""
    found: list[tuple[str | None, list[int]]] = []
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        host = trace.facts.get("host")
        for name, of in found:
            if host is not None and name == host:
                bounds = _bounds((number,), dict.fromkeys(of, 0), origins, of_rank)
                if not bounds.count or bounds.least - READING <= 0 <= bounds.most + READING:
                    of.append(number)
                    break
        else:
            found.append((host, [number]))
    return [(host, tuple(of)) for host, of in found]


def _is_split(clocks: list[tuple[str | None, tuple[int, ...]]], one: tuple[str | None, tuple[int, ...]]) -> bool:
    return one[0] is not None and sum(host == one[0] for host, _ in clocks) > 1


def _bounds(of: Sequence[int], others: Mapping[int, int], origins: Mapping[int, int], of_rank: Together) -> _Bounds:
    """The bounds of what is to be added to the clock of some ranks, by what they did together with others.

    Args:
        others: the error of the origin of each.
    """
    mine = set(of)
    least: int | None = None
    most: int | None = None
    ends: list[int] = []
    runs: list[tuple[int, bool]] = []
    through = 0
    seen: set[int] = set()
    for match in (match for number in of for match in of_rank[number][0]):
        if id(match) in seen or others.keys().isdisjoint(match.calls):
            continue
        seen.add(id(match))
        entered: dict[bool, list[int]] = {True: [], False: []}
        left: dict[bool, list[int]] = {True: [], False: []}
        first: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # the error of a clock, and when a rank left by it
        for number, call in match.calls.items():
            if call.entered is not None and call.left is not None and (number in mine or number in others):
                error = 0 if number in mine else others[number]
                entered[number in mine].append(call.entered + origins[number] - error)
                left[number in mine].append(call.left + origins[number] + error)
                first[number in mine].append((error, call.left + origins[number]))
        if not entered[True] or not entered[False]:
            continue
        error = min(error for error, _ in first[False])
        ends.append(min(at for of, at in first[False] if of == error) - min(at for _, at in first[True]))
        run, number = _shortest_run(match)
        runs.append((run + error, number in mine))
        through = next(number for number in match.calls if number in others)
        low, high = max(entered[False]) - min(left[True]), min(left[False]) - max(entered[True])
        least = low if least is None else max(least, low)
        most = high if most is None else min(most, high)
    if not ends:
        return _bounds_by_messages(mine, others, origins, [pair for number in of for pair in of_rank[number][1]])
    return _Bounds(least or 0, most or 0, len(ends), ends, runs, through)


def _bounds_by_messages(
    mine: set[int], others: Mapping[int, int], origins: Mapping[int, int], pairs: Sequence[Pair]
) -> _Bounds:
    """The same by messages both ways; where there are none one way, nothing is told."""
    low: list[tuple[int, int]] = []
    high: list[tuple[int, int]] = []
    for pair in pairs:
        sent, received = pair.sent.entered, pair.received.left
        if sent is None or received is None:
            continue
        sent, received = sent + origins[pair.sender], received + origins[pair.receiver]
        if pair.receiver in mine and pair.sender in others:
            low.append((sent - others[pair.sender] - received, pair.sender))
        elif pair.sender in mine and pair.receiver in others:
            high.append((received + others[pair.receiver] - sent, pair.receiver))
    if not low or not high:
        return _Bounds(0, 0, 0)
    (least, _), (most, through) = max(low), min(high)
    return _Bounds(
        least, most, len(low) + len(high), [(least + most) // 2], [(abs(most - least), True)], through, are_messages=True
    )


def _shortest_run(match: Match) -> tuple[int, int]:
    """The time for which it ran in the rank in which it ran shortest, and that rank."""
    calls = match.calls.items()
    return min(
        (call.left - call.entered, number) for number, call in calls if call.left is not None and call.entered is not None
    )


def _origin(facts: Mapping[str, object]) -> int:
    origin = facts.get("origin_unix_ns", 0)
    return origin if isinstance(origin, int) else 0

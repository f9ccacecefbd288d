"""The clocks of ranks, aligned by what they do together: no rank leaves a collective before the last has entered it.

A rank that left at ``l`` by its clock did so after another entered at ``e`` by its own: what must be added to the other's clock
is at most ``l - e``. Every collective bounds the offset from both sides; the middle of the narrowest bounds is taken, and half
their width is the error. Ranks on one host read one clock, and need no offset; where collectives say otherwise, by more than it
may take to read that clock, the rank is aligned by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.distributed.matched import SYNCHRONIZING, Match, matched
from torchprof.analysis.remembered import remembered
from torchprof.trace.ranks import Ranks

__all__ = ["Clock", "Clocks", "clocks_of"]

READING: Final = 2_000_000
"""Nanoseconds by which two ranks of one host may differ: a thread may lose its processor as it reads the clock."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock that some ranks of a host read. All times are nanoseconds.

    Attributes:
        host: its name; None where it is not known.
        ranks: who reads it.
        offset: what is added to it, so that it shows what the first clock shows.
        error: how far the offset may be off: 0 of the first clock; None where nothing tells the offset, which is then 0.
        collectives: how many told it.
        contradiction: by how much they contradict each other: nothing is in all bounds.
        moved: whether other ranks of this host read another clock.
    """

    host: str | None
    ranks: tuple[int, ...]
    offset: int
    error: int | None
    collectives: int = 0
    contradiction: int = 0
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks of the ranks of a run.

    Attributes:
        clocks: the first is the one that all are aligned to.
        origins: for every rank by number, nanoseconds to add to a time of its trace: all traces have one time line then, on
            which the first trace began at 0.
    """

    clocks: tuple[Clock, ...]
    origins: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What the offset of a clock is at least and at most, and how many collectives told it."""

    least: int
    most: int
    count: int


@remembered
def clocks_of(ranks: Ranks) -> Clocks:
    """The clocks of these ranks. Traces that hold sums alone have no collectives that could tell."""
    began = {number: _origin(trace.facts) for number, trace in zip(ranks.numbers, ranks, strict=True)}
    first = next(iter(began.values()))
    origins = {number: time - first for number, time in began.items()}
    matches = [match for match in matched(ranks).matches if match.kind in SYNCHRONIZING]
    of_rank: dict[int, list[Match]] = {number: [] for number in ranks.numbers}
    for match in matches:
        for number in match.calls:
            of_rank[number].append(match)
    waiting = _same_clock(ranks, origins, of_rank)
    clocks = [Clock(waiting[0][0], waiting[0][1], 0, 0, moved=_is_split(waiting, waiting[0]))]
    aligned = dict.fromkeys(waiting[0][1], 0)  # the error of every rank whose origin is known
    left = waiting[1:]
    while left:
        bounds = [_bounds(of, list(aligned), origins, of_rank) for _, of in left]
        told = [row for row, each in enumerate(bounds) if each.count]
        best = max(told, key=lambda row: bounds[row].count, default=0)
        (host, of), found = left[best], bounds[best]
        if found.count:
            offset = (found.least + found.most) // 2
            error: int | None = abs(found.most - found.least + 1) // 2 + min(aligned.values())
        else:
            offset, error = 0, None
        clocks.append(
            Clock(host, of, offset, error, found.count, max(0, found.least - found.most), _is_split(waiting, (host, of)))
        )
        for number in of:
            origins[number] += offset
            aligned[number] = error or 0
        del left[best]
    clocks.sort(key=lambda clock: clock.ranks)
    return Clocks(tuple(clocks), origins)


def _same_clock(
    ranks: Ranks, origins: Mapping[int, int], of_rank: Mapping[int, list[Match]]
) -> list[tuple[str | None, tuple[int, ...]]]:
    """The ranks that read one clock, with their host, in the order of their first ranks."""
    found: list[tuple[str | None, list[int]]] = []
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        host = trace.facts.get("host")
        for name, of in found:
            if host is not None and name == host:
                bounds = _bounds((number,), of, origins, of_rank)
                if not bounds.count or bounds.least - READING <= 0 <= bounds.most + READING:
                    of.append(number)
                    break
        else:
            found.append((host, [number]))
    return [(host, tuple(of)) for host, of in found]


def _is_split(clocks: list[tuple[str | None, tuple[int, ...]]], one: tuple[str | None, tuple[int, ...]]) -> bool:
    return one[0] is not None and sum(host == one[0] for host, _ in clocks) > 1


def _bounds(
    of: Sequence[int], others: Sequence[int], origins: Mapping[int, int], of_rank: Mapping[int, list[Match]]
) -> _Bounds:
    """The bounds of what is to be added to the clock of some ranks, by what they did together with others."""
    mine, theirs = set(of), set(others)
    least: int | None = None
    most: int | None = None
    count = 0
    seen: set[int] = set()
    for match in (match for number in of for match in of_rank[number]):
        if id(match) in seen or theirs.isdisjoint(match.calls):
            continue
        seen.add(id(match))
        entered = {True: [], False: []}  # type: dict[bool, list[int]]
        left = {True: [], False: []}  # type: dict[bool, list[int]]
        for number, call in match.calls.items():
            if call.entered is not None and call.left is not None and (number in mine or number in theirs):
                entered[number in mine].append(call.entered + origins[number])
                left[number in mine].append(call.left + origins[number])
        if not entered[True] or not entered[False]:
            continue
        count += 1
        low, high = max(entered[False]) - min(left[True]), min(left[False]) - max(entered[True])
        least = low if least is None else max(least, low)
        most = high if most is None else min(most, high)
    return _Bounds(least or 0, most or 0, count)


def _origin(facts: Mapping[str, object]) -> int:
    origin = facts.get("origin_unix_ns", 0)
    return origin if isinstance(origin, int) else 0

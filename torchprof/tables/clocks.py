"""`torchprof.clocks`: how far the clocks of hosts are apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.analysis.distributed.clocks import Clock, clocks_of
from torchprof.rendering.units import format_ns
from torchprof.tables.across_ranks import check_ranks
from torchprof.tables.columns import LONG_TIME
from torchprof.tables.table import Table, worth_showing
from torchprof.trace.ranks import Ranks, listed
from torchprof.wording import counted

__all__ = ["clock_lines", "clocks"]

SHOWN: Final = 4


def clocks(ranks: Ranks) -> Table:
    """How far the clocks of hosts are apart, by what their ranks do together.

    When the last rank has entered a collective, all leave it: an all-reduce, all-gather, reduce-scatter, all-to-all or barrier.
    *Ahead*, by which the clock shows a later time than the first one, is the median of the differences at which the first rank
    of either clock left. *Error* is the median of the shortest run of any rank, the time within which all leave when the last
    is there; of those on either side, the longer one. Both are estimates. What is certain is that no rank leaves before the
    last has entered: every collective so bounds from both sides how far two clocks are apart, and neither figure is beyond
    these bounds. Ranks of one host read one clock, unless these bounds say otherwise by more than 2 ms.

    Stages of a pipeline that only send to each other are aligned by that: what is received has come after it began to be sent.
    *Ahead* is the middle between the bounds of messages there and back then, and *error* half of what is between. Clocks that
    nothing ties to the first are ``?``: the time that they show is taken.

    Args:
        ranks: of ``torchprof.load("run/")``, best not aggregated: sums have no single collectives.

    Returns:
        A row for each clock: ``name`` (its host), ``of_ranks``, ``ahead`` and ``clock_error`` in nanoseconds, ``count`` of the
        collectives that told, or else of messages, ``contradiction``, by how much these are at odds.

    Raises:
        ModuleTypeError: these are no ranks.

    Example:
        >>> print(torchprof.clocks(torchprof.load("run/")))
    """
    check_ranks(ranks)
    rows = [
        {
            "name": clock.host or f"rank {clock.ranks[0]}",
            "of_ranks": list(clock.ranks),
            "ahead": -clock.offset if clock.error is not None else None,
            "clock_error": clock.error,
            "count": clock.collectives or clock.messages,
            "contradiction": clock.contradiction,
        }
        for clock in clocks_of(ranks).clocks
    ]
    columns = ("of_ranks", "ahead", "clock_error", "count", "contradiction")
    chosen = worth_showing(rows, columns, optional=("count", "contradiction"))
    return Table("Clock of", rows, chosen, (*clock_lines(ranks), *(f"Ranks: {each}" for each in ranks.problems)), unknown="?")


def clock_lines(ranks: Ranks) -> Iterator[str]:
    """What is said of clocks below a table across ranks."""
    found = clocks_of(ranks).clocks
    if len(found) == 1:
        if len(ranks) > 1:
            yield f"Clocks: all ranks ran on {found[0].host}, and read one clock"
        return
    told = [clock for clock in found[1:] if clock.error is not None]
    for clock in told[:SHOWN]:
        yield f"Clocks: {_named(clock)} {_apart(clock)}"
    if len(told) > SHOWN:
        worst = max(clock.error or 0 for clock in told)
        yield f"Clocks: {counted(len(told) - SHOWN, 'further clock')} aligned as well, all within {format_ns(worst)}"
    if unknown := [clock for clock in found[1:] if clock.error is None]:
        hosts = ", ".join(_named(clock) for clock in unknown[:SHOWN])
        more = f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else ""
        yield f"Clocks: no collective ties {hosts}{more} to the first: the time that they show is taken"


def _named(clock: Clock) -> str:
    which = f"rank {clock.ranks[0]}" if len(clock.ranks) == 1 else f"ranks {listed(clock.ranks)}"
    if clock.host is None:
        return f"that of {which}"
    return f"that of {which} on {clock.host}" if clock.moved else clock.host


def _apart(clock: Clock) -> str:
    apart = f"is {LONG_TIME.write(abs(clock.offset))} {'ahead' if clock.offset < 0 else 'behind'}"
    said = apart if clock.offset else "shows the time of the first"
    by = f"{counted(clock.messages, 'message')} both ways" if clock.messages else ""
    by = by or f"the ends of {counted(clock.collectives, 'collective')}"
    told = f"within {format_ns(clock.error or 0)}, by {by}"
    at_odds = f", which contradict each other by {format_ns(clock.contradiction)}" if clock.contradiction else ""
    other = "; the others on this host read another" if clock.moved else ""
    return f"{said}, {told}{at_odds}{other}"

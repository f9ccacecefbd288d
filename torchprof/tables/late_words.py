"""What is said of ranks that came last: one sentence of each, and why nobody could be compared."""

from __future__ import annotations

from collections.abc import Sequence

from torchprof.analysis.distributed.matched import matched
from torchprof.analysis.distributed.straggling import Late
from torchprof.analysis.records import Record
from torchprof.rendering.units import format_ns
from torchprof.trace.ranks import Ranks, listed
from torchprof.wording import counted

__all__ = ["came_last", "none_to_compare", "one_alone"]


def came_last(row: Record, found: Sequence[Late]) -> str:
    """``Rank 2 came last to 2 of 3 collectives, late by 5.33 ms ± 300 us of a step``.

    Args:
        row: of `late_rank_records`.
        found: all collectives that were compared. Where ranks of their groups are missing, it is of those that are there.
    """
    there = "" if all(each.match.is_whole for each in found) else ", of the ranks that are there,"
    which = f"Rank {row['rank']}{there} came last to {row['count']:,} of {counted(len(found), 'collective')}"
    if not row["late"]:
        return f"{which}, and was newly late to none"
    error = f" ± {format_ns(round(row['late_error']))}" if row["late_error"] else ""
    return f"{which}, late by {format_ns(round(row['late']))}{error} of a step"


def one_alone(ranks: Ranks) -> str:
    """That there is one rank, and whether others are missing; empty where there are several."""
    if len(ranks) > 1:
        return ""
    return "there is one rank" if ranks.world_size == 1 else f"rank {ranks.numbers[0]} alone is there of {ranks.world_size:,}"


def none_to_compare(ranks: Ranks) -> str:
    """Why no rank could be compared with another, where there is no collective of several."""
    if len(ranks) == 1:
        return one_alone(ranks) + (
            ", which waits for no other" if ranks.world_size == 1 else ": who came late takes the others too"
        )
    if matched(ranks).alone and not matched(ranks).matches:
        there = f"ranks {listed(ranks.numbers)} of {ranks.world_size:,}"
        return f"of every group, one rank alone is there, of {there}: who came late takes others of its group"
    return "no collective of several ranks was recorded that waits for all of them"

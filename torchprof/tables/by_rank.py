"""`torchprof.by_rank`: what every rank of a distributed program did in a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from torchprof.analysis.distributed.odd_ones import LEAST_RANKS, OddOne, odd_ones
from torchprof.analysis.distributed.rank_records import TIMES, rank_records
from torchprof.analysis.records import Record
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.tables.across_ranks import check_ranks, of_ranks
from torchprof.tables.columns import COLUMNS
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.ranks import Ranks, listed

__all__ = ["by_rank"]

MOST_NAMED: Final = 4
RULE: Final = (
    "Odd: away from the median of all ranks by 5% of a step (of the peak: 5% of it), 5 times the usual, and 3 standard errors"
)
TOO_FEW: Final = f"Odd: which one differs from the others is told of at least {LEAST_RANKS} ranks"


def by_rank(ranks: Ranks) -> Table:
    """What every rank did in a step: by phase, computing and communicating, its peak memory, and what is odd about it.

    *Compute* is the time in which it computed, *Comm* the time in which collectives ran, and *Exposed*, of that, the time in
    which nothing was computed meanwhile. Where devices worked, kernels of NCCL and RCCL communicate, and all others compute. On
    the CPU, innermost ops compute, and the threads of gloo communicate. A collective runs until the last rank has come: what is
    exposed may be waiting for a slower rank, which then has less of it itself. What is not known, as of aggregated recordings,
    is ``?``, or has no column.

    A rank is *odd* in a figure that differs from the median of all ranks by more than 5% of the median step (of the peak: of
    the median), by more than 5 times the usual difference from the median, which is the median of these differences as a
    standard deviation, and by more than 3 standard errors of its own mean over steps.

    Args:
        ranks: of ``torchprof.load("run/")``.

    Raises:
        ModuleTypeError: these are no ranks.

    Example:
        >>> print(torchprof.by_rank(torchprof.load("run/")))
    """
    check_ranks(ranks)
    records = rank_records(ranks)
    odd = odd_ones(records, TIMES, ("peak",))
    of: dict[int, list[OddOne]] = {record["rank"]: [] for record in records}
    for each in odd:
        of[each.rank].append(each)
    rows = [
        {
            "name": str(record["rank"]),
            **{name: value for name, value in record.items() if name != "errors"},
            "odd": [_text(each) for each in of[record["rank"]]],
        }
        for record in records
    ]
    columns = ["hostname", "coordinate", "steps", *TIMES, "peak", "odd"]
    optional = [name for name in columns if name != "time"]
    chosen = list(worth_showing(rows, columns, optional=optional))
    for name in ("hostname", "steps"):
        if name in chosen and len({row[name] for row in rows}) == 1:
            chosen.remove(name)
    below: tuple[str | About, ...] = (
        *of_ranks(ranks),
        *_spreads(rows, chosen),
        RULE if len(rows) >= LEAST_RANKS else TOO_FEW,
        *_named(odd),
    )
    return Table("Rank", rows, tuple(chosen), below, unknown="?")


def _text(odd: OddOne) -> str:
    away = odd.value - odd.median
    size = format_bytes(round(abs(away))) if odd.figure == "peak" else format_ns(round(abs(away)))
    return f"{COLUMNS[odd.figure].header} {'+' if away > 0 else '-'}{size}"


def _spreads(rows: Sequence[Record], shown: Sequence[str]) -> Iterator[About]:
    """How far the ranks are apart in the time of a step and in the peak."""
    for name, write in (("time", format_ns), ("peak", format_bytes)):
        known = sorted((row[name], row["rank"]) for row in rows if row[name] is not None)
        if len(known) > 1 and name in shown:
            (least, first), (most, last) = known[0], known[-1]
            if most == least:
                continue
            yield About(
                (name,),
                f"{COLUMNS[name].header}: {write(round(least))} (rank {first}) to {write(round(most))} (rank {last}), "
                f"{write(round(most - least))} apart",
            )


def _named(odd: Sequence[OddOne]) -> Iterator[str]:
    """Which ranks are odd, the most first."""
    if not odd:
        return
    ranks = list(dict.fromkeys(each.rank for each in odd))
    for number in ranks[:MOST_NAMED]:
        yield f"Odd one out: rank {number}: " + ", ".join(_text(each) for each in odd if each.rank == number)
    if len(ranks) > MOST_NAMED:
        yield f"Odd ones too: ranks {listed(sorted(ranks[MOST_NAMED:]))}"

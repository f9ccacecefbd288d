"""`torchprof.imbalance`: how evenly work and memory are divided between ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from torchprof.analysis.distributed.balance_records import FIGURES, balance_records, by_dimension, mesh_dimensions
from torchprof.analysis.records import Record
from torchprof.errors import ArgumentError
from torchprof.tables.across_ranks import check_ranks, of_ranks
from torchprof.tables.columns import COLUMNS
from torchprof.tables.footer import unknown_flops
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.ranks import Ranks
from torchprof.wording import shown

__all__ = ["imbalance"]

EVEN: Final = 1.005
"""Below this ratio of the most to the mean, nothing is said of a figure."""


def imbalance(ranks: Ranks, *, dimension: str | None = None) -> Table:
    """How evenly work and memory are divided between ranks: tokens, FLOPs, compute time and peak memory, each beside the mean.

    *Tokens* are the elements of the indices that the first embedding of forward was given in a step, where there is one.
    *FLOPs* are counted by formula, *Compute* is the time of kernels that are no collectives or, on the CPU, of innermost ops,
    and *Peak* is the most that a step held. *x mean* is each of these by the mean of all rows: ranks that train together take
    as long as the one with the most.

    Args:
        ranks: of ``torchprof.load("run/")``.
        dimension: of the device mesh, such as ``"dp"``: a row for each place along it, with means over the ranks there. None: a
            row for each rank.

    Raises:
        ModuleTypeError: these are no ranks.
        ArgumentError: no mesh has such a dimension: names those that there are.

    Example:
        >>> print(torchprof.imbalance(torchprof.load("run/")))
    """
    check_ranks(ranks)
    if dimension is None:
        rows, first, title = balance_records(ranks), "coordinate", "Rank"
    else:
        known = mesh_dimensions(ranks)
        if dimension not in known:
            there = f"give one of {', '.join(map(repr, known))}" if known else "the recordings have no mesh: leave it out"
            raise ArgumentError(f"dimension={shown(dimension)} is of no device mesh of these ranks: {there}")
        rows, first, title = by_dimension(ranks, dimension), "of_ranks", "Place"
    columns = [first, *(each for name in FIGURES for each in (name, f"{name}_ratio"))]
    chosen = worth_showing(rows, columns, optional=columns)
    unknown = {op for row in rows for op in row["flops_unknown"]} if "flops" in chosen else ()
    below: tuple[str | About, ...] = (*of_ranks(ranks), *_uneven(rows), *unknown_flops(unknown, None))
    return Table(title, rows, chosen, below, unknown="?")


def _uneven(rows: Sequence[Record]) -> Iterator[str | About]:
    """Of every figure that is not even, which row has the most."""
    for name in FIGURES:
        known = [row for row in rows if row[f"{name}_ratio"] is not None]
        if len(known) < 2:
            continue
        most, least = (pick(known, key=lambda row: row[name]) for pick in (max, min))
        ratio = most[f"{name}_ratio"]
        said = f"from {least[f'{name}_ratio']:.2f} x the mean ({_named(least)}) to {ratio:.2f} x ({_named(most)})"
        if ratio >= EVEN:
            yield About((name,), f"{COLUMNS[name].header}: {said}")


def _named(row: Record) -> str:
    return f"rank {row['rank']}" if "rank" in row else str(row["name"])

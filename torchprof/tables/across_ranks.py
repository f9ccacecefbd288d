"""What tables across ranks have in common: their footer, and the table by module of many ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from torchprof.analysis.distributed.module_ranks import module_ranks
from torchprof.analysis.distributed.rank_records import rank_records
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.errors import ArgumentError, ModuleTypeError
from torchprof.rendering.units import format_ns
from torchprof.tables.footer import unknown_flops
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace
from torchprof.wording import counted, shown

__all__ = ["check_ranks", "check_single_ops", "module_ranks_table", "of_ranks"]


def check_ranks(ranks: Any) -> None:
    """Raise ModuleTypeError unless these are `Ranks`."""
    if not isinstance(ranks, Ranks):
        how = "torchprof.Ranks.of([trace, ...])" if isinstance(ranks, Trace | list | tuple) else "torchprof.load('run/')"
        raise ModuleTypeError(f"ranks={shown(ranks)} must be torchprof.Ranks: give what {how} returns")


def check_single_ops(traces: Iterable[Trace]) -> None:
    """Raise ArgumentError unless each of these has the single ops that ask for collectives."""
    for each in traces:
        if each.facts.get("aggregate"):
            raise ArgumentError(f"trace={each!r} holds sums, and no single collectives: record without aggregate=True")
        if each.facts.get("ops") is False:
            raise ArgumentError(f"trace={each!r} has no ops, which ask for collectives: record with ops=True")


def of_ranks(ranks: Ranks) -> list[str]:
    """The lines below a table across ranks: over what its figures are means, and what is wrong with the ranks."""
    steps = sorted({int((trace.steps["warmup"] == 0).sum()) for trace in ranks})
    if steps == [0]:
        over = "one recording each"
    else:
        over = (
            f"means of {counted(steps[-1], 'step')} each"
            if len(steps) == 1
            else f"means of {steps[0]:,} to {steps[-1]:,} steps"
        )
    which = f"{counted(len(ranks), 'rank')}" + (f" of {ranks.world_size:,}" if len(ranks) != ranks.world_size else "")
    times = (
        "host time, but for Device, Compute, Comm, Hidden, Exposed and Idle: device time"
        if any(map(has_kernels, ranks))
        else "host time"
    )
    return [f"{which}; {over}; {times}", *(f"Ranks: {problem}" for problem in ranks.problems)]


def module_ranks_table(ranks: Ranks, depth: int | None) -> Table:
    """The table by module of many ranks."""
    records = module_ranks(ranks)
    if depth is not None:
        records = [record for record in records if record["depth"] <= depth]
    columns = (
        "ranks calls time share slowest slowest_rank rank_spread device forward recompute backward optimizer flops".split()
    )
    if any(record.get("device") is None for record in records):
        columns.remove("device")
    optional = ("recompute", "optimizer", "flops", "device")
    chosen = worth_showing(records, columns, optional=optional)
    if all(record["ranks"] == len(ranks) for record in records):
        chosen = tuple(name for name in chosen if name != "ranks")
    unknown = {name for record in records for name in record["flops_unknown"]} if "flops" in chosen else ()
    known = [record["time"] for record in rank_records(ranks) if record["time"] is not None]
    of = f"a step of all ranks on average, {format_ns(round(float(np.mean(known))))}" if known else "a step"
    below: tuple[str | About, ...] = (
        *of_ranks(ranks),
        "Means over the ranks that have the module; Slowest and Rank: which took longest; Spread: slowest less fastest",
        About(("share",), f"Share: of {of}"),
        *unknown_flops(unknown, None),
    )
    return Table("Module", records, chosen, below, is_tree=True)

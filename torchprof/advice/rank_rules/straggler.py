"""Ranks that come late to what ranks do together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.loop import LEAST
from torchprof.advice.registry import NotTold, rank_rule
from torchprof.analysis.distributed.straggler_records import cause_records, step_time
from torchprof.analysis.distributed.straggling import BEFORE, NOT_TOLD, lateness
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.records import Record
from torchprof.rendering.units import format_ns
from torchprof.trace.ranks import Ranks
from torchprof.wording import counted

__all__ = ["straggler"]

ONCE: Final = (BEFORE.phase,)
"""What happens once, and is no cost of a step."""
OF_LATE: Final = 0.1
"""Part of what a rank is late by, below which a line is not named."""
ADVICE: Final = {
    "data": "Give this rank its batches in time: more workers of its DataLoader (num_workers, prefetch_factor), and data as "
    "near to it as that of the others.",
    "other": "Look at what Python of this rank does between ops, as logging, checkpoints or metrics that only it computes: "
    "torchprof.by_line of its trace.",
}
WORK: Final = (
    "Give every rank as much to do: batches of equal size, sequences sorted or packed by length, stages of equal cost. Where "
    "the work is equal, look at the machine: clocks, neighbors, threads. torchprof.imbalance(ranks) tells which."
)


@rank_rule("ranks that come late to collectives")
def straggler(ranks: Ranks) -> Iterator[Finding]:
    """The ranks that are late by a part of the step that counts, and what they did longer than the others."""
    if any(map(is_aggregated, ranks)):
        raise NotTold("the recordings were aggregated, which keeps no single collectives")
    found, step = lateness(ranks), step_time(ranks)
    if not found:
        raise NotTold("no collective was recorded that waits for all of its ranks")
    if not step:
        raise NotTold("the time of a step is not known")
    causes: dict[int, list[Record]] = {}
    for row in cause_records(ranks, found):
        if row["phase"] not in ONCE:
            causes.setdefault(row["rank"], []).append(row)
    is_step = any(len(trace.steps) for trace in ranks)
    for rank, rows in causes.items():
        late = sum(row["late"] for row in rows)
        if late < LEAST * step:
            continue
        most = next((row for row in rows if row["phase"] != NOT_TOLD.phase), rows[0])
        last = sum(each.rank == rank for each in found)
        high = min(round(late), round(step))
        yield Finding(
            "straggler",
            f"Rank {rank} came last to {last:,} of {counted(len(found), 'collective')}, late by {format_ns(round(late))} of a "
            f"step, mostly by {_doing(most)}",
            ADVICE.get(most["phase"], WORK),
            "https://docs.pytorch.org/docs/stable/notes/ddp.html",
            Worth(
                "step time" if is_step else "recording",
                0,
                high,
                round(step),
                measured=False,
                basis="the time by which it came after the median of the others, which wait unless they have other work",
            ),
            module=most["module"],
            lines=tuple(dict.fromkeys(line for row in rows if row["late"] >= OF_LATE * late for line in row["lines"])),
            details=tuple(f"{_doing(row)}: {format_ns(round(row['late']))} of a step longer" for row in rows),
        )


def _doing(row: Record) -> str:
    """``forward of encoder.0 (net.py:20 forward)``."""
    of = f" of {row['module']}" if row["module"] else ""
    at = f" ({row['lines'][0]})" if row["lines"] else ""
    words = {"other": "Python outside of ops", "data": "loading data", NOT_TOLD.phase: "nothing that is told"}
    return f"{words.get(row['phase'], row['phase'])}{of}{at}"

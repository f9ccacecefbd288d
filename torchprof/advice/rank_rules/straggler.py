"""Ranks that come late to what ranks do together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torchprof.advice.finding import Finding, Worth
from torchprof.advice.loop import LEAST
from torchprof.advice.registry import NotTold, rank_rule
from torchprof.analysis.distributed.straggler_records import cause_records, late_rank_records, step_time
from torchprof.analysis.distributed.straggling import NOT_TOLD, lateness
from torchprof.analysis.lines.stack_costs import is_aggregated
from torchprof.analysis.records import Record
from torchprof.rendering.units import format_ns
from torchprof.tables.late_words import came_last, none_to_compare
from torchprof.trace.ranks import Ranks

__all__ = ["straggler"]

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
        raise NotTold(none_to_compare(ranks))
    if not step:
        raise NotTold("the time of a step is not known")
    if not any(each.is_told or each.is_together for each in found):
        raise NotTold("the clocks of the ranks may be off by more than they are late by")
    causes: dict[int, list[Record]] = {}
    for row in cause_records(ranks, found):
        causes.setdefault(row["rank"], []).append(row)
    is_step = any(len(trace.steps) for trace in ranks)
    for by_rank in late_rank_records(ranks, found):
        late, rows = by_rank["late"], causes.get(by_rank["rank"], [])
        if not rows or late - by_rank["late_error"] < LEAST * step:
            continue
        most = next((row for row in rows if row["phase"] != NOT_TOLD.phase), rows[0])
        high = min(round(late), round(step))
        yield Finding(
            "straggler",
            f"{came_last(by_rank, found)}, {_part(most, late)} by {_doing(most)}",
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
            details=tuple(f"of that, {format_ns(round(row['late']))} by {_doing(row)}" for row in rows),
        )


def _part(row: Record, late: float) -> str:
    """How much of what a rank is late by has this cause."""
    return "mostly" if 2 * row["late"] > late else f"{format_ns(round(row['late']))} of it"


def _doing(row: Record) -> str:
    """``forward of encoder.0 (net.py:20 forward)``."""
    of = f" of {row['module']}" if row["module"] else ""
    at = f" ({row['lines'][0]})" if row["lines"] else ""
    words = {"other": "Python outside of ops", "data": "loading data", NOT_TOLD.phase: "nothing that is told"}
    return f"{words.get(row['phase'], row['phase'])}{of}{at}"

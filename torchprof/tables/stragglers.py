"""`torchprof.stragglers`: which rank came late to what ranks do together, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from torchprof.analysis.distributed.matched import SYNCHRONIZING, matched
from torchprof.analysis.distributed.straggler_records import (
    cause_records,
    collective_lateness_records,
    every_lateness_record,
    step_time,
)
from torchprof.analysis.distributed.straggling import BEFORE, NOT_TOLD, lateness
from torchprof.analysis.records import Record
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_ns
from torchprof.tables.across_ranks import check_ranks, check_single_ops, of_ranks
from torchprof.tables.clocks import clock_lines, clocks
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.ranks import Ranks
from torchprof.wording import counted

__all__ = ["Stragglers", "stragglers"]

SHOWN: Final = 10
NAMED: Final = 3
MEANINGS: Final = {
    BEFORE.phase: "before: it began its first step later than the others",
    NOT_TOLD.phase: "not told: nothing that it did took longer than in the others",
}


@dataclass(frozen=True)
class Stragglers(Printed):
    """Which ranks came late to collectives, and why. ``str()`` is the printed text.

    A rank comes to a collective when it asks for it or, where a kernel runs it, when the kernel begins. The last one is
    *behind* by the time from the median of the other ranks to it. *Late* is what of that is new: without what it was behind by
    already at the collective before, in the same group, if the others did not wait for that one. Its causes are what it did
    since then, as far as that took longer than in the median of the others: in which phase, for which module, at which line.
    The others wait that long, unless they have something else to do meanwhile. Of more than 16 ranks, the last is compared with
    the 15 that came nearest to the median.

    Attributes:
        ranks: the ranks.
    """

    ranks: Ranks

    @cached_property
    def causes(self) -> Table:
        """What made ranks late, the largest first: rank, phase, module, line, and nanoseconds of a step."""
        rows = cause_records(self.ranks, lateness(self.ranks))
        step = step_time(self.ranks)
        share = f"Share: of a step of all ranks on average, {format_ns(round(step))}" if step else ""
        said = [MEANINGS[phase] for phase in MEANINGS if any(row["phase"] == phase for row in rows)]
        columns = worth_showing(rows, ("phase", "module", "lines", "late", "share", "count"), ("module", "lines", "share"))
        return Table("Late rank", rows, columns, (*([About(("share",), share)] if share else []), *said))

    @cached_property
    def collectives(self) -> Table:
        """To which collectives they came late: by kind, group, module and line."""
        rows = collective_lateness_records(self.ranks, lateness(self.ranks))
        columns = ("calls", "group", "group_size", "by", "module", "lines", "last_rank", "last_share", "behind", "late")
        share = About(("last_share",), "Was last: of the calls of all steps")
        return Table("Collective", rows, worth_showing(rows, columns, ("group", "by", "module", "lines")), (share,))

    @cached_property
    def every(self) -> Table:
        """Every collective: its step, who came last, by how much, and ``causes`` of that in the rows."""
        rows = every_lateness_record(lateness(self.ranks))
        return Table("Collective", rows, ("step", "group_size", "module", "lines", "last_rank", "behind", "late"))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data: nanoseconds; of causes and of collectives those of a step, of every collective its own."""
        return {
            "causes": self.causes.to_dict(),
            "collectives": self.collectives.to_dict(),
            "every": self.every.to_dict(),
            "clocks": clocks(self.ranks).to_dict(),
            "remarks": list(self._remarks()),
        }

    def __repr__(self) -> str:
        return f"<Stragglers: {next(iter(self._headlines()))}>"

    def parts(self) -> Parts:
        yield from self._headlines()
        for table in (self.causes, self.collectives):
            if len(table):
                yield from table.head(SHOWN).parts()
        yield from self._remarks()

    def _headlines(self) -> Iterator[str]:
        found, step = lateness(self.ranks), step_time(self.ranks)
        if not found:
            yield "No collective of several ranks was recorded that waits for all of them"
            return
        late: dict[int, list[Record]] = {}
        for row in self.causes.rows:
            late.setdefault(row["rank"], []).append(row)
        times = {rank: sum(row["late"] for row in rows) for rank, rows in late.items()}
        if not times:
            yield f"No rank was late to any of {counted(len(found), 'collective')}"
        for rank in sorted(times, key=lambda rank: -times[rank])[:NAMED]:
            last = sum(each.rank == rank for each in found)
            share = f" ({100 * times[rank] / step:.1f}% of it)" if step else ""
            yield (
                f"Rank {rank} came last to {last:,} of {counted(len(found), 'collective')}, late by "
                f"{format_ns(round(times[rank]))} of a step{share}"
            )

    def _remarks(self) -> Iterator[str]:
        yield from of_ranks(self.ranks)
        yield from clock_lines(self.ranks)
        found = matched(self.ranks)
        if found.no_group:
            yield f"Left out: {counted(found.no_group, 'collective')} of which the process group is not known"
        if found.differ:
            yield f"Left out: {counted(found.differ, 'collective')} of steps in which ranks of a group asked for different ones"
        if others := sorted({match.kind for match in found.matches} - SYNCHRONIZING):
            yield f"Left out: what does not wait for all ranks: {', '.join(others)}"


def stragglers(ranks: Ranks) -> Stragglers:
    """Which rank came late to what ranks do together, and why: in which phase, for which module and at which line.

    At each collective that waits for all of its ranks, the last one is compared with the others: `Stragglers` says how. What it
    did longer than they did is summed up into a ranking of causes. Loading data is one of the phases.

    Args:
        ranks: of ``torchprof.load("run/")``, not aggregated. Their clocks are aligned as `clocks` says.

    Raises:
        ModuleTypeError: these are no ranks.
        ArgumentError: the trace of a rank has no single ops.

    Example:
        >>> print(torchprof.stragglers(torchprof.load("run/")))
    """
    check_ranks(ranks)
    check_single_ops(ranks)
    return Stragglers(ranks)

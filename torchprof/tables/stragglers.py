"""`torchprof.stragglers`: which rank came late to what ranks do together, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

from torchprof.analysis.distributed.matched import SYNCHRONIZING, matched
from torchprof.analysis.distributed.straggler_records import (
    cause_records,
    collective_lateness_records,
    every_lateness_record,
    late_rank_records,
    step_time,
)
from torchprof.analysis.distributed.straggling import NOT_TOLD, lateness
from torchprof.analysis.records import Record
from torchprof.rendering.grid import Parts
from torchprof.rendering.printed import Printed
from torchprof.rendering.units import format_ns
from torchprof.tables.across_ranks import check_ranks, check_single_ops, of_ranks
from torchprof.tables.clocks import clock_lines, clocks
from torchprof.tables.late_words import came_last, none_to_compare
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.ranks import Ranks, listed
from torchprof.wording import counted

__all__ = ["Stragglers", "stragglers"]

SHOWN: Final = 10
NAMED: Final = 3
PARTS: Final = "Late: of all that a rank is late by, the part that is put down to this; together they are that"
MEANING: Final = "not told: nothing that it did took longer than in the others"
ERROR: Final = "±: by how much the clocks may be off in that"


@dataclass(frozen=True)
class Stragglers(Printed):
    """Which ranks came late to collectives, and why. ``str()`` is the printed text.

    A rank comes to a collective when it asks for it or, where a kernel runs it, when the kernel begins. The last one is
    *behind* by the time from the median of the other ranks to it. *Late* is what of that is new: without what it was behind by
    already at the collective before, in the same group, if the others did not wait for that one, and without that by which it
    began its first step later, which happens once. Its causes are what it did since then, as far as that took longer than in
    the median of the others: in which phase, for which module, at which line. Where these add up to more than it is late by,
    which it then made good elsewhere, each counts with the same part of itself. Python between ops counts from when the last
    one had come to the collective before: until then, ranks may wait. The others wait as long as a rank is late,
    unless they have something else to do meanwhile. Of more than 16 ranks, the last is compared with the 15 that came nearest
    to the median. Figures of a step are means of the steps in which the collectives of the group were matched.

    Of hosts with clocks of their own, all of this is as far off as the clocks may be: *±*. A collective counts where the clocks
    tell who came last, and by more than they may be off. Ranks that come within a microsecond come together.

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
        said = [MEANING] if any(row["phase"] == NOT_TOLD.phase for row in rows) else []
        columns = ("phase", "module", "lines", "late", *_error(rows), "share", "count")
        chosen = worth_showing(rows, columns, ("module", "lines", "share"))
        about = [About(("late",), PARTS), About(("late_error",), ERROR), *([About(("share",), share)] if share else [])]
        return Table("Late rank", rows, chosen, (*about, *said))

    @cached_property
    def collectives(self) -> Table:
        """To which collectives they came late: by kind, group, module and line."""
        rows = collective_lateness_records(self.ranks, lateness(self.ranks))
        columns = (
            *("calls", "group", "group_size", "by", "module", "lines", "last_rank", "last_share", "behind", "late"),
            *_error(rows),
        )
        told = all(each.is_told or each.is_together for each in lateness(self.ranks))
        share = f"Was last: of the calls of all steps{'' if told else ' of which the clocks tell who was last'}"
        chosen = worth_showing(rows, columns, ("group", "by", "module", "lines"))
        about = About(("last_share",), share), About(("late_error",), ERROR)
        return Table("Collective", rows, chosen, about, unknown=None if told else "?")

    @cached_property
    def every(self) -> Table:
        """Every collective: its step, who came last, by how much, and ``causes`` of that in the rows."""
        rows = every_lateness_record(lateness(self.ranks))
        columns = ("step", "group_size", "module", "lines", "last_rank", "behind", *_error(rows), "late")
        return Table("Collective", rows, columns, unknown="?")

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data: nanoseconds; of causes and of collectives those of a step, of every collective its own."""
        return {
            "ranks": late_rank_records(self.ranks, lateness(self.ranks)),
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
            reason = none_to_compare(self.ranks)
            yield f"{reason[0].upper()}{reason[1:]}"
            return
        rows = late_rank_records(self.ranks, found)
        untold = [each for each in found if not each.is_told and not each.is_together]
        if not rows and len(untold) == len(found):
            yield f"Who came last to {counted(len(found), 'collective')} is not told by the clocks"
        elif not rows:
            yield f"No rank was late to any of {counted(len(found) - len(untold), 'collective')}"
        for row in rows[:NAMED]:
            share = f" ({100 * row['late'] / step:.1f}% of it)" if step and row["late"] else ""
            yield f"{came_last(row, found)}{share}"
        if (more := len(rows) - NAMED) > 0:
            late = sum(row["late"] for row in rows[NAMED:])
            yield f"{counted(more, 'further rank was', 'further ranks were')} late by {format_ns(round(late))} of a step in all"
        yield from _within_errors(rows[: NAMED + 1])

    def _remarks(self) -> Iterator[str]:
        yield from of_ranks(self.ranks)
        yield from clock_lines(self.ranks)
        late = lateness(self.ranks)
        if begun := {each.rank: each.before for each in late if each.before > 0}:
            said = ", ".join(f"rank {rank} by {format_ns(before)}" for rank, before in sorted(begun.items()))
            yield f"Began their first step later than the others: {said}; that happens once, and is in no figure of a step"
        if untold := [each.came for each in late if not each.is_told and not each.is_together]:
            either = listed(sorted({number for came in untold for number in (came.rank, *came.rivals)}))
            which = f"which of ranks {either} came last to {counted(len(untold), 'collective')}"
            yield f"Not told: {which}: they came nearer to each other than the clocks may be off"
        found = matched(self.ranks)
        if found.no_group:
            yield f"Left out: {counted(found.no_group, 'collective')} of which the process group is not known"
        if found.differ:
            yield f"Left out: {counted(found.differ, 'collective')} of steps in which ranks of a group asked for different ones"
        if found.alone:
            yield f"Left out: {counted(found.alone, 'collective')} of groups of which one rank alone is there"
        if partial := sum(not match.is_whole for match in found.matches if match.kind in SYNCHRONIZING):
            yield f"Of {counted(partial, 'collective')}, ranks of the group are missing: one of them may have come last"
        if others := sorted({match.kind for match in found.matches} - SYNCHRONIZING):
            yield f"Left out: what does not wait for all ranks: {', '.join(others)}"


def _error(rows: Sequence[Record]) -> tuple[str, ...]:
    """The column of the error of clocks, where they have one."""
    return ("late_error",) if any(row["late_error"] != 0 for row in rows) else ()


def _within_errors(rows: Sequence[Record]) -> Iterator[str]:
    """Which of these ranks, the latest first, may be later than the one before, by the error of the clocks."""
    for first, second in pairwise(rows):
        error = first["late_error"] + second["late_error"]
        if error and first["late"] - second["late"] < error:
            either = f"rank {first['rank']} and rank {second['rank']}"
            yield f"Which of {either} is late by more is not told: the clocks may be off by more than that"


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

"""Sums of who came last: by cause, by collective, and one for every collective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from torchprof.analysis.distributed.activities import Activity
from torchprof.analysis.distributed.arrivals import Arrivals
from torchprof.analysis.distributed.matched import matched
from torchprof.analysis.distributed.rank_records import rank_records
from torchprof.analysis.distributed.straggling import Late
from torchprof.analysis.records import Record, whole
from torchprof.trace.ranks import Ranks

__all__ = ["cause_records", "collective_lateness_records", "every_lateness_record", "last_of", "late_rank_records", "step_time"]


def step_time(ranks: Ranks) -> float | None:
    """The mean step of all ranks; None where it is not known."""
    known = [record["time"] for record in rank_records(ranks) if record["time"] is not None]
    return float(np.mean(known)) if known else None


def late_rank_records(ranks: Ranks, found: Sequence[Late]) -> list[Record]:
    """One record for every rank that came last to a collective, the latest first.

    Keys: ``rank``; ``count``, to how many collectives it came last, of those that the clocks tell; ``late``, nanoseconds of a
    step by which it was newly late to them, and ``late_error``, how far that may be off, by the clocks.
    """
    steps = matched(ranks).steps
    of_ranks: dict[int, list[Late]] = {}
    for each in found:
        if each.is_told:
            of_ranks.setdefault(each.rank, []).append(each)
    records = [
        {"rank": rank, "count": len(of), "late": _late(of, steps), "late_error": _error(of, steps)}
        for rank, of in of_ranks.items()
    ]
    return sorted(records, key=lambda record: -record["late"])


def cause_records(ranks: Ranks, found: Sequence[Late]) -> list[Record]:
    """One record for every cause, the largest first.

    Keys: ``name`` and ``rank``, who came last; ``phase module lines``, what it did; ``late``, nanoseconds of a step by which
    that made it late, and ``late_error``, how far that may be off, by the clocks; ``share``, of a step; ``count``, to how many
    collectives in all.
    """
    steps, step = matched(ranks).steps, step_time(ranks)
    sums: dict[tuple[int, Activity], list[tuple[float, float]]] = {}
    for each in found:
        for activity, time in each.causes.items() if each.is_told else ():
            of_step = time / steps[each.match.members]
            sums.setdefault((each.rank, activity), []).append((of_step, of_step * (each.came.error or 0) / each.new))
    records = [
        {
            "name": str(rank),
            "rank": rank,
            **_of_activity(activity),
            "late": (late := sum(time for time, _ in times)),
            "late_error": sum(error for _, error in times),
            "share": late / step if step else None,
            "count": len(times),
        }
        for (rank, activity), times in sums.items()
    ]
    return sorted(records, key=lambda record: -record["late"])


def collective_lateness_records(ranks: Ranks, found: Sequence[Late]) -> list[Record]:
    """One record for what is of one kind, in one group, for one module and by one line, the latest first.

    Keys: ``name by group module lines``; ``calls`` in a step; ``last_rank``, who came last most often, and ``last_share``, to
    how many of those of which it is told; ``behind``, nanoseconds by which the last one came after the median of the others,
    the mean of these; ``late`` and ``late_error`` as for causes. None where the clocks tell none of them, or all came together.
    """
    steps = matched(ranks).steps
    groups: dict[tuple[str, str, tuple[int, ...], str, str], list[Late]] = {}
    for each in found:
        call = each.call
        groups.setdefault((each.match.kind, call.by, each.match.members, call.module, call.line), []).append(each)
    called_so: dict[str | None, set[tuple[int, ...]]] = {}
    for members, of in ((key[2], of) for key, of in groups.items()):
        called_so.setdefault(of[0].call.group, set()).add(members)
    records = []
    for (kind, by, members, module, line), of in groups.items():
        label = of[0].call.group
        if label is not None and len(called_so[label]) > 1:  # as of a dimension of a mesh, in which there are several
            label = f"{label} of {listed(members)}"
        known = [each for each in of if each.is_told or each.is_together]
        last = last_of(known)
        records.append(
            {
                "name": kind,
                "by": by,
                "group": label,
                "group_size": len(members),
                "module": module,
                "lines": [line] if line else [],
                "calls": whole(len(of) / steps[members]),
                "last_rank": last,
                "last_share": sum(each.is_told and each.rank == last for each in known) / len(known) if known else None,
                "behind": sum(each.late for each in known) / len(known) if known else None,
                "late": _late(known, steps) if known else None,
                "late_error": _error(known, steps),
            }
        )
    return sorted(records, key=lambda record: -(record["late"] or 0))


def last_of(found: Sequence[Late | Arrivals]) -> int | None:
    """The rank that came last to most of these; None where that is told of none."""
    numbers = [each.rank for each in found if each.is_told]
    return max(dict.fromkeys(numbers), key=numbers.count) if numbers else None


def every_lateness_record(found: Sequence[Late]) -> list[Record]:
    """One record for every collective, in their order.

    Keys: ``name step group_size module lines``; ``last_rank``; ``behind`` and ``late_error``, how far that may be off; of it
    ``before``, by which it began its first step later, and ``late``; ``causes``, a list of dicts with ``phase module lines
    late``, which add up to ``late``; ``rivals``, ranks that may have come last instead, by the error of the clocks; and
    ``told``, whether this rank came last for certain.
    """
    return [
        {
            "name": each.match.kind,
            "step": each.match.step,
            "group_size": len(each.match.members),
            "module": each.call.module,
            "lines": [each.call.line] if each.call.line else [],
            "last_rank": each.rank,
            "behind": each.late,
            "late_error": each.came.error,
            "before": each.before,
            "late": each.new,
            "causes": [
                {**_of_activity(activity), "late": time}
                for activity, time in sorted(each.causes.items(), key=lambda cause: -cause[1])
            ],
            "rivals": list(each.came.rivals),
            "told": each.is_told,
        }
        for each in found
    ]


def _late(found: Sequence[Late], steps: Mapping[tuple[int, ...], int]) -> float:
    """Nanoseconds of a step by which ranks were newly late."""
    return float(sum(each.new / steps[each.match.members] for each in found if each.is_told))


def _error(found: Sequence[Late], steps: Mapping[tuple[int, ...], int]) -> float:
    """How far that may be off."""
    return float(sum((each.came.error or 0) / steps[each.match.members] for each in found if each.is_told and each.new))


def _of_activity(activity: Activity) -> Record:
    return {"phase": activity.phase, "module": activity.module, "lines": [activity.line] if activity.line else []}

"""Sums of who came last: by cause, by collective, and one for every collective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchprof.analysis.distributed.activities import Activity
from torchprof.analysis.distributed.rank_records import rank_records
from torchprof.analysis.distributed.straggling import Late
from torchprof.analysis.records import Record, whole
from torchprof.analysis.steps import active_steps
from torchprof.trace.ranks import Ranks

__all__ = ["cause_records", "collective_lateness_records", "every_lateness_record", "step_count", "step_time"]


def step_count(ranks: Ranks) -> int:
    """The steps that figures are means of: those of the rank with the most."""
    return max(1, *(len(active_steps(trace)) for trace in ranks))


def step_time(ranks: Ranks) -> float | None:
    """The mean step of all ranks; None where it is not known."""
    known = [record["time"] for record in rank_records(ranks) if record["time"] is not None]
    return float(np.mean(known)) if known else None


def cause_records(ranks: Ranks, found: Sequence[Late]) -> list[Record]:
    """One record for every cause, the largest first.

    Keys: ``name`` and ``rank``, who came last; ``phase module lines``, what it did; ``late``, nanoseconds of a step by which
    that made it late; ``share``, of a step; ``count``, to how many collectives in all.
    """
    steps, step = step_count(ranks), step_time(ranks)
    sums: dict[tuple[int, Activity], list[int]] = {}
    for each in found:
        for activity, time in each.causes.items():
            sums.setdefault((each.rank, activity), []).append(time)
    records = [
        {
            "name": str(rank),
            "rank": rank,
            **_of_activity(activity),
            "late": sum(times) / steps,
            "share": sum(times) / steps / step if step else None,
            "count": len(times),
        }
        for (rank, activity), times in sums.items()
    ]
    return sorted(records, key=lambda record: -record["late"])


def collective_lateness_records(ranks: Ranks, found: Sequence[Late]) -> list[Record]:
    """One record for what is of one kind, in one group, for one module and by one line, the latest first.

    Keys: ``name by group module lines``; ``calls`` in a step; ``last_rank``, who came last most often, and ``last_share``, to
    how many of them; ``behind``, nanoseconds by which the last one came after the median of the others, the mean of all calls;
    ``late`` as for causes.
    """
    steps = step_count(ranks)
    groups: dict[tuple[str, str, tuple[int, ...], str, str], list[Late]] = {}
    for each in found:
        call = each.call
        groups.setdefault((each.match.kind, call.by, each.match.members, call.module, call.line), []).append(each)
    records = []
    for (kind, by, members, module, line), of in groups.items():
        numbers = [each.rank for each in of]
        last = max(dict.fromkeys(numbers), key=numbers.count)
        records.append(
            {
                "name": kind,
                "by": by,
                "group": of[0].call.group,
                "group_size": len(members),
                "module": module,
                "lines": [line] if line else [],
                "calls": whole(len(of) / steps),
                "last_rank": last,
                "last_share": numbers.count(last) / len(of),
                "behind": sum(each.late for each in of) / len(of),
                "late": sum(each.new for each in of) / steps,
            }
        )
    return sorted(records, key=lambda record: -record["late"])


def every_lateness_record(found: Sequence[Late]) -> list[Record]:
    """One record for every collective, in their order.

    Keys: ``name step group_size module lines``; ``last_rank``; ``behind``; ``late``; ``causes``, a list of dicts with
    ``phase module lines late``, which add up to ``late``.
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
            "late": each.new,
            "causes": [
                {**_of_activity(activity), "late": time}
                for activity, time in sorted(each.causes.items(), key=lambda cause: -cause[1])
            ],
        }
        for each in found
    ]


def _of_activity(activity: Activity) -> Record:
    return {"phase": activity.phase, "module": activity.module, "lines": [activity.line] if activity.line else []}

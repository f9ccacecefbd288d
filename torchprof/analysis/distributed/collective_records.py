"""Sums of collectives by what they are and what they served: the records of the table by collective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from torchprof.analysis.distributed.bandwidth import bus_factor
from torchprof.analysis.distributed.collectives import Collective, collectives_of
from torchprof.analysis.records import Record, whole
from torchprof.analysis.steps import active_steps
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["collective_records", "collective_records_of_ranks"]

Key = tuple[str, str, str | None, int | None, str, str]
SUMS: Final = ("bytes", "asked", "waited", "ran")


def collective_records(trace: Trace) -> list[Record]:
    """One record for what is of one kind, asked for by the same, in one group, for one module and by one line.

    Keys: ``name`` (the kind), ``by group group_size module line``; per step ``calls``, ``bytes`` and, in nanoseconds, ``asked
    waited ran``, each None where it is not known of every call; ``alg_rate`` and ``bus_rate``, bytes per second while it ran.
    Calls that still ran when the recording ended count as the mean of the others.
    """
    steps = max(1, len(active_steps(trace)))
    return [_record(key, each, steps) for key, each in _grouped(trace).items()]


def collective_records_of_ranks(ranks: Ranks) -> list[Record]:
    """The same, as means over the ranks that have it: ``ranks``, how many; ``longest``, of the rank in which it ran longest.

    Where all ranks recorded the same steps, the calls of a rank are those of the others in the same order. Then ``shortest`` is
    the time of the rank in which each call ran shortest: that one came last and waited for none, so nothing but the collective
    itself is in its time. Rates are those of that time. ``last_rank`` is the rank that came last most often.
    """
    same_steps = len({tuple(active_steps(trace)["number"].tolist()) for trace in ranks}) == 1
    found: dict[Key, dict[int, list[Collective]]] = {}
    steps = {}
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        steps[number] = max(1, len(active_steps(trace)))
        for key, each in _grouped(trace).items():
            found.setdefault(key, {})[number] = each
    return [_joined(key, of_ranks, steps, same_steps=same_steps) for key, of_ranks in found.items()]


def _grouped(trace: Trace) -> dict[Key, list[Collective]]:
    found: dict[Key, list[Collective]] = {}
    for each in collectives_of(trace).collectives:
        found.setdefault((each.kind, each.by, each.group, each.ranks, each.module, each.line), []).append(each)
    return found


def _record(key: Key, collectives: Sequence[Collective], steps: int) -> Record:
    kind, by, group, size, module, line = key
    record: Record = {"name": kind, "by": by, "group": group, "group_size": size, "module": module}
    record |= {"lines": [line] if line else [], "calls": whole(len(collectives) / steps)}
    for name in SUMS:
        values = [getattr(each, name) for each in collectives if name != "ran" or not each.unfinished]
        record[name] = _of_all(values, len(collectives)) / steps if values and None not in values else None
    return record | _rates(kind, size, record["bytes"], record["ran"])


def _of_all(values: Sequence[float], count: int) -> float:
    """The sum of so many values, of which those that are not known are taken to be the mean of the others."""
    return sum(values) if len(values) == count else sum(values) / len(values) * count


def _rates(kind: str, size: int | None, sent: float | None, ran: float | None) -> Record:
    alg = sent / ran * 1e9 if sent and ran else None
    factor = bus_factor(kind, size) if size is not None else None
    return {"alg_rate": alg, "bus_rate": alg * factor if alg is not None and factor is not None else None}


def _joined(key: Key, collectives: dict[int, list[Collective]], steps: dict[int, int], *, same_steps: bool) -> Record:
    records = {number: _record(key, each, steps[number]) for number, each in collectives.items()}
    joined: Record = {**next(iter(records.values())), "ranks": len(records)}
    for name in ("calls", *SUMS):
        values: list[Any] = [record[name] for record in records.values()]
        joined[name] = sum(values) / len(values) if None not in values else None
    joined["calls"] = whole(joined["calls"])
    joined |= dict.fromkeys(("shortest", "last_rank", "longest", "alg_rate", "bus_rate"))
    if joined["ran"] is None:
        return joined
    joined["longest"] = max(record["ran"] for record in records.values())
    if same_steps and len({len(each) for each in collectives.values()}) == 1:
        numbers, calls = list(collectives), list(zip(*collectives.values(), strict=True))
        finished = [call for call in calls if not any(each.unfinished for each in call)]
        if not finished:
            return joined
        ran = np.array([[each.ran for each in call] for call in finished])
        last = np.bincount(ran.argmin(axis=1), minlength=len(numbers))
        joined["shortest"] = _of_all(ran.min(axis=1).tolist(), len(calls)) / steps[numbers[0]]
        joined["last_rank"] = numbers[int(last.argmax())] if len(numbers) > 1 else None
        joined |= _rates(key[0], key[3], joined["bytes"], joined["shortest"])
    return joined

"""Sums of collectives by what they are and what they served: the records of the table by collective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

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
    """
    steps = max(1, len(active_steps(trace)))
    return [_record(key, each, steps) for key, each in _grouped(trace).items()]


def collective_records_of_ranks(ranks: Ranks) -> list[Record]:
    """The same, as means over the ranks that have it: ``ranks``, how many. Rates are of the rank in which it ran shortest.

    It came last and waited for none, so nothing but the collective itself is in its time: ``shortest`` and
    ``shortest_rank``; and ``longest``.
    """
    found: dict[Key, dict[int, Record]] = {}
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        steps = max(1, len(active_steps(trace)))
        for key, each in _grouped(trace).items():
            found.setdefault(key, {})[number] = _record(key, each, steps)
    return [_joined(records) for records in found.values()]


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
        values = [getattr(each, name) for each in collectives]
        record[name] = sum(values) / steps if None not in values else None
    return record | _rates(kind, size, record["bytes"], record["ran"])


def _rates(kind: str, size: int | None, sent: float | None, ran: float | None) -> Record:
    alg = sent / ran * 1e9 if sent and ran else None
    factor = bus_factor(kind, size) if size is not None else None
    return {"alg_rate": alg, "bus_rate": alg * factor if alg is not None and factor is not None else None}


def _joined(records: dict[int, Record]) -> Record:
    first = next(iter(records.values()))
    joined: Record = {**first, "ranks": len(records)}
    for name in ("calls", *SUMS):
        values: list[Any] = [record[name] for record in records.values()]
        joined[name] = sum(values) / len(values) if None not in values else None
    joined["calls"] = whole(joined["calls"])
    joined |= dict.fromkeys(("shortest", "shortest_rank", "longest", "alg_rate", "bus_rate"))
    if joined["ran"] is not None:
        by_time = sorted(records, key=lambda number: (records[number]["ran"], number))
        shortest = records[by_time[0]]
        joined |= {"shortest": shortest["ran"], "shortest_rank": by_time[0], "longest": records[by_time[-1]]["ran"]}
        joined |= {name: shortest[name] for name in ("alg_rate", "bus_rate")}
    return joined

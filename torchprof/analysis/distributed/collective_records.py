"""Sums of collectives by what they are and what they served: the records of the table by collective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torchprof.analysis.distributed.arrivals import arrivals
from torchprof.analysis.distributed.bandwidth import bus_factor
from torchprof.analysis.distributed.collectives import Collective, collectives_of
from torchprof.analysis.distributed.matched import Match, matched
from torchprof.analysis.distributed.straggler_records import last_of
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

    ``shortest`` is the time of the rank in which each call ran shortest: that one waited least, so hardly anything but the
    collective itself is in its time. Rates are those of that time. It takes calls that are matched with those of all ranks of
    their group, as any other may have come last: ``whole`` is the share of these among all. ``last_rank`` is the rank that came
    last most often, of those that are there, as `arrivals` has it.
    """
    of_calls = {(number, call.op): match for match in matched(ranks).matches for number, call in match.calls.items()}
    of_matches = {id(each.match): each for each in arrivals(ranks)}
    found: dict[Key, dict[int, list[Collective]]] = {}
    steps = {}
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        steps[number] = max(1, len(active_steps(trace)))
        for key, each in _grouped(trace).items():
            found.setdefault(key, {})[number] = each
    records = []
    for key, of_ranks in found.items():
        joined, all_of_it = _joined(key, of_ranks, steps), _Together.of(of_ranks, of_calls)
        joined |= {"whole": all_of_it.share, **_shortest(key, joined, all_of_it.finished)}
        joined["last_rank"] = last_of([of_matches[id(match)] for match in all_of_it.matches if id(match) in of_matches])
        records.append(joined)
    return records


@dataclass(frozen=True, slots=True)
class _Together:
    """What calls of several ranks, which are one row, are part of.

    Attributes:
        matches: those that any of them is of.
        finished: of every collective that all ranks of its group were recorded in, and of which it is known when it ran, the
            calls of all of them.
        share: of the calls, those of which all ranks were recorded.
    """

    matches: list[Match]
    finished: list[list[Collective]]
    share: float

    @classmethod
    def of(cls, of_ranks: Mapping[int, Sequence[Collective]], of_calls: Mapping[tuple[int, int], Match]) -> _Together:
        calls = [(of_calls.get((number, call.op)), call) for number, each in of_ranks.items() for call in each]
        matches = {id(match): match for match, _ in calls if match is not None}
        alone = [[call] for _, call in calls if call.ranks == 1]
        whole = [*alone, *(list(match.calls.values()) for match in matches.values() if match.is_whole)]
        count = len(alone) + sum(match is not None and match.is_whole for match, _ in calls)
        finished = [each for each in whole if all(call.ran is not None and not call.unfinished for call in each)]
        return cls(list(matches.values()), finished, count / len(calls))


def _shortest(key: Key, joined: Record, finished: Sequence[Sequence[Collective]]) -> Record:
    """The time of the rank that waited least, of a step, and the rates of that time."""
    if joined["ran"] is None or not finished:
        return {"shortest": None, **_rates(key[0], key[3], None, None)}
    shortest = [min(call.ran or 0 for call in each) for each in finished]
    sizes = [each[0].bytes for each in finished]
    sent = sum(size or 0 for size in sizes) if None not in sizes else None
    return {
        "shortest": sum(shortest) / len(shortest) * joined["calls"],
        **_rates(key[0], key[3], sent, sum(shortest)),
    }


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


def _joined(key: Key, collectives: dict[int, list[Collective]], steps: dict[int, int]) -> Record:
    """The means over ranks of what each can tell of itself."""
    records = {number: _record(key, each, steps[number]) for number, each in collectives.items()}
    joined: Record = {**next(iter(records.values())), "ranks": len(records)}
    for name in ("calls", *SUMS):
        values: list[Any] = [record[name] for record in records.values()]
        joined[name] = sum(values) / len(values) if None not in values else None
    joined["calls"] = whole(joined["calls"])
    joined["longest"] = max(record["ran"] for record in records.values()) if joined["ran"] is not None else None
    return joined

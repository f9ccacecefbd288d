"""The timelines of many ranks as one: every rank is a process, on one time line, and arrows lead along collectives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from torchprof.analysis.distributed.clocks import clocks_of
from torchprof.analysis.distributed.matched import Match, matched
from torchprof.exporters.trace_events import FIRST_THREAD, chunks, microseconds
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["facts_of_ranks", "process_of", "rank_events", "shifted"]

OF_A_RANK: Final = 1_000
"""Processes of a rank: itself, and its devices."""
ARROWS_OF_A_RANK: Final = 2**40
TIMES: Final = {
    "ops": ("start", "end"),
    "module_calls": ("start", "end"),
    "allocations": ("start", "end"),
    "allocator_totals": ("time",),
    "marks": ("time",),
    "steps": ("start", "end"),
}
"""Columns of times that are not negative, but for -1, which means none."""
OF_DEVICES: Final = {"kernels": ("start", "end"), "runtime_calls": ("start", "end")}
PID: Final = re.compile(r'"pid":(\d+)')
ID: Final = re.compile(r'"id":(\d+)')
PROCESS: Final = '"name":"process_name","args":{"name":"'


def rank_events(ranks: Ranks, events_of: Callable[[Trace], Iterator[list[str]]]) -> Iterator[list[str]]:
    """The events of all ranks.

    Args:
        events_of: those of one trace, whose own process is 1.
    """
    origins = clocks_of(ranks).origins
    begin = min(origins.values())
    for row, (number, trace) in enumerate(zip(ranks.numbers, ranks, strict=True)):
        label, process = process_of(ranks, row), _process(row, 1)
        named = f'{{"ph":"M","pid":{process},"name":"process_name","args":{{"name":{json.dumps(label)}}}}}'
        place = f'{{"ph":"M","pid":{process},"name":"process_sort_index","args":{{"sort_index":{process}}}}}'
        yield [named, place] if row else [place]  # the first is named by the head of the file
        for events in events_of(shifted(trace, origins[number] - begin)):
            yield _of_rank(events, row, label)
    yield from _arrows(ranks, {number: origin - begin for number, origin in origins.items()})


def process_of(ranks: Ranks, row: int) -> str:
    """What the process of a rank is called."""
    host = ranks[row].facts.get("host")
    return f"rank {ranks.numbers[row]}" + (f" on {host}" if isinstance(host, str) else "")


def facts_of_ranks(ranks: Ranks) -> dict[str, Any]:
    """What the head of the file says of all of them."""
    origin = int(ranks[0].facts.get("origin_unix_ns", 0)) + min(clocks_of(ranks).origins.values())
    losses = {str(number): trace.losses for number, trace in zip(ranks.numbers, ranks, strict=True) if trace.losses}
    return {
        "origin_unix_ns": origin,
        "ranks": list(ranks.numbers),
        "world_size": ranks.world_size,
        "problems": list(ranks.problems),
        "losses": losses,
    }


def shifted(trace: Trace, by: int) -> Trace:
    """The same trace, of which everything happens so many nanoseconds later."""
    if not by:
        return trace
    tables: dict[str, Any] = {}
    for name, columns in {**TIMES, **OF_DEVICES}.items():
        rows = getattr(trace, name).copy()
        for column in columns:
            keeps = name in TIMES and column != "time"
            rows[column] = np.where(rows[column] >= 0, rows[column] + by, rows[column]) if keeps else rows[column] + by
        tables[name] = rows
    facts = {**trace.facts, "duration_ns": int(trace.facts.get("duration_ns", 0)) + by}
    return replace(trace, **tables, facts=facts)


def _process(row: int, pid: int) -> int:
    return row * OF_A_RANK + pid


def _of_rank(events: list[str], row: int, label: str) -> list[str]:
    """Events of one trace, as those of a rank: a quotation mark inside a name has a backslash before it, so these are keys."""

    def moved(found: re.Match[str]) -> str:
        return f'"pid":{_process(row, int(found[1]))}'

    def numbered(found: re.Match[str]) -> str:
        return f'"id":{row * ARROWS_OF_A_RANK + int(found[1])}'

    named = json.dumps(label)[1:-1]
    return [
        ID.sub(numbered, PID.sub(moved, event, count=1), count=1).replace(PROCESS, f"{PROCESS}{named}, ", 1) for event in events
    ]


def _arrows(ranks: Ranks, shifts: dict[int, int]) -> Iterator[list[str]]:
    """An arrow for each collective, from the rank that asked first to the one that asked last."""
    rows = {number: row for row, number in enumerate(ranks.numbers)}
    traces = dict(zip(ranks.numbers, ranks, strict=True))
    matches = matched(ranks).matches
    for part in chunks(len(matches)):
        events = []
        for at, match in enumerate(matches[part], start=part.start):
            stops = sorted(_asked(match, traces, shifts))
            for stop, (time, number, thread) in enumerate(stops):
                kind = '"ph":"s"' if not stop else '"ph":"f","bp":"e"' if stop == len(stops) - 1 else '"ph":"t"'
                common = f'"cat":"collective","name":"{match.kind}","id":{len(ranks) * ARROWS_OF_A_RANK + at}'
                where = f'"pid":{_process(rows[number], 1)},"tid":{FIRST_THREAD + thread}'
                events.append(f'{{{kind},{common},{where},"ts":{microseconds(time)}}}')
        yield events


def _asked(match: Match, traces: dict[int, Trace], shifts: dict[int, int]) -> Iterator[tuple[int, int, int]]:
    """When each rank asked, its number, and the thread that did."""
    for number, call in match.calls.items():
        op = traces[number].ops[call.op]
        yield int(op["start"]) + shifts[number], number, int(op["thread"])

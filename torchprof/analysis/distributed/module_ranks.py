"""What every module cost across ranks: the records of the table by module, joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from torchprof.analysis.model.module_tree import OUTSIDE
from torchprof.analysis.records import Record, whole
from torchprof.analysis.steps import PHASE_COLUMNS
from torchprof.analysis.time.module_means import module_means
from torchprof.analysis.time.module_records import DATA, OTHER
from torchprof.trace.ranks import Ranks

__all__ = ["MEANS", "module_ranks"]

LAST: Final = (OUTSIDE, DATA, OTHER)
"""What belongs to no module stands at the end."""
MEANS: Final = ("calls", "self", *PHASE_COLUMNS, "other", "device", "flops")
"""Figures of which a row has the mean over ranks, beside its time."""


@dataclass(slots=True)
class Node:
    """A module, with its record of every rank that has it, by number."""

    records: dict[int, Record] = field(default_factory=dict)
    children: dict[tuple[str, str, int], Node] = field(default_factory=dict)


def module_ranks(ranks: Ranks) -> list[Record]:
    """One record for every module that any rank has, parents first, and for what belongs to none.

    Keys: ``path name type depth``; ``ranks``, how many have it; of these the mean of ``time`` of a step and of ``calls self
    forward recompute backward optimizer data other``, of ``device`` and ``flops`` where all know them; ``share``, of the mean
    step of all ranks; ``slowest``, the most time, and ``slowest_rank``; ``fastest`` and ``fastest_rank``; ``rank_spread``, the
    difference between the two.
    """
    root = Node()
    steps = []
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        records = module_means(trace)
        steps += [record["time"] / record["share"] for record in records if record["share"]][:1]
        _add(root, number, records)
    step = float(np.mean(steps)) if steps else 0.0
    found: list[Record] = []
    _walk(root, step, found)
    return found


def _add(root: Node, number: int, records: list[Record]) -> None:
    """Put the records of a rank, parents first, into the tree."""
    above = [root]
    for record in records:
        del above[record["depth"] + 1 :]
        same = 0  # modules that are not registered may have one name
        while (key := (record["name"], record["type"], same)) in above[-1].children and number in above[-1].children[
            key
        ].records:
            same += 1
        node = above[-1].children.setdefault(key, Node())
        node.records[number] = record
        above.append(node)


def _walk(node: Node, step: float, found: list[Record]) -> None:
    children = list(node.children.values())
    for child in sorted(children, key=_is_last):  # others keep their order
        found.append(_joined(child.records, step))
        _walk(child, step, found)


def _is_last(node: Node) -> int:
    record = next(iter(node.records.values()))
    return 1 + LAST.index(record["name"]) if not record["path"] and not record["depth"] and record["name"] in LAST else 0


def _joined(records: dict[int, Record], step: float) -> Record:
    first = next(iter(records.values()))
    by_time = sorted(records, key=lambda number: (-records[number]["time"], number))
    slowest, fastest = by_time[0], by_time[-1]
    time = sum(record["time"] for record in records.values()) / len(records)
    return {
        **{name: first[name] for name in ("path", "name", "type", "depth")},
        "ranks": len(records),
        "time": time,
        "share": time / step if step else 0.0,
        **{name: mean for name in MEANS if (mean := _mean(records, name)) is not None or name == "flops"},
        "flops_unknown": sorted({op for record in records.values() for op in record["flops_unknown"]}),
        "slowest": records[slowest]["time"],
        "slowest_rank": slowest,
        "fastest": records[fastest]["time"],
        "fastest_rank": fastest,
        "rank_spread": records[slowest]["time"] - records[fastest]["time"],
    }


def _mean(records: dict[int, Record], name: str) -> Any:
    values: list[Any] = [record.get(name) for record in records.values()]
    if None in values:
        return None
    mean = sum(values) / len(values)
    return whole(mean) if name in ("calls", "flops") else mean

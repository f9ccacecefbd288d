"""Which collectives of several ranks are the same one: in every group the n-th of its kind in a step.

All ranks of a process group ask for its collectives in the same order. So those of one kind, in one group and one step, are the
same where all ranks of the group have as many of them; where they have not, as of a rank that was cut off, none of these is
matched. Two groups of the same ranks are told apart by their names, as their collectives may come in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from torchprof.analysis.distributed.collectives import Collective, collectives_of
from torchprof.analysis.distributed.groups import members_of
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["SYNCHRONIZING", "Match", "Matched", "matched", "steps_of_calls"]

SYNCHRONIZING: Final = frozenset({"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "barrier"})
"""Kinds that no rank leaves before the last has entered, as each needs something of every other."""

Key = tuple[tuple[int, ...], str, int]


@dataclass(frozen=True, slots=True)
class Match:
    """One collective, as every rank that was recorded saw it.

    Attributes:
        kind: ``"all-reduce"``, ...
        step: the number of the step.
        members: the ranks of its group, also those that were not recorded.
        calls: what each rank asked for, by its number.
    """

    kind: str
    step: int
    members: tuple[int, ...]
    calls: dict[int, Collective]

    @property
    def is_whole(self) -> bool:
        """Whether all ranks of the group were recorded. The one that came last may be missing elsewhere."""
        return len(self.calls) == len(self.members)


@dataclass(frozen=True, slots=True)
class Matched:
    """The collectives of several ranks.

    Attributes:
        matches: in the order in which the first rank of each asked.
        no_group: how many calls are of a group that is not known.
        differ: how many are of a step in which ranks of the group asked for different numbers of them.
        alone: how many are of a group of which no other rank was recorded.
        steps: for the members of each group, the steps in which its collectives were matched, of those that all of its ranks
            recorded: what figures of a step are means of. A step in which none was asked for counts.
    """

    matches: tuple[Match, ...]
    no_group: int
    differ: int
    alone: int
    steps: Mapping[tuple[int, ...], int]


@remembered
def matched(ranks: Ranks) -> Matched:
    """The collectives that several ranks were recorded in. Traces that hold sums alone have none."""
    found: dict[Key, dict[int, list[Collective]]] = {}
    no_group = 0
    for number, trace in zip(ranks.numbers, ranks, strict=True):
        calls = collectives_of(trace).collectives
        for call, step in zip(calls, steps_of_calls(trace, calls), strict=True):
            members = call.members or members_of(trace.facts, call.group, call.ranks, ranks.world_size)
            if members is None or number not in members:
                no_group += 1
            elif len(members) > 1:
                found.setdefault((members, call.kind, step), {}).setdefault(number, []).append(call)
    matches, differ, alone = [], 0, 0
    in_step: dict[tuple[int, ...], dict[int, bool]] = {}  # whether any was matched
    for (members, kind, step), of_members in found.items():
        there = [number for number in members if number in ranks.numbers]
        for of_ranks in _by_name(of_members, there):
            is_same = {len(of_ranks.get(number, ())) for number in there} == {len(next(iter(of_ranks.values())))}
            if len(there) == 1:
                alone += sum(map(len, of_ranks.values()))
            elif is_same:
                of_each = zip(*(of_ranks[number] for number in there), strict=True)
                matches += [Match(kind, step, members, dict(zip(there, each, strict=True))) for each in of_each]
            else:
                differ += sum(map(len, of_ranks.values()))
            of_group = in_step.setdefault(members, {})
            of_group[step] = of_group.get(step, False) or (is_same and len(there) > 1)
    steps = {members: _count(ranks, members, of_group) for members, of_group in in_step.items() if any(of_group.values())}
    return Matched(tuple(sorted(matches, key=_order)), no_group, differ, alone, steps)


def _by_name(calls: dict[int, list[Collective]], there: list[int]) -> Iterator[dict[int, list[Collective]]]:
    """The calls of every group of these ranks, by rank: of one group where they do not all call their groups the same."""
    names = {frozenset(call.group_name for call in calls.get(number, ())) for number in there}
    if len(names) > 1:
        yield calls
        return
    for name in sorted(names.pop(), key=str):
        yield {number: [call for call in of if call.group_name == name] for number, of in calls.items()}


def _count(ranks: Ranks, members: Iterable[int], is_matched: Mapping[int, bool]) -> int:
    """In how many of the steps that all of these recorded their collectives were matched, or there was none."""
    recorded = [set(active_steps(ranks.of_rank(number))["number"].tolist()) for number in members if number in ranks.numbers]
    common = set.intersection(*recorded)
    return max(1, len([step for step in common if is_matched.get(step, True)]))


def steps_of_calls(trace: Trace, calls: tuple[Collective, ...]) -> list[int]:
    """The number of the step of each; 0 without steps."""
    active = active_steps(trace)
    if not len(trace.steps):
        return [0] * len(calls)
    rows = step_of(trace.ops["start"][np.array([call.op for call in calls], dtype=np.int64)], trace, active)
    numbers: list[int] = active["number"][rows].tolist()
    return numbers


def _order(match: Match) -> tuple[int, int, int]:
    first = min(match.calls)
    return match.step, first, match.calls[first].op

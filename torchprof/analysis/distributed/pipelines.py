"""Which ranks are the stages of a pipeline: as its stages say, or as who sends to whom tells.

Where nothing says it, a rank is the stage before another one if what it sends after its forwards is what the other one receives
before its own: as many messages of the same sizes in every step, none of which is there before it was sent. Of several such
ranks it is one in the smallest process group that both are in, and of these the one where messages arrive soonest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchprof.analysis.distributed.clocks import READING, clocks_of
from torchprof.analysis.distributed.messages import Message, messages_of
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps, step_of
from torchprof.trace.ranks import Ranks
from torchprof.trace.schema import Phase, phases_of_calls
from torchprof.trace.trace import Trace

__all__ = ["Pipeline", "pipelines_of"]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Ranks each of which runs a part of a model on one microbatch after another.

    Attributes:
        ranks: the rank of every stage; a rank may have several.
        schedule: the class of its schedule; None where that is not known.
        microbatches: into how many a batch is divided; None where that is not known, or ranks say otherwise.
        is_told: whether stages say so themselves; else who sends to whom tells.
    """

    ranks: tuple[int, ...]
    schedule: str | None
    microbatches: int | None
    is_told: bool

    def stages_of(self, rank: int) -> list[int]:
        """The numbers of the stages that a rank has."""
        return [stage for stage, of in enumerate(self.ranks) if of == rank]

    @property
    def members(self) -> list[int]:
        """Its ranks, each once, in the order of their first stages."""
        return list(dict.fromkeys(self.ranks))


@remembered
def pipelines_of(ranks: Ranks) -> tuple[Pipeline, ...]:
    """The pipelines of a run whose traces have single ops, in the order of their ranks."""
    found: dict[tuple[int, ...], dict[str, set[Any]]] = {}
    for trace in ranks:
        for said in trace.facts.get("pipelines", ()):
            of = found.setdefault(tuple(said["ranks"]), {"schedule": set(), "microbatches": set()})
            for name, values in of.items():
                values.add(said[name])
    told = [
        Pipeline(of, _only(said["schedule"]), _only(said["microbatches"]), True)
        for of, said in found.items()
        if len(of) > 1 and any(number in ranks.numbers for number in of)
    ]
    return tuple(sorted(told or _chains(ranks), key=lambda pipeline: pipeline.ranks))


def _only(values: set[Any]) -> Any:
    """What all of them are; None where they differ."""
    return next(iter(values)) if len(values) == 1 else None


def _chains(ranks: Ranks) -> list[Pipeline]:
    """Pipelines of ranks that have one stage each, as their messages tell."""
    origins = clocks_of(ranks).origins
    traces = dict(zip(ranks.numbers, ranks, strict=True))
    sent, received = (
        {number: _of_steps(messages_of(trace), is_sent=is_sent) for number, trace in traces.items()}
        for is_sent in (True, False)
    )
    costs: dict[tuple[int, int, int, int], tuple[int, int]] = {}
    found: set[int] = set()
    for first in (number for number, sends in sent.items() if sends):
        for size, others in _groups_of(traces[first], ranks):
            for other in others:
                taken = _time_taken(sent[first], received[other], origins[first] - origins[other]) if other != first else None
                if taken is not None:
                    found.add(first)
                    costs[size, taken, first, other] = first, other
            if first in found:
                break  # nor in larger ones
    after: dict[int, int] = {}
    for _, (first, other) in sorted(costs.items()):
        if first not in after and other not in after.values():
            after[first] = other
    pipelines = []
    for first in sorted(after.keys() - after.values()):
        chain = [first]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        counts = {_microbatches(traces[number]) for number in chain}
        pipelines.append(Pipeline(tuple(chain), None, counts.pop() if len(counts) == 1 else None, False))
    return pipelines


def _of_steps(messages: Sequence[Message], *, is_sent: bool) -> dict[int, list[Message]]:
    """The messages of forward, by step."""
    found: dict[int, list[Message]] = {}
    for message in messages:
        if message.is_sent == is_sent and message.is_forward:
            found.setdefault(message.step, []).append(message)
    return found


def _time_taken(sends: Mapping[int, list[Message]], receives: Mapping[int, list[Message]], ahead: int) -> int | None:
    """Nanoseconds that all messages took; None where the ones cannot be the others.

    The first step may receive more, from when the stages agree on sizes.

    Args:
        ahead: what is added to times of who sends, so that they are by the clock of who receives.
    """
    if sends.keys() != receives.keys():
        return None
    taken = 0
    for step, of_step in sends.items():
        arrived = receives[step][-len(of_step) :]
        if [message.bytes for message in of_step] != [message.bytes for message in arrived]:
            return None
        for message, there in zip(of_step, arrived, strict=True):
            time = (there.done if there.done is not None else there.asked) - message.asked - ahead
            if there.done is not None and time < -READING:
                return None
            taken += abs(time)
    return taken


def _groups_of(trace: Trace, ranks: Ranks) -> list[tuple[int, set[int]]]:
    """The process groups of a rank, the smallest first, and last all ranks: their size, and who of them was recorded."""
    groups = [set(group["ranks"]) for group in trace.facts.get("process_groups", ())]
    known = sorted((len(group), sorted(group)) for group in groups if len(group) > 1)
    recorded = set(ranks.numbers)
    return [*((size, recorded & set(group)) for size, group in known), (ranks.world_size, recorded)]


def _microbatches(trace: Trace) -> int | None:
    """How often a model is called in forward of a step, where that is so in all steps."""
    calls = trace.module_calls
    outermost = calls["start"][(calls["parent"] < 0) & (phases_of_calls(calls) == Phase.FORWARD)]
    active = active_steps(trace)
    step = step_of(outermost, trace, active)
    counts = np.bincount(step[step >= 0], minlength=max(1, len(active)))
    return int(counts[0]) if len(set(counts.tolist())) == 1 and counts[0] else None

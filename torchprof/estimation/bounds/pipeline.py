"""A pipeline, played: how long its ranks are busy at least, and how long they wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

__all__ = ["Action", "PipelineWork", "Played", "played"]

FORWARD: Final = "F"
BACKWARD: Final = ("B", "I")
"""Those that give the stage before its gradient: full backward, and that without the gradients of weights."""


class Action(NamedTuple):
    """What a rank does with one microbatch.

    Attributes:
        stage, kind, microbatch: of which stage; ``"F"``, ``"B"``, ``"I"`` or ``"W"``, as PyTorch calls forward, backward, and
            the two halves of it.
        overlaps: whether it runs at once with the next one.
    """

    stage: int
    kind: str
    microbatch: int
    overlaps: bool = False

    @property
    def name(self) -> str:
        """As PyTorch writes it: ``"0F3"``."""
        return f"{self.stage}{self.kind}{self.microbatch}"


@dataclass(frozen=True, slots=True)
class PipelineWork:
    """What the ranks of a pipeline compute in a step.

    Attributes:
        orders: of each rank of the pipeline, its actions in order.
        flops: of an action, by its name, the fewest FLOPs by dtype. What is missing was not estimated.
        passes: how often a step runs the schedule.
        rank: which of the ranks the estimate is of.
    """

    orders: tuple[tuple[Action, ...], ...]
    flops: Mapping[str, Mapping[str, int]]
    passes: int
    rank: int

    @property
    def missing(self) -> tuple[int, ...]:
        """The stages of which it is not known what they compute."""
        return tuple(sorted({each.stage for order in self.orders for each in order if each.name not in self.flops}))

    def with_others(self, others: Iterable[PipelineWork]) -> PipelineWork:
        """The same with what other ranks know of their stages."""
        flops = {name: each for other in others for name, each in other.flops.items()}
        return replace(self, flops={**flops, **self.flops})

    def played(self, seconds: Callable[[Mapping[str, int]], float]) -> Played:
        """The least time of its ranks, where FLOPs take so many seconds."""
        times = {name: seconds(flops) for name, flops in self.flops.items()}
        return played(self.orders, times, self.passes, self.rank)


class Played(NamedTuple):
    """How long a pipeline takes at least.

    Attributes:
        batch: seconds until its last rank is done.
        busy: seconds of these in which one rank computes.
    """

    batch: float
    busy: float

    @property
    def bubble(self) -> float:
        """Seconds in which that rank waits."""
        return max(self.batch - self.busy, 0.0)


def played(orders: Sequence[Sequence[Action]], seconds: Mapping[str, float], passes: int = 1, rank: int = 0) -> Played:
    """The least time of a schedule: each rank takes its actions in order, and messages take no time.

    Args:
        orders: of each rank, its actions.
        seconds: of each action, by its name; what is missing takes no time.
        passes: how often the schedule runs, one after the other.
        rank: whose busy time is told.

    Example:
        >>> orders = [[Action(0, "F", 0), Action(0, "B", 0)], [Action(1, "F", 0), Action(1, "B", 0)]]
        >>> played(orders, {"0F0": 1.0, "0B0": 2.0, "1F0": 1.0, "1B0": 2.0})
        Played(batch=6.0, busy=3.0)
    """
    stages = {action.stage for order in orders for action in order}
    queues = [[(number, action) for number in range(passes) for action in order] for order in orders]
    done: dict[tuple[int, int, str, int], float] = {}
    clocks, places = [0.0] * len(orders), [0] * len(orders)
    going = True
    while going:
        going = False
        for each, queue in enumerate(queues):
            while places[each] < len(queue):
                together = _together(queue, places[each])
                needed = [need for number, action in together for need in _needs(number, action, stages)]
                if any(need not in done for need in needed):
                    break
                begin = max([clocks[each], *(done[need] for need in needed)])
                times = [seconds.get(action.name, 0.0) for _, action in together]
                for (number, action), time in zip(together, times, strict=True):
                    direction = FORWARD if action.kind == FORWARD else "B" if action.kind in BACKWARD else action.kind
                    done[number, action.stage, direction, action.microbatch] = begin + time
                clocks[each] = begin + sum(times)
                places[each] += len(together)
                going = True
    busy = passes * sum(seconds.get(action.name, 0.0) for action in orders[rank])
    return Played(max(clocks, default=0.0), busy)


Numbered = tuple[int, Action]


def _together(queue: Sequence[Numbered], place: int) -> Sequence[Numbered]:
    """The actions that run at once, from this one on. Each may be done before the others, so that is what is assumed."""
    end = place + 1
    while queue[end - 1][1].overlaps and end < len(queue):
        end += 1
    return queue[place:end]


def _needs(number: int, action: Action, stages: Iterable[int]) -> Iterator[tuple[int, int, str, int]]:
    """What has to be done before: of forward the stage before; of backward the one behind, and at the end its own forward."""
    if action.kind == FORWARD and action.stage - 1 in stages:
        yield number, action.stage - 1, FORWARD, action.microbatch
    if action.kind in BACKWARD:
        behind = action.stage + 1
        yield (
            (number, behind, "B", action.microbatch) if behind in stages else (number, action.stage, FORWARD, action.microbatch)
        )

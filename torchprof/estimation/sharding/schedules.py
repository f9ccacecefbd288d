"""What the ranks of a schedule send each other, as its lists of actions say, which every rank has of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import torch.distributed as dist

from torchprof.estimation.bounds.pipeline import Action
from torchprof.estimation.sharding.communication import dimension_of
from torchprof.estimation.sharding.messages import Message, Wait
from torchprof.estimation.torch_private import PIPELINES

__all__ = ["actions_of_schedule", "messages_of_schedule"]


def messages_of_schedule(schedule: Any) -> dict[int, list[Message | Wait]]:
    """The messages of each rank of a pipeline, by its number in the group; empty for a schedule without lists of actions.

    Args:
        schedule: of ``torch.distributed.pipelining``.
    """
    actions: Mapping[int, Sequence[Any]] = getattr(schedule, "pipeline_order_with_comms", None) or {}
    if not actions:
        return {}
    group = schedule._stages[0].group or dist.group.WORLD
    place = tuple(dist.get_process_group_ranks(group)), dimension_of(group)
    return {rank: list(_played(of_rank, schedule.stage_index_to_group_rank, place)) for rank, of_rank in actions.items()}


def actions_of_schedule(schedule: Any) -> tuple[tuple[Action, ...], ...]:
    """What each rank of a pipeline computes, in order, by its number in the group; empty where the schedule does not say it.

    Args:
        schedule: of ``torch.distributed.pipelining``.
    """
    orders: Mapping[int, Sequence[Any]] = getattr(schedule, "pipeline_order_with_comms", None) or schedule.pipeline_order or {}
    found = (tuple(_computing(orders[rank])) for rank in sorted(orders))
    if isinstance(schedule, PIPELINES.PipelineScheduleMulti):
        return tuple(found)
    return tuple(tuple(_counted(actions, schedule._n_microbatches)) for actions in found)


def _counted(actions: Sequence[Action], microbatches: int) -> Iterator[Action]:
    """The same with microbatches one after the other: PyTorch's list for 1F1B counts those of the last stage from 1, and has
    more than there are where there are few."""
    next_ones = {action.kind: count() for action in actions}
    for action in actions:
        if (number := next(next_ones[action.kind])) < microbatches:
            yield action._replace(microbatch=number)


def _computing(actions: Sequence[Any]) -> Iterator[Action]:
    kinds = PIPELINES.ComputationType
    computing = (kinds.FORWARD, kinds.FULL_BACKWARD, kinds.BACKWARD_INPUT, kinds.BACKWARD_WEIGHT)
    for action in actions:
        parts = [part for part in _flat([action]) if part.computation_type in computing]
        for number, part in enumerate(parts, 1):
            yield Action(part.stage_index, part.computation_type.value, part.microbatch_index, number < len(parts))


def _played(actions: Sequence[Any], ranks: Mapping[int, int], place: tuple[tuple[int, ...], str]) -> Iterator[Message | Wait]:
    """The messages of one rank, and where it waits for them."""
    kinds = PIPELINES.ComputationType
    begun: dict[tuple[str, int, int], int] = {}
    sends: list[int] = []
    for action in _flat(actions):
        kind, stage, microbatch = action.computation_type, action.stage_index, action.microbatch_index
        awaited = None
        if kind in (kinds.SEND_F, kinds.RECV_F, kinds.SEND_B, kinds.RECV_B):
            forward, sending = kind in (kinds.SEND_F, kinds.RECV_F), kind in (kinds.SEND_F, kinds.SEND_B)
            other = stage + (1 if forward == sending else -1)
            number = len(begun)
            begun[kind.name, stage, microbatch] = number
            if sending:
                sends.append(number)
            sender = stage if sending else other
            what = f"the {'output' if forward else 'gradient'} of stage {sender} for microbatch {microbatch}"
            yield Message("send" if sending else "receive", ranks[other], *place, 0, 0, what)
        elif kind == kinds.FORWARD:
            awaited = begun.get(("RECV_F", stage, microbatch))
        elif kind in (kinds.FULL_BACKWARD, kinds.BACKWARD_INPUT):
            awaited = begun.get(("RECV_B", stage, microbatch))
        if awaited is not None:
            yield Wait(awaited)
    yield from map(Wait, sends)


def _flat(actions: Sequence[Any]) -> Iterator[Any]:
    """Actions one after the other; those that overlap are begun in order."""
    for action in actions:
        if action is not None:
            yield from action.sub_actions or (action,)

"""The estimate of the rank that needs most of all, where each kind of rank is estimated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch.distributed as dist
from torch import nn

from torchprof.estimation.estimated import Estimate
from torchprof.estimation.fake.surroundings import undisturbed
from torchprof.estimation.sharding.building import built_sharded, local_part
from torchprof.estimation.sharding.deadlocks import check_messages
from torchprof.estimation.sharding.kinds_of_ranks import FEW, KindOfRank, classes_of_ranks
from torchprof.estimation.sharding.messages import ANYBODY, Message, Wait
from torchprof.estimation.sharding.pipelines import ranks_of_stages, stages_in
from torchprof.estimation.sharding.world import check_world, fake_world
from torchprof.estimation.torch_private import SHARDING
from torchprof.record.preserve import preserved_random_states

__all__ = ["largest_of_ranks"]


def largest_of_ranks(
    build: Any,
    world_size: int,
    estimated: Callable[[int], Estimate],
    messages: Mapping[int, Sequence[Message | Wait]],
    installed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Estimate:
    """The estimate of the rank that needs most; of equal ones, the first.

    Args:
        build: builds and shards the model as a rank does.
        world_size: how many ranks there are.
        estimated: of a rank, its estimate.
        messages: of each rank that was estimated so far, what it sent to single ranks and received.
        installed: what is to be in place while a rank is built, such as ``torch.cuda`` of a target.

    Raises:
        EstimateError: ranks would wait for each other for ever.
    """
    check_world(world_size, 0)

    @cache
    def built(rank: int) -> tuple[Any, tuple[int, ...] | None]:
        with preserved_random_states(), undisturbed(), fake_world(world_size, rank), installed():
            model = built_sharded(build)
            return (stages_in(model), tuple(_shapes(model))), _mesh_of(model)

    def signature(rank: int) -> Any:
        return built(rank)[0]

    classes = classes_of_ranks(world_size, signature, built(0)[1])
    found = {rank: estimated(rank) for rank in classes}
    unchecked = _estimate_peers(found, estimated, messages)
    check_messages(messages)
    largest = max(found.values(), key=lambda each: each.device_memory)  # of equal ones the first
    largest = replace(largest, held_late=_held_late(largest, found.values()))
    if largest.pipeline is not None:
        stages = (each.pipeline for each in found.values() if each.pipeline is not None)
        largest = replace(largest, pipeline=largest.pipeline.with_others(stages))

    def kind(rank: int, count: int) -> KindOfRank:
        return KindOfRank(rank, count, found[rank].device_memory, tuple(number for number, _ in signature(rank)[0]))

    kinds = {rank: kind(rank, count) for rank, count in classes.items()}
    for rank in sorted(found.keys() - classes.keys()):
        same = next(first for first in classes if signature(first) == signature(rank))
        if found[rank].device_memory != found[same].device_memory:  # it holds as much, and does something else
            kinds[rank] = kind(rank, 1)
            kinds[same] = replace(kinds[same], count=kinds[same].count - 1)
    if unchecked:
        said = f"whether ranks wait for each other for ever: more than {FEW} send to each other, of which {FEW} were looked at"
        largest = replace(largest, notes=(*largest.notes, said))
    return replace(largest, kinds_of_ranks=tuple(sorted(kinds.values(), key=lambda each: (-each.device_memory, each.rank))))


def _held_late(largest: Estimate, found: Iterable[Estimate]) -> int | None:
    """By how many bytes the most that any rank may need is more than what the largest needs; None where one is not known."""
    late = [(each.device_memory, each.held_late) for each in found]
    if any(more is None for _, more in late):
        return None
    return max(needed + (more or 0) for needed, more in late) - largest.device_memory


def _estimate_peers(
    found: dict[int, Estimate], estimated: Callable[[int], Estimate], messages: Mapping[int, Sequence[Message | Wait]]
) -> bool:
    """Estimate the ranks as well to which others send, and so on; returns whether some were left out, as they are too many."""
    while True:
        events = [event for rank in found for event in messages[rank] if isinstance(event, Message)]
        missing = {event.peer for event in events if event.peer != ANYBODY} - found.keys()
        if not missing or len(found) >= FEW:
            return bool(missing)
        for rank in sorted(missing)[: FEW - len(found)]:
            found[rank] = estimated(rank)


def _mesh_of(model: nn.Module) -> tuple[int, ...] | None:
    """The sizes of the dimensions along which ranks are laid out, as sharded parameters or stages tell; None where none do."""
    meshes = [
        parameter.device_mesh._get_root_mesh() for parameter in model.parameters() if isinstance(parameter, SHARDING.DTensor)
    ]
    if meshes:
        return tuple(max(meshes, key=lambda mesh: (mesh.size(), mesh.ndim)).shape)
    if len(ranks := ranks_of_stages(model)) > 1:
        apart = ranks[1] - ranks[0]
        return dist.get_world_size() // (len(ranks) * apart), len(ranks), apart
    return None


def _shapes(model: nn.Module) -> Iterable[Any]:
    """What a rank has of every parameter and buffer, and in which modules."""
    for module in model.modules():
        yield type(module)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        local = local_part(tensor)
        yield name, tuple(local.shape), local.dtype

"""The estimate of the rank that needs most of all, where each kind of rank is estimated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import nn

from torchprof.estimation.estimated import Estimate
from torchprof.estimation.fake.surroundings import undisturbed
from torchprof.estimation.sharding.building import built_sharded
from torchprof.estimation.sharding.kinds_of_ranks import KindOfRank, classes_of_ranks
from torchprof.estimation.sharding.world import check_world, fake_world
from torchprof.estimation.torch_private import SHARDING
from torchprof.record.preserve import random_states

__all__ = ["largest_of_ranks"]


def largest_of_ranks(build: Any, world_size: int, estimated: Callable[[int], Estimate]) -> Estimate:
    """The estimate of the rank that needs most; of equal ones, the first.

    Args:
        build: builds and shards the model as a rank does.
        world_size: how many ranks there are.
        estimated: of a rank, its estimate.
    """
    check_world(world_size, 0)

    def built(rank: int) -> tuple[Any, tuple[int, ...] | None]:
        with fake_world(world_size, rank):
            model = built_sharded(build)
            return tuple(_shapes(model)), _mesh_of(model)

    with ExitStack() as stack:
        for restore, state in random_states():  # the program may seed them
            stack.callback(restore, state)
        stack.enter_context(undisturbed())
        first, mesh = built(0)
        classes = classes_of_ranks(world_size, lambda rank: built(rank)[0] if rank else first, mesh)
    kinds: list[KindOfRank] = []
    largest: Estimate | None = None
    for rank, count in classes.items():
        found = estimated(rank)
        kinds.append(KindOfRank(rank, count, found.device_memory))
        if largest is None or found.device_memory > largest.device_memory:
            largest = found
    assert largest is not None
    return replace(largest, kinds_of_ranks=tuple(sorted(kinds, key=lambda kind: (-kind.device_memory, kind.rank))))


def _mesh_of(model: nn.Module) -> tuple[int, ...] | None:
    """The sizes of the dimensions along which the ranks are laid out, as the sharded parameters tell; None where none do."""
    meshes = [
        parameter.device_mesh._get_root_mesh() for parameter in model.parameters() if isinstance(parameter, SHARDING.DTensor)
    ]
    return tuple(max(meshes, key=lambda mesh: (mesh.size(), mesh.ndim)).shape) if meshes else None


def _shapes(model: nn.Module) -> Iterable[Any]:
    """What a rank has of every parameter and buffer, and in which modules."""
    for module in model.modules():
        yield type(module)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        local = tensor._local_tensor if isinstance(tensor, SHARDING.DTensor) else tensor
        yield name, tuple(local.shape), local.dtype

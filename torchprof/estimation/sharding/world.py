"""A world of ranks that is not there: the program runs as one of them, and its collectives return at once.

It is PyTorch's own ``"fake"`` backend of process groups. What the program says of ``"cuda"`` is done on the CPU, where fake
tensors are: meshes, ``torch.cuda.set_device`` and the like.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from torchprof.arguments import is_int
from torchprof.errors import ArgumentError, EstimateError
from torchprof.estimation.fake.callers import replaced, undispatched
from torchprof.estimation.sharding.communication import DEFAULT_GROUP, MESH
from torchprof.estimation.sharding.context_parallel import checked_context_parallel
from torchprof.estimation.sharding.equal_layouts import equal_layouts_found_once
from torchprof.estimation.sharding.hosts import PER_HOST
from torchprof.estimation.sharding.offload import shards_stay_pinned
from torchprof.estimation.sharding.pipelines import stages_known
from torchprof.estimation.sharding.replicas import hooks_kept
from torchprof.estimation.sharding.uncounted import layouts_without_memory, storages_resized_with_memory
from torchprof.estimation.sharding.unsupported import unsupported_refused
from torchprof.estimation.torch_private import ESTIMATE, SHARDING
from torchprof.wording import shown

__all__ = ["check_world", "fake_world"]


def check_world(world_size: Any, rank: Any) -> None:
    """Raise ArgumentError unless there is such a rank, and no process group that the world would take the place of."""
    if not is_int(world_size, 1):
        raise ArgumentError(f"world_size={shown(world_size)} must be how many ranks there are, an int of at least 1")
    if not is_int(rank, 0, world_size - 1):
        raise ArgumentError(
            f"rank={shown(rank)} must be one of the ranks of world_size={world_size}: an int from 0 to {world_size - 1}"
        )
    if not dist.is_available():
        raise EstimateError("world_size= needs torch.distributed, which this PyTorch was built without")
    if dist.is_initialized():
        raise ArgumentError(
            f"world_size={world_size} makes a world of its own, and torch.distributed is initialized already: call estimate "
            "before init_process_group, or in a process of its own"
        )


@contextmanager
def fake_world(world_size: int, rank: int) -> Iterator[None]:
    """This process is a rank of a world, until the block ends.

    Raises:
        ArgumentError, EstimateError: as `check_world` says.
    """
    check_world(world_size, rank)
    local = min(world_size, PER_HOST)
    variables = {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": rank % local,
        "LOCAL_WORLD_SIZE": local,
        "GROUP_RANK": rank // local,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 29500,  # as torchrun has it; nobody connects
    }
    with ExitStack() as stack:
        stack.callback(_put_back, {name: os.environ.get(name) for name in variables})
        os.environ.update({name: str(value) for name, value in variables.items()})
        stack.callback(_forget_layouts)
        _forget_layouts()
        stack.callback(_end)
        dist.init_process_group("fake", store=SHARDING.FakeStore(), rank=rank, world_size=world_size)
        stack.enter_context(_initialized_already())
        stack.enter_context(_meshes_on_the_cpu())
        stack.enter_context(layouts_without_memory())
        stack.enter_context(equal_layouts_found_once())
        stack.enter_context(storages_resized_with_memory())
        stack.enter_context(unsupported_refused())
        stack.enter_context(hooks_kept())
        stack.enter_context(checked_context_parallel())
        stack.enter_context(shards_stay_pinned())
        stack.enter_context(stages_known())
        yield


def _put_back(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _end() -> None:
    if dist.is_initialized():  # the program may have destroyed it
        dist.destroy_process_group()


def _forget_layouts() -> None:
    """DTensor remembers how an op is sharded by its arguments, whichever rank it was asked as."""
    SHARDING.clear_sharding_cache()


@contextmanager
def _initialized_already() -> Iterator[None]:
    """``init_process_group``, of whichever backend, finds the world."""

    @wraps(dist.init_process_group)
    def init_process_group(*args: Any, **options: Any) -> None:
        """The world is there; a program that says another is told."""
        for name, here in (("rank", dist.get_rank()), ("world_size", dist.get_world_size())):
            said = options.get(name, -1)
            if said not in (None, -1, here):
                raise ArgumentError(
                    f"the program calls init_process_group({name}={said}), and the estimate is of {name}={here}: pass "
                    f"{name}={said} to torchprof.estimate, or leave it out of init_process_group"
                )

    new_subgroups: Any = dist.new_subgroups

    @wraps(new_subgroups)
    def of_hosts(group_size: int | None = None, *args: Any, **options: Any) -> Any:
        """Groups are those of a host, by default, which has as many GPUs as ranks: ``torch.cuda`` answers for one."""
        if group_size is None and torch.cuda.is_available():
            group_size = min(dist.get_world_size(), PER_HOST)
        return new_subgroups(group_size, *args, **options)

    with (
        replaced(dist, "init_process_group", init_process_group),
        replaced(dist, "new_subgroups", of_hosts),
        replaced(torch.cuda, "set_device", _set_device),
    ):
        yield


def _set_device(device: Any) -> None:
    """There is one."""


@contextmanager
def _meshes_on_the_cpu() -> Iterator[None]:
    """A mesh of GPUs is one of the CPU. Its table of ranks is real, also where a program on fake tensors makes it."""
    mesh = DeviceMesh
    make = mesh.__init__

    @wraps(make)
    def init(self: Any, device_type: str, *args: Any, **options: Any) -> None:
        try:
            if isinstance(fake := options.get("_rank_map"), ESTIMATE.FakeTensor):  # init_device_mesh counts the ranks
                options["_rank_map"] = undispatched(torch.arange)(fake.numel(), dtype=fake.dtype)
            undispatched(make)(self, "cpu", *args, **options)
            _name_of_all(self)
        except RuntimeError as error:
            _explain(error)
            raise

    with ExitStack() as stack:
        stack.enter_context(replaced(mesh, "__init__", init))
        for name in ("__getitem__", "_flatten", "get_coordinate", "get_local_rank"):
            stack.enter_context(replaced(mesh, name, undispatched(getattr(mesh, name))))
        yield


def _name_of_all(mesh: DeviceMesh) -> None:
    """The group of all ranks has the name of the dimension that it is, if it has one, as groups of fewer ranks have."""
    everyone, groups = dist.group.WORLD, getattr(mesh, "_dim_group_names", ())  # of which a part of a mesh may have none
    if everyone is None or everyone.group_desc != DEFAULT_GROUP:
        return
    for name, group in zip(mesh.mesh_dim_names or (), groups, strict=False):
        if group == everyone.group_name:
            everyone._set_group_desc(f"{MESH}{name}")
            return


def _explain(error: RuntimeError) -> None:
    """Say in words that a mesh has more ranks than there are."""
    if "world size" in str(error):
        raise ArgumentError(f"world_size={dist.get_world_size()} does not do for the mesh of the program: {error}") from error

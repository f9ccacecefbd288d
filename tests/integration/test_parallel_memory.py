"""The memory of distributed training by category, on gloo ranks: against what the tensors hold themselves."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import torchprof

pytestmark = pytest.mark.filterwarnings("ignore")

FIRST, LAST = 256 * 512 * 4 + 512 * 4, 512 * 256 * 4 + 256 * 4
"""Bytes of the parameters of the two layers, unsharded."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))


def fsdp(world: int) -> nn.Module:
    model, mesh = network(), init_device_mesh("cpu", (world,))
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh)
    return model


def ddp(world: int) -> nn.Module:
    return DistributedDataParallel(network())


def ddp_of_views(world: int) -> nn.Module:
    return DistributedDataParallel(network(), gradient_as_bucket_view=True)


def tensor_parallel(world: int) -> nn.Module:
    return parallelize_module(network(), init_device_mesh("cpu", (world,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})


def local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def bytes_of(tensors: Any) -> int:
    """Of the storages of these, each once."""
    storages = [local(tensor).untyped_storage() for tensor in tensors if tensor is not None]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def worker(rank: int, world: int, port: int, make: Callable[[int], nn.Module], path: str) -> None:
    """Train, and save the trace of rank 0 with what is held according to the tensors themselves, by moment."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = make(world)
    update = torch.optim.AdamW(model.parameters())
    truth: dict[str, dict[str, int]] = {}

    def look(moment: str) -> None:
        prof.mark(moment)
        state = [value for each in update.state.values() for value in each.values() if isinstance(value, torch.Tensor)]
        split = [p for p in model.parameters() if isinstance(p, DTensor) and any(where.is_shard() for where in p.placements)]
        whole = [p for p in model.parameters() if not any(p is other for other in split)]
        truth[moment] = {
            "parameters": bytes_of(whole),
            "sharded parameters": bytes_of(split),
            "gradients": bytes_of(p.grad for p in whole),
            "sharded gradients": bytes_of(p.grad for p in split),
            "optimizer state": bytes_of(state),
        }

    with torchprof.profile(model) as prof:
        for number in range(4):
            loss = model(torch.rand(8, 256)).square().mean()
            look(f"forward {number}")
            loss.backward()
            look(f"backward {number}")
            update.step()
            look(f"update {number}")
            update.zero_grad()
            prof.step()
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        prof.trace.save(f"{path}/trace")
        torch.save(truth, f"{path}/truth")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def run(make: Callable[[int], nn.Module], world: int, path: Path) -> tuple[Any, dict[str, dict[str, int]]]:
    mp.spawn(worker, (world, free_port(), make, str(path)), nprocs=world)  # type: ignore[no-untyped-call]
    return torchprof.memory(torchprof.load(path / "trace")), torch.load(path / "truth")


def held_at(account: Any, moment: str) -> dict[str, int]:
    time, rows = account.trace.mark(moment), account.allocations
    held = (rows["start"] <= time) & ((rows["end"] < 0) | (rows["end"] > time))
    sums = np.bincount(account.category[held], weights=rows["bytes"][held], minlength=len(torchprof.CATEGORIES))
    return dict(zip(torchprof.CATEGORIES, sums.astype(int).tolist(), strict=True))


def agrees(account: Any, truth: dict[str, dict[str, int]]) -> None:
    assert account.device == "cpu"
    for moment, expected in truth.items():
        held = held_at(account, moment)
        assert {name: held[name] for name in expected} == expected, moment
    assert account.leaks == []
    assert account.leaks_unknown is None
    assert sum(account.by_category.values()) == account.peak.bytes


@pytest.mark.parametrize("world", [1, 2])
def test_fsdp_has_sharded_parameters_and_gradients_and_gathers_those_of_a_layer(world: int, tmp_path: Path) -> None:
    account, truth = run(fsdp, world, tmp_path)
    agrees(account, truth)
    assert truth["backward 1"]["sharded parameters"] == truth["backward 1"]["sharded gradients"] == (FIRST + LAST) // world
    sizes = account.allocations["bytes"]
    of = {name: account.category == torchprof.CATEGORIES.index(name) for name in torchprof.CATEGORIES}
    sent = set(sizes[of["communication buffers"]].tolist())
    assert {FIRST, LAST} <= sent, "what is reduced, and among ranks what is gathered"
    if world > 1:
        weights = {512 * 256 * 4, 512 * 4, 256 * 4}
        assert set(sizes[of["unsharded parameters"]].tolist()) == weights
        paths = {account.module_path(row) for row in np.flatnonzero(of["unsharded parameters"]).tolist()}
        assert paths == {"0", "2"}
    assert "sharded parameters" in str(account)


def test_tensor_parallel_has_sharded_parameters_and_gradients_beside_whole_ones(tmp_path: Path) -> None:
    account, truth = run(tensor_parallel, 2, tmp_path)
    agrees(account, truth)
    assert truth["update 3"]["parameters"] == 256 * 4, "the bias of the layer that is split by rows"


def test_the_buckets_of_distributed_data_parallel_are_communication_buffers(tmp_path: Path) -> None:
    account, truth = run(ddp, 2, tmp_path)
    agrees(account, truth)
    for number in range(4):
        assert FIRST + LAST <= held_at(account, f"update {number}")["communication buffers"] <= FIRST + LAST + 64


def test_buckets_that_are_the_gradients_count_as_gradients(tmp_path: Path) -> None:
    account, truth = run(ddp_of_views, 2, tmp_path)
    for moment in ("backward 3", "update 3"):
        assert held_at(account, moment)["gradients"] == truth[moment]["gradients"] == FIRST + LAST
    assert held_at(account, "update 3")["communication buffers"] <= 64

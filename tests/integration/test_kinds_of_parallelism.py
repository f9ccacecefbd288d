"""Four ranks that train in parallel over gloo in ways that send between some of them: sharded in one dimension of a mesh and
replicated in the other, in stages of a pipeline, with split optimizer states, with experts on other ranks, and unevenly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_parallel_memory import FIRST, LAST, free_port, local, network
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel

import torchprof

pytestmark = pytest.mark.filterwarnings("ignore")

WORLD: Final = 4
WARMUP: Final = 1
STEPS: Final = 3
ROWS: Final = 8
WIDTH: Final = 256
MICROBATCHES: Final = 4
SLOW: Final = 0.02
"""Seconds that the last stage of the pipeline takes longer in each forward."""
LONG, FULL = 2, 1
"""The rank with three times the tokens of the others, and the one that holds `HELD` bytes more."""
TOKENS: Final = 16
HELD: Final = 8 * 2**20


class Program:
    """What a rank trains, made anew for every run of it."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.data = torch.Generator().manual_seed(rank)
        self.model = self.make()
        self.update: Any = self.optimizer()

    def make(self) -> nn.Module:
        raise NotImplementedError

    def optimizer(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), 0.1)

    def batch(self) -> Tensor:
        return torch.rand(ROWS, WIDTH, generator=self.data)

    def step(self) -> None:
        self.model(self.batch()).square().mean().backward()
        self.update.step()
        self.update.zero_grad()


class Hybrid(Program):
    """Parameters sharded between two ranks, and each shard on two ranks."""

    def make(self) -> nn.Module:
        model, mesh = network(), init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        for part in (model[0], model[2], model):
            fully_shard(part, mesh=mesh)
        return model


class Zero(Program):
    """Optimizer states split between the ranks."""

    def make(self) -> nn.Module:
        return DistributedDataParallel(network())

    def optimizer(self) -> Any:
        return ZeroRedundancyOptimizer(self.model.parameters(), torch.optim.Adam, lr=0.01)


class Slow(nn.Module):
    """Takes its time in forward."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(SLOW)
        return x


class Pipeline(Program):
    """Two stages, each on two ranks that have batches of their own."""

    def make(self) -> nn.Module:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
        number = mesh.get_local_rank("pp")
        part = nn.Sequential(*network()[:2]) if number == 0 else nn.Sequential(network()[2], Slow())
        stage = PipelineStage(part, number, 2, torch.device("cpu"), group=mesh.get_group("pp"))
        self.schedule = Schedule1F1B(stage, MICROBATCHES, loss_fn=nn.functional.mse_loss)
        self.is_first = number == 0
        return part

    def step(self) -> None:
        if self.is_first:
            self.schedule.step(self.batch())
        else:
            self.schedule.step(target=torch.ones(ROWS, WIDTH))
        self.update.step()
        self.update.zero_grad()


class Exchange(torch.autograd.Function):
    """Sends an equal part of the rows to every rank, and back in backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        found = torch.empty_like(rows)
        dist.all_to_all_single(found, rows.contiguous())
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return Exchange.forward(ctx, gradients[0])


class Mixture(nn.Module):
    """A layer of as many experts as there are ranks, of which this rank has one."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return Exchange.apply(self.expert(Exchange.apply(x)))  # type: ignore[no-untyped-call]


class Experts(Program):
    """Rows are routed to experts on all ranks and back."""

    def make(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), Mixture())


class Uneven(Program):
    """One rank has longer sequences, and another one keeps more."""

    def make(self) -> nn.Module:
        torch.manual_seed(0)
        return DistributedDataParallel(nn.Sequential(nn.Embedding(32, WIDTH), nn.Linear(WIDTH, WIDTH)))

    def batch(self) -> Tensor:
        length = TOKENS * (3 if self.rank == LONG else 1)
        return torch.randint(0, 32, (ROWS, length), generator=self.data)

    def step(self) -> None:
        held = torch.ones(HELD // 4) if self.rank == FULL else None
        super().step()
        del held


PROGRAMS: Final[dict[str, Callable[[int], Program]]] = {
    "experts": Experts,
    "hybrid": Hybrid,
    "zero": Zero,
    "pipeline": Pipeline,
    "uneven": Uneven,
}


@contextmanager
def counted_by_groups() -> Iterator[dict[str, int]]:
    """How many collectives the process groups themselves count inside the block."""
    groups = list(dist.distributed_c10d._world.pg_map)
    before = [group._get_sequence_number_for_group() for group in groups]
    found: dict[str, int] = {}
    yield found
    for group, number in zip(groups, before, strict=True):
        found[group.group_desc] = group._get_sequence_number_for_group() - number


def train(program: Program, step: Callable[[], None]) -> tuple[list[Tensor], list[dict[str, int]]]:
    """The parameters after some steps, and what was sent in each."""
    sent = []
    for _ in range(STEPS):
        with counted_by_groups() as found:
            program.step()
            step()
        sent.append(found)
    return [local(parameter).detach().clone() for parameter in program.model.parameters()], sent


def worker(rank: int, port: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    told = {}
    for name, make in PROGRAMS.items():
        expected, without = train(make(rank), lambda: None)
        program = make(rank)
        with torchprof.profile(program.model, schedule=torchprof.schedule(warmup=WARMUP, active=STEPS - WARMUP)) as prof:
            found, sent = train(program, prof.step)
        told[name] = {"same": all(map(torch.equal, found, expected)), "without": without, "sent": sent}
        prof.trace.save(f"{path}/{name}/")
    torch.save(told, f"{path}/told-{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds")
    mp.spawn(worker, (free_port(), str(path)), nprocs=WORLD)  # type: ignore[no-untyped-call]
    return path


if __name__ == "__main__":
    os.makedirs("/tmp/live/runs", exist_ok=True)
    mp.spawn(worker, (free_port(), "/tmp/live/runs"), nprocs=WORLD)

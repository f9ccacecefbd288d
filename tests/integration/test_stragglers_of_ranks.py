"""Two ranks that train over gloo, one of which is made late: in a module's forward, and by its data."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_parallel_memory import free_port
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import torchprof

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS: Final = 6
LATE: Final = 0.100
"""Seconds, long beside what a busy machine adds."""
HOUR: Final = 3_600 * 10**9


class Delayed(nn.Module):
    """Takes its time in forward."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.fc(x)


class Rows(Dataset[Tensor]):
    """Takes its time to load."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, row: int) -> Tensor:
        time.sleep(self.seconds)
        return torch.ones(8, 64)


def network(late_forward: float) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), Delayed(late_forward), nn.Linear(64, 64))


def sharded(model: nn.Sequential) -> nn.Module:
    for layer in model:
        fully_shard(layer)
    return fully_shard(model)


def record(model: nn.Module, batches: Iterable[Tensor], path: str, active: int = STEPS - 1) -> None:
    update = torch.optim.SGD(model.parameters(), 0.1)
    with torchprof.profile(model, schedule=torchprof.schedule(warmup=1, active=active)) as prof:
        for batch in batches:
            model(batch).square().mean().backward()
            update.step()
            update.zero_grad()
            prof.step()
    prof.trace.save(path)


def worker(rank: int, world: int, port: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    batches, late = [torch.ones(8, 64)] * STEPS, LATE if rank == 1 else 0
    record(DistributedDataParallel(network(late)), batches, f"{path}/forward/")
    record(DistributedDataParallel(network(late)), batches, f"{path}/fewer/", active=2 if rank == 1 else STEPS - 1)
    record(sharded(network(late)), batches, f"{path}/fsdp/")
    loader = DataLoader(Rows(LATE if rank == 0 else 0), batch_size=None)
    record(DistributedDataParallel(network(0)), loader, f"{path}/data/")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stragglers")
    mp.spawn(worker, (2, free_port(), str(path)), nprocs=2)  # type: ignore[no-untyped-call]
    return path


def test_a_rank_that_is_slow_in_one_module_is_named_with_module_and_line(runs: Path) -> None:
    found = torchprof.stragglers(torchprof.load(runs / "forward"))
    cause = found.causes.to_dict()[0]
    assert (cause["rank"], cause["phase"], cause["module"]) == (1, "forward", "module.1")
    line = Delayed.forward.__code__.co_firstlineno
    assert cause["lines"] == [f"test_stragglers_of_ranks.py:{line} Delayed.forward"]
    assert cause["late"] > 0.5e9 * LATE
    assert f"Rank 1 came last to {STEPS - 1} of" in str(found)
    assert sum(row["late"] for row in found.causes.to_dict()) == pytest.approx(
        sum(row["late"] for row in found.collectives.to_dict())
    )


def test_a_rank_that_waits_for_its_data_is_named_with_the_line_of_its_loop(runs: Path) -> None:
    cause = torchprof.stragglers(torchprof.load(runs / "data")).causes.to_dict()[0]
    assert (cause["rank"], cause["phase"], cause["module"]) == (0, "data", "")
    assert cause["lines"][0].startswith("test_stragglers_of_ranks.py:")
    assert cause["late"] > 0.5e9 * LATE


def test_two_ranks_of_one_machine_read_one_clock(runs: Path) -> None:
    (row,) = torchprof.clocks(torchprof.load(runs / "forward")).to_dict()
    assert (row["of_ranks"], row["ahead"], row["clock_error"]) == ([0, 1], 0, 0)


@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_a_saved_file_whose_clock_is_off_by_hours_is_aligned(runs: Path, host: str | None) -> None:
    first, second = torchprof.load(runs / "forward")
    facts = {**second.facts, "origin_unix_ns": second.facts["origin_unix_ns"] + 3 * HOUR}
    ranks = torchprof.Ranks.of([first, replace(second, facts={**facts, "host": host or facts["host"]})])
    row = torchprof.clocks(ranks).to_dict()[1]
    assert row["of_ranks"] == [1]
    assert abs(row["ahead"] - 3 * HOUR) <= row["clock_error"] < 1e9 * LATE
    found, on_one_clock = (torchprof.stragglers(each) for each in (ranks, torchprof.load(runs / "forward")))
    cause = found.causes.to_dict()[0]
    assert (cause["rank"], cause["module"]) == (1, "module.1")
    late, true = (each.to_dict()["ranks"][0]["late"] for each in (found, on_one_clock))
    assert abs(late - true) <= row["clock_error"] + 0.1 * true, "the clocks take away nothing of what it is always late by"


def test_of_fsdp_the_function_that_sleeps_is_named_and_not_who_calls_it(runs: Path) -> None:
    found = torchprof.stragglers(torchprof.load(runs / "fsdp")).causes.to_dict()
    # On a busy machine there may be other causes.
    cause = next(row for row in found if (row["rank"], row["phase"], row["module"]) == (1, "forward", "1"))
    line = Delayed.forward.__code__.co_firstlineno
    assert cause["late"] > 0.5e9 * LATE
    assert cause["lines"] == [f"test_stragglers_of_ranks.py:{line} Delayed.forward"]


def test_of_a_rank_that_recorded_fewer_steps_figures_are_means_of_those_that_both_did(runs: Path) -> None:
    ranks = torchprof.load(runs / "fewer")
    assert [int((trace.steps["warmup"] == 0).sum()) for trace in ranks] == [STEPS - 1, 2]
    assert ranks.problems == (f"rank 1 recorded 2 steps and rank 0 recorded {STEPS - 1} steps: figures are means of these",)
    found = torchprof.stragglers(ranks)
    assert {row["step"] for row in found.every.to_dict()} == {1, 2}
    assert found.to_dict()["ranks"][0]["late"] > 0.5e9 * LATE
    row = next(row for row in torchprof.by_collective(ranks).to_dict() if row["name"] == "all-reduce")
    assert 0 < row["whole"] < 1
    assert 0 < row["shortest"] < row["longest"]
    assert row["last_rank"] == 1

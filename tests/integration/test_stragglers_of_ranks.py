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
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import torchprof

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS: Final = 6
LATE: Final = 0.020
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


def record(late_forward: float, batches: Iterable[Tensor], path: str) -> None:
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), Delayed(late_forward), nn.Linear(64, 64)))
    update = torch.optim.SGD(model.parameters(), 0.1)
    with torchprof.profile(model, schedule=torchprof.schedule(warmup=1, active=STEPS - 1)) as prof:
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
    record(LATE if rank == 1 else 0, [torch.ones(8, 64)] * STEPS, f"{path}/forward/")
    record(0, DataLoader(Rows(LATE if rank == 0 else 0), batch_size=None), f"{path}/data/")


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
    cause = torchprof.stragglers(ranks).causes.to_dict()[0]
    assert (cause["rank"], cause["module"]) == (1, "module.1")

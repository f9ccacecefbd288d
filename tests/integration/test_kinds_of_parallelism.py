"""Four ranks that train in parallel over gloo in ways that send between some of them: sharded in one dimension of a mesh and
replicated in the other, in stages of a pipeline, with split optimizer states, with experts on other ranks, and unevenly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_parallel_memory import FIRST, LAST, bytes_of, free_port, local, network
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel

import torchprof
from torchprof.analysis.distributed.pipelines import pipelines_of

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

    def states(self) -> Iterable[dict[str, Tensor]]:
        """What the optimizer keeps."""
        return self.update.state.values()

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

    def states(self) -> Iterable[dict[str, Tensor]]:
        return self.update.optim.state.values()


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
        model = DistributedDataParallel(nn.Sequential(nn.Embedding(32, WIDTH), nn.Linear(WIDTH, WIDTH)))
        # In the second forward, DDP agrees on its buckets, and a thread of gloo frees the few bytes of it when it likes:
        # not while what a rank holds is compared to the byte.
        for _ in range(2):
            model(torch.zeros(ROWS, TOKENS, dtype=torch.int64)).sum().backward()
        model.zero_grad()
        return model

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
        told[name]["states"] = bytes_of(state for each in program.states() for state in each.values())
        prof.trace.save(f"{path}/{name}/")
    torch.save(told, f"{path}/told-{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds")
    mp.spawn(worker, (free_port(), str(path)), nprocs=WORLD)  # type: ignore[no-untyped-call]
    return path


@pytest.fixture(scope="module")
def told(runs: Path) -> list[dict[str, Any]]:
    """What each rank found without and with a recording."""
    return [torch.load(runs / f"told-{rank}") for rank in range(WORLD)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_recording_changes_no_result_and_adds_no_collective(told: list[dict[str, Any]], name: str) -> None:
    for of_rank in told:
        assert of_rank[name]["same"]
        assert of_rank[name]["sent"] == of_rank[name]["without"]
        assert all(sum(step.values()) for step in of_rank[name]["sent"])


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_many_calls_are_counted_as_the_process_groups_count(runs: Path, told: list[dict[str, Any]], name: str) -> None:
    ranks = torchprof.load(runs / name)
    assert (ranks.numbers, ranks.problems) == (tuple(range(WORLD)), ())
    for trace, of_rank in zip(ranks, told, strict=True):
        calls = sum(row["calls"] for row in torchprof.by_collective(trace).to_dict())
        sent = of_rank[name]["sent"][WARMUP:]
        assert calls * len(sent) == sum(sum(step.values()) for step in sent)


def rows_of(runs: Path, name: str, *figures: str) -> set[tuple[Any, ...]]:
    """These figures of the collectives of rank 0, which are those of the others."""
    of_ranks = [
        {tuple(row[figure] for figure in figures) for row in torchprof.by_collective(trace).to_dict()}
        for trace in torchprof.load(runs / name)
    ]
    assert all(rows == of_ranks[0] for rows in of_ranks)
    return of_ranks[0]


def test_shards_are_gathered_between_two_ranks_and_reduced_between_the_other_two(runs: Path) -> None:
    found = rows_of(runs, "hybrid", "name", "by", "module", "calls", "bytes", "group", "group_size")
    assert found == {
        ("all-gather", "FSDP", "0", 2, 2 * FIRST, "mesh_shard", 2),
        ("all-gather", "FSDP", "2", 2, 2 * LAST, "mesh_shard", 2),
        ("reduce-scatter", "FSDP", "0", 1, FIRST, "mesh_shard", 2),
        ("reduce-scatter", "FSDP", "2", 1, LAST, "mesh_shard", 2),
        ("all-reduce", "FSDP", "0", 1, FIRST // 2, "mesh_replicate", 2),
        ("all-reduce", "FSDP", "2", 1, LAST // 2, "mesh_replicate", 2),
    }


def test_who_comes_late_is_told_in_each_of_several_groups_of_one_size(runs: Path) -> None:
    found = torchprof.stragglers(torchprof.load(runs / "hybrid"))
    calls = (2 + 2 + 1 + 1) * 2 + 2 * 2  # of a step: two groups that shard, and two that replicate
    assert len(found.every) == calls * (STEPS - WARMUP)
    assert not any("process group is not known" in remark for remark in found.to_dict()["remarks"])


def test_every_rank_sends_the_parameters_that_it_has_the_states_of(runs: Path) -> None:
    sent = rows_of(runs, "zero", "name", "by", "module", "bytes", "group_size")
    # DDP also agrees on its buckets once: two broadcasts of some bytes.
    small = {row for row in sent if row[0] == "broadcast" and row[1] == "DDP"}
    assert len(small) == 1
    assert sent - small == {
        ("all-reduce", "DDP", "module", FIRST + LAST, WORLD),
        ("broadcast", "", "module.0", FIRST, WORLD),
        ("broadcast", "", "module.2", LAST, WORLD),
    }


def test_every_rank_holds_the_states_that_it_updates(runs: Path, told: list[dict[str, Any]]) -> None:
    held = [torchprof.memory(trace).by_category["optimizer state"] for trace in torchprof.load(runs / "zero")]
    assert held == [of_rank["zero"]["states"] for of_rank in told]
    assert sum(held) == pytest.approx(2 * (FIRST + LAST), abs=100), "two of each parameter, and how many steps there were"
    assert min(held) < max(held) < sum(held) / 2 + 100


def test_rows_go_to_experts_and_back_twice_in_a_step(runs: Path) -> None:
    exchanged = 4 * ROWS * WIDTH * 4  # there and back, in forward and in backward
    assert rows_of(runs, "experts", "name", "module", "calls", "bytes", "group", "group_size") == {
        ("all-to-all", "1", 4, exchanged, "default_pg", WORLD)
    }


def test_activations_go_to_the_next_stage_and_gradients_back(runs: Path) -> None:
    whole = ROWS * 512 * 4  # of all microbatches
    assert rows_of(runs, "pipeline", "name", "calls", "bytes") == {
        ("send", MICROBATCHES, whole),
        ("receive", MICROBATCHES, whole),
    }
    rows = torchprof.by_collective(torchprof.load(runs / "pipeline")).to_dict()
    assert all(row["lines"][0].startswith("test_kinds_of_parallelism.py:") for row in rows)


def without_told_stages(ranks: torchprof.Ranks) -> torchprof.Ranks:
    traces = [replace(each, facts={key: fact for key, fact in each.facts.items() if key != "pipelines"}) for each in ranks]
    return torchprof.Ranks.of(traces)


def test_the_stages_of_a_pipeline_are_known_and_the_messages_tell_the_same(runs: Path) -> None:
    ranks = torchprof.load(runs / "pipeline")
    for rank, trace in enumerate(ranks):
        assert trace.facts["pipelines"] == [
            {"ranks": [rank % 2, rank % 2 + 2], "stages": [rank // 2], "schedule": "Schedule1F1B", "microbatches": MICROBATCHES}
        ]
    assert [pipeline.ranks for pipeline in pipelines_of(ranks)] == [(0, 2), (1, 3)]
    found = pipelines_of(without_told_stages(ranks))
    assert [(pipeline.ranks, pipeline.microbatches) for pipeline in found] == [((0, 2), MICROBATCHES), ((1, 3), MICROBATCHES)]
    other = [pipelines_of(torchprof.load(runs / name)) for name in PROGRAMS if name != "pipeline"]
    assert not any(other)


@pytest.mark.parametrize("is_told", [True, False])
def test_bubbles_of_a_pipeline_with_a_slow_stage_are_told_by_cause(runs: Path, is_told: bool) -> None:
    ranks = torchprof.load(runs / "pipeline")
    table = torchprof.bubbles(ranks if is_told else without_told_stages(ranks))
    rows = {row["rank"]: row for row in table.to_dict()}
    for row in rows.values():
        causes = [row[name] for name in ("warm_up", "drain", "waits_input", "waits_gradient", "rest")]
        assert min(causes) >= 0
        assert sum(causes) == pytest.approx(row["bubble"])
        assert row["worked"] + row["bubble"] == pytest.approx(row["batch"])
        assert row["batch"] > MICROBATCHES * SLOW * 1e9
        assert row["ideal"] == pytest.approx(1 / (MICROBATCHES + 1))
    # The last stage waits for its first input, on one rank at least: a busy machine may have the other begin late.
    assert max(rows[last]["warm_up"] for last in (2, 3)) > 0
    for first, last in ((0, 2), (1, 3)):
        # The first stage begins and ends the batch; the last one is done before.
        assert rows[first]["unseen"] == 0
        assert rows[last]["drain"] > 0
        # It waits for every gradient: for the first one, for one between its forwards, and for those after its last forward.
        of_gradients = [rows[first][name] for name in ("warm_up", "waits_gradient", "drain")]
        assert min(of_gradients) > 0
        assert sum(of_gradients) > SLOW * 1e9
        assert rows[first]["waits_input"] == rows[last]["waits_gradient"] == 0
        assert rows[last]["rest"] > MICROBATCHES * SLOW * 1e9, "it sleeps, which is no op"
    assert "Slowest stage of pipeline 0: 1 (rank 2)" in str(table)


def test_the_rank_with_more_tokens_is_named_and_so_is_the_one_that_holds_more(runs: Path) -> None:
    ranks = torchprof.load(runs / "uneven")
    table = torchprof.imbalance(ranks)
    rows = table.to_dict()
    assert [row["tokens"] for row in rows] == [ROWS * TOKENS * (3 if rank == LONG else 1) for rank in range(WORLD)]
    flops = [row["flops"] for row in rows]
    assert flops == [flops[0] * (3 if rank == LONG else 1) for rank in range(WORLD)]
    assert rows[LONG]["tokens_ratio"] == rows[LONG]["flops_ratio"] == pytest.approx(2)
    held = [row["peak"] for row in rows]
    assert held[FULL] - held[0] == HELD
    said = str(table)
    assert f"Tokens: from 0.67 x the mean (rank 0) to 2.00 x (rank {LONG})" in said
    assert f"(rank {FULL})" in next(line for line in said.splitlines() if line.startswith("Peak: "))
    found = {finding.what.partition(":")[0] for finding in torchprof.findings(ranks) if finding.rule == "imbalance"}
    assert f"Rank {LONG} computes 2.00 times the mean of all ranks" in found
    assert any(what.startswith(f"Rank {FULL} holds ") for what in found)

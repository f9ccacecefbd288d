"""Ranks that train together over gloo: what each recorded, and all together; and that recording them changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_parallel_memory import FIRST, LAST, ddp, free_port, fsdp, local, tensor_parallel
from torch import nn

import torchprof
from torchprof.record import torch_private
from torchprof.record.rank import rank_facts

pytestmark = pytest.mark.filterwarnings("ignore")

PROGRAMS: Final[dict[str, Callable[[int], nn.Module]]] = {"ddp": ddp, "fsdp": fsdp, "tp": tensor_parallel}
STEPS: Final = 3


def train(model: nn.Module, steps: int, step: Callable[[], None], rank: int) -> list[torch.Tensor]:
    """The parameters after some steps."""
    update = torch.optim.SGD(model.parameters(), 0.1)
    data = torch.Generator().manual_seed(rank)
    for _ in range(steps):
        model(torch.rand(8, 256, generator=data)).square().mean().backward()
        update.step()
        update.zero_grad()
        step()
    return [local(parameter).detach().clone() for parameter in model.parameters()]


def worker(rank: int, world: int, port: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    same = {}
    for name, make in PROGRAMS.items():
        expected = train(make(world), STEPS, lambda: None, rank)
        with torchprof.profile(model := make(world)) as prof:
            found = train(model, STEPS, prof.step, rank)
        same[name] = all(map(torch.equal, found, expected))
        prof.trace.save(f"{path}/{name}/")
    torch.save(same, f"{path}/same-{rank}")
    with torchprof.profile() as prof:  # in which one rank makes fewer steps than the other
        for _ in range(STEPS - rank):
            torch.ones(4).sum()
            prof.step()
    prof.trace.save(f"{path}/fewer/")
    dist.barrier()
    try:
        with torchprof.profile() as prof:
            dist.all_reduce(torch.ones(4))
            prof.step()
            if rank:
                os._exit(0)  # it dies, and saves nothing
            dist.all_reduce(torch.ones(4))
    except RuntimeError:
        prof.trace.save(f"{path}/died/")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    mp.spawn(worker, (2, free_port(), str(path)), nprocs=2)  # type: ignore[no-untyped-call]
    return path


@pytest.mark.parametrize("name", PROGRAMS)
def test_recording_a_rank_changes_no_result(runs: Path, name: str) -> None:
    assert all(torch.load(runs / f"same-{rank}")[name] for rank in (0, 1))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_trace_knows_its_rank(runs: Path, name: str) -> None:
    ranks = torchprof.load(runs / name)
    assert (ranks.numbers, ranks.world_size, ranks.problems) == ((0, 1), 2, ())
    for rank, trace in enumerate(ranks):
        facts = trace.facts
        assert (facts["rank"], facts["world_size"], facts["local_rank"]) == (rank, 2, rank)
        assert facts["host"]
        assert "MASTER_PORT=" in facts["run"]
        first = facts["process_groups"][0]
        assert (first["description"], first["backend"], first["ranks"]) == ("default_pg", "gloo", [0, 1])
    meshes = [trace.facts.get("meshes") for trace in ranks]
    mesh = {"dimensions": ["dim_0"], "shape": [2]}
    assert meshes == ([None, None] if name == "ddp" else [[{**mesh, "coordinate": [rank]}] for rank in (0, 1)])


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_figures_of_a_rank_add_up(runs: Path, name: str) -> None:
    ranks = torchprof.load(runs / name)
    for row, trace in zip(torchprof.by_rank(ranks).to_dict(), ranks, strict=True):
        steps = trace.steps["end"] - trace.steps["start"]
        assert row["time"] == pytest.approx(steps.mean())
        phases = ("forward", "recompute", "backward", "optimizer", "data", "other")
        assert sum(row[phase] for phase in phases) == pytest.approx(row["time"])
        assert 0 < row["exposed"] <= row["communication"] < row["time"]
        assert 0 < row["compute"] < row["time"]
        assert row["peak"] == max(step["peak"] for step in torchprof.by_step(trace).to_dict())
    rows = {row["path"]: row for row in torchprof.by_module(ranks).to_dict() if row["path"]}
    path = "module.2" if name == "ddp" else "2"
    times = [next(row["time"] for row in torchprof.by_module(trace).to_dict() if row["path"] == path) for trace in ranks]
    assert rows[path]["time"] == pytest.approx(sum(times) / 2)
    assert rows[path]["slowest"] == pytest.approx(max(times))
    assert rows[path]["slowest_rank"] == times.index(max(times))
    assert rows[path]["rank_spread"] == pytest.approx(max(times) - min(times))


def collectives(runs: Path, name: str) -> list[dict[str, Any]]:
    """The rows of the table by collective, which is that of either rank but for times."""
    ranks = torchprof.load(runs / name)
    told = ("name", "by", "module", "group", "group_size", "calls", "bytes")
    of_each = [[{key: row[key] for key in told} for row in torchprof.by_collective(trace).to_dict()] for trace in ranks]
    first, second = (sorted(rows, key=str) for rows in of_each)
    assert first == second
    return torchprof.by_collective(ranks).to_dict()


def ran(row: dict[str, Any]) -> bool:
    """Whether the time for which a collective ran is known, and what follows from it."""
    bandwidth = row["bytes"] / row["shortest"] * 1e9
    return bool(
        0 < row["shortest"] <= row["ran"] <= row["longest"]
        and row["alg_rate"] == pytest.approx(bandwidth)
        and row["bus_rate"] == pytest.approx(bandwidth * (1 if row["name"] == "all-reduce" else 1 / 2))
    )


def test_ddp_reduces_the_gradients_of_all_parameters_in_every_step(runs: Path) -> None:
    (row,) = (row for row in collectives(runs, "ddp") if row["name"] == "all-reduce")
    assert (row["by"], row["module"], row["group"], row["group_size"]) == ("DDP", "module", "default_pg", 2)
    assert row["bytes"] == FIRST + LAST
    assert row["lines"][0].startswith("test_many_ranks.py:")
    assert ran(row)


def test_fsdp_gathers_every_layer_twice_in_a_step_and_reduces_it_once(runs: Path) -> None:
    rows = collectives(runs, "fsdp")
    found = {(row["name"], row["module"]): (row["calls"], row["bytes"]) for row in rows}
    assert found == {
        ("all-gather", "0"): (2, 2 * FIRST),
        ("all-gather", "2"): (2, 2 * LAST),
        ("reduce-scatter", "0"): (1, FIRST),
        ("reduce-scatter", "2"): (1, LAST),
    }
    assert all(row["by"] == "FSDP" and row["group_size"] == 2 and ran(row) for row in rows)


def test_tensor_parallel_reduces_the_output_of_its_last_layer(runs: Path) -> None:
    (row,) = collectives(runs, "tp")
    assert (row["name"], row["by"], row["module"], row["calls"], row["bytes"]) == (
        "all-reduce",
        "functional",
        "2",
        1,
        8 * 256 * 4,
    )
    assert row["waited"] > 0
    assert ran(row)


def test_ranks_that_recorded_other_numbers_of_steps_are_named(runs: Path) -> None:
    assert torchprof.load(runs / "fewer").problems == (
        f"rank 1 recorded {STEPS - 1} steps and rank 0 recorded {STEPS} steps: figures are means of these",
    )


def test_a_rank_that_dies_is_missing_and_the_others_are_analyzed(runs: Path) -> None:
    ranks = torchprof.load(runs / "died")
    assert ranks.numbers == (0,)
    assert ranks.problems == ("1 of 2 ranks is missing: 1", "RuntimeError ended the recording of rank 0")
    assert len(torchprof.by_rank(ranks)) == 1
    alone = "Rank 0 alone is there of 2: who came late takes the others too"
    assert str(torchprof.stragglers(ranks)).startswith(alone)
    assert torchprof.findings(ranks).not_told["straggler"] == f"{alone[0].lower()}{alone[1:]}"
    table = torchprof.by_collective(ranks)
    assert {(row["shortest"], row["alg_rate"], row["last_rank"]) for row in table.to_dict()} == {(None, None, None)}
    assert "a rank of the group is missing" in str(table)


def test_process_groups_that_end_inside_the_recording_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with torchprof.profile() as prof:
        dist.destroy_process_group()
    assert (prof.trace.facts["rank"], prof.trace.facts["world_size"]) == (0, 1)
    assert [group["ranks"] for group in prof.trace.facts["process_groups"]] == [[0]]
    with torchprof.profile() as prof:
        torch.ones(1).sum()
    assert "rank" not in prof.trace.facts


def test_process_groups_that_begin_inside_the_recording_are_known() -> None:
    with torchprof.profile() as prof:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dist.destroy_process_group()
    assert [group["backend"] for group in prof.trace.facts["process_groups"]] == ["gloo"]


def test_what_the_program_has_not_imported_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch.distributed", "torch.distributed.tensor"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    facts = rank_facts(nn.Linear(1, 1))
    assert (facts["rank"], facts["world_size"]) == (1, 2)
    assert not {"torch.distributed", "torch.distributed.tensor"} & sys.modules.keys()


def test_without_the_private_name_of_the_groups_all_else_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> list[Any]:
        raise torchprof.UnsupportedTorchError("renamed")

    monkeypatch.setattr(torch_private, "process_groups", missing)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        facts = rank_facts(None)
    finally:
        dist.destroy_process_group()
    assert facts["rank"] == 0
    assert "process_groups" not in facts

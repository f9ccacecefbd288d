"""Four ranks on a mesh of 2 x 2 over gloo: of every collective the group is known, whoever asks for it."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_parallel_memory import free_port
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import torchprof
from torchprof.analysis.distributed.collectives import collectives_of
from torchprof.analysis.distributed.matched import Matched, matched
from torchprof.trace.schema import NO_ARGUMENTS

pytestmark = pytest.mark.filterwarnings("ignore")

LATE: Final = 0.100
STEPS: Final = 4
ROWS: Final = [(0, 1), (2, 3)]
COLUMNS: Final = [(0, 2), (1, 3)]


class Delayed(nn.Module):
    """Takes its time in forward."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 64), nn.Linear(64, 64)
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.down(self.up(x).relu())


def saved(prof: torchprof.profile, path: str, name: str) -> None:
    prof.trace.save(f"{path}/{name}/")


def raw(mesh: DeviceMesh, path: str) -> None:
    rows, columns = mesh.get_group("tp"), mesh.get_group("dp")
    given = torch.ones(1000)
    with torchprof.profile() as prof:
        for _ in range(2):
            dist.all_reduce(given, group=rows)
            dist.all_reduce(given, group=columns)
            dist.all_reduce(given, group=columns)
            dist.all_gather([torch.empty(1000), torch.empty(1000)], given, group=rows)
            dist.all_reduce(given)
            prof.step()
    saved(prof, path, "raw")


def redistributed(mesh: DeviceMesh, path: str) -> None:
    whole = torch.arange(64.0).reshape(8, 8)
    with torchprof.profile() as prof:
        sharded = distribute_tensor(whole, mesh, [Shard(0), Shard(1)], src_data_rank=None)
        sharded.redistribute(placements=[Shard(0), Replicate()]).to_local().sum()
        sharded.redistribute(placements=[Replicate(), Shard(1)]).to_local().sum()
    saved(prof, path, "dtensor")


def trained(mesh: DeviceMesh, path: str, rank: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), Delayed(LATE if rank == 2 else 0), nn.Linear(64, 64))
    parallelize_module(model, mesh["tp"], {"1.up": ColwiseParallel(), "1.down": RowwiseParallel()})
    for layer in model:
        fully_shard(layer, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    update = torch.optim.SGD(model.parameters(), 0.1)
    with torchprof.profile(model, schedule=torchprof.schedule(warmup=1, active=STEPS)) as prof:
        for _ in range(STEPS + 1):
            model(torch.ones(8, 64)).square().mean().backward()
            update.step()
            update.zero_grad()
            prof.step()
    saved(prof, path, "trained")


def coming_and_going(rank: int, path: str) -> None:
    """Groups that some ranks make, that are destroyed while it is recorded, and that take the place of others."""
    given = torch.ones(10)
    with torchprof.profile() as prof:
        mine = None
        if rank in (1, 2):
            mine = dist.new_group([1, 2], use_local_synchronization=True)
            dist.all_reduce(given, group=mine)
        prof.step()
        if mine is not None:
            dist.destroy_process_group(mine)
            again = dist.new_group([1, 2], use_local_synchronization=True)
            dist.all_reduce(given, group=again)
        prof.step()
        short = dist.new_group([0, 3])
        if rank in (0, 3):
            dist.all_reduce(given, group=short)
            dist.destroy_process_group(short)  # before anything looked
        prof.step()
    saved(prof, path, "coming")


def worker(rank: int, world: int, port: int, path: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    store = dist.TCPStore("127.0.0.1", port, world, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    raw(mesh, path)
    redistributed(mesh, path)
    trained(mesh, path, rank)
    coming_and_going(rank, path)
    dist.barrier()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("groups")
    mp.spawn(worker, (4, free_port(), str(path)), nprocs=4)  # type: ignore[no-untyped-call]
    return path


def of(runs: Path, name: str) -> Matched:
    return matched(torchprof.load(runs / name))


def test_raw_calls_on_both_dimensions_of_one_size_are_matched(runs: Path) -> None:
    found = of(runs, "raw")
    assert (found.no_group, found.differ, found.alone) == (0, 0, 0)
    counted = Counter((match.kind, match.members) for match in found.matches)
    assert counted == {
        **{("all-reduce", row): 2 for row in ROWS},
        **{("all-gather", row): 2 for row in ROWS},
        **{("all-reduce", column): 4 for column in COLUMNS},
        ("all-reduce", (0, 1, 2, 3)): 2,
    }


def test_the_table_names_the_dimensions_of_the_mesh(runs: Path) -> None:
    table = torchprof.by_collective(torchprof.load(runs / "raw")).to_dict()
    called = {(row["name"], row["group"], row["group_size"]): row for row in table}
    words = {name.rpartition("_")[2] for _, name, size in called if size == 2}
    assert words == {"tp", "dp"}
    assert all(row["whole"] == 1 for row in table)


def test_what_a_dtensor_asks_for_is_of_the_dimension_that_it_is_gathered_along(runs: Path) -> None:
    found = of(runs, "dtensor")
    assert found.no_group == found.differ == found.alone == 0
    assert Counter(match.members for match in found.matches if match.kind == "all-gather") == dict.fromkeys(
        [*ROWS, *COLUMNS], 1
    )


def test_fsdp_and_tensor_parallel_on_one_mesh_have_a_straggler_with_module_and_line(runs: Path) -> None:
    found = torchprof.stragglers(torchprof.load(runs / "trained"))
    cause: dict[str, Any] = found.causes.to_dict()[0]
    assert (cause["rank"], cause["phase"], cause["module"]) == (2, "forward", "1")
    line = Delayed.forward.__code__.co_firstlineno
    assert cause["lines"] == [f"test_groups_of_ranks.py:{line} Delayed.forward"]
    assert cause["late"] > 0.5e9 * LATE
    every = of(runs, "trained")
    assert (every.no_group, every.differ) == (0, 0)
    assert {match.members for match in every.matches} == {*ROWS, *COLUMNS}


def test_groups_that_only_some_make_and_that_are_made_again_are_known(runs: Path) -> None:
    found = of(runs, "coming")
    assert [(match.step, match.members) for match in found.matches if len(match.members) == 2] == [(0, (1, 2)), (1, (1, 2))]


def test_a_group_that_came_and_went_between_two_looks_is_of_unknown_ranks(runs: Path) -> None:
    ranks = torchprof.load(runs / "coming")
    (call,) = collectives_of(ranks[0]).collectives
    assert call.group_name not in {group["name"] for group in ranks[0].facts["process_groups"]}
    assert (call.group, call.members) == (call.group_name, None)


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", ['a "b" \\ é\n\x01', "\u65e5\u672c", "{}", "x" * 10_000])
def test_a_name_of_any_letters_is_recorded_as_it_is(name: str) -> None:
    group: Any = dist.new_group([0])
    before = group.group_name
    group._set_group_name(name)
    with torchprof.profile() as prof:
        dist.all_reduce(torch.ones(10), group=group)
    group._set_group_name(before)
    (call,) = collectives_of(prof.trace).collectives
    assert call.group_name == name


@pytest.mark.usefixtures("alone")
def test_functional_collectives_and_messages_tell_their_group() -> None:
    group: Any = dist.new_group([0], group_desc="mine")
    with torchprof.profile() as prof:
        found = torch.ops._c10d_functional.all_reduce(torch.ones(3), "sum", group.group_name)
        torch.ops._c10d_functional.wait_tensor(found)
    (call,) = collectives_of(prof.trace).collectives
    assert (call.group, call.by) == ("mine", "functional")
    trace = prof.trace
    given = {trace.strings[each["name"]]: int(each["arguments"]) for each in trace.signatures}
    assert trace.strings[given["_c10d_functional::all_reduce"]] == f'{{"group": "{group.group_name}", "numbers": []}}'
    assert given["_c10d_functional::wait_tensor"] == NO_ARGUMENTS


@pytest.mark.usefixtures("alone")
def test_sums_over_steps_keep_the_group_of_what_was_asked_for() -> None:
    other = dist.new_group([0])
    with torchprof.profile(aggregate=True) as prof:
        for _ in range(3):
            dist.all_reduce(torch.ones(10))
            dist.all_reduce(torch.ones(10), group=other)
            dist.all_reduce(torch.ones(10), group=other)
            prof.step()
    trace, counts = prof.trace, Counter[str]()
    for row in trace.op_totals:
        signature = trace.signatures[row["signature"]]
        if trace.strings[signature["name"]] == "c10d::allreduce_":
            counts[json.loads(trace.strings[signature["arguments"]])["group"]] += int(row["count"])
    assert sorted(counts.values()) == [3, 6]


@pytest.mark.usefixtures("alone")
def test_without_shapes_no_group_is_told() -> None:
    dist.new_group([0])
    with torchprof.profile(shapes=False) as prof:
        dist.all_reduce(torch.ones(10))
    (call,) = collectives_of(prof.trace).collectives
    assert (call.group_name, call.members) == (None, None)


def test_a_group_without_a_backend_has_no_name_and_recording_it_raises_nothing_else() -> None:
    bare = dist.ProcessGroup(0, 1)
    with torchprof.profile() as prof, pytest.raises(RuntimeError, match=r"[Bb]ackend"):
        bare.allreduce([torch.ones(3)]).wait()
    (call,) = collectives_of(prof.trace).collectives
    assert call.group_name is None
    assert not any(prof.trace.losses.values())


class Renamed(dist.ProcessGroup):
    """Its name is asked of Python, which a recording never enters."""

    asked = 0

    def getGroupName(self) -> str:
        Renamed.asked += 1
        return "renamed"


def test_python_is_not_asked_for_the_name_of_a_group() -> None:
    group: Any = Renamed(0, 1)
    with torchprof.profile() as prof, pytest.raises(RuntimeError):
        torch.ops.c10d.send([torch.ones(3)], group.boxed(), 0, 0)
    assert Renamed.asked == 0
    assert [call.kind for call in collectives_of(prof.trace).collectives] == ["send"]

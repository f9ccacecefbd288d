"""A summary of a model whose parameters are split between ranks: what this rank has of them beside the whole."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from goldens import Golden
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore

import torchprof
from torchprof.analysis.model.rows import Row

pytestmark = pytest.mark.filterwarnings("ignore")

World = Callable[..., None]
WEIGHT, BIAS = 511 * 255, 511
COLUMNS = ("input", "output", "params", "params_local", "param_bytes", "placements")


@pytest.fixture
def world() -> Iterator[World]:
    """Makes this process one rank of some, of which there are no others, or for gloo the only one."""

    def begin(size: int, rank: int = 0, backend: str = "fake") -> None:
        dist.init_process_group(
            backend, store=FakeStore() if backend == "fake" else dist.HashStore(), rank=rank, world_size=size
        )

    yield begin
    dist.destroy_process_group()
    gc.collect()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(255, 511), nn.ReLU(), nn.Linear(511, 256), nn.LayerNorm(256))


def fsdp(mesh: Any) -> nn.Module:
    """Its norm belongs to the root, whose parameters stay gathered after forward."""
    model = network()
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def split(model: nn.Module, mesh: Any) -> nn.Module:
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def row(summary: torchprof.Summary, path: str) -> Row:
    return next(each for each in summary.rows if each.path == path)


@pytest.mark.parametrize("inputs", [None, (8, 255)], ids=["not run", "run"])
@pytest.mark.parametrize("rank", [0, 1])
def test_fsdp_has_a_part_of_every_parameter_on_each_rank(world: World, rank: int, inputs: Any) -> None:
    world(2, rank)
    found = torchprof.summary(fsdp(init_device_mesh("cpu", (2,))), inputs, verbose=0)
    first, norm = row(found, "0"), row(found, "3")
    rows_here = 256 - rank  # of 511
    assert first.params == WEIGHT + BIAS
    assert first.params_local == rows_here * 255 + rows_here
    assert first.param_bytes == 4 * first.params_local
    assert first.shards["weight"].shape == (rows_here, 255)
    assert first.tensors[0].shape == (511, 255)
    assert first.shards["weight"].placements == ("Shard(0)",)
    assert (norm.params, norm.params_local, norm.param_bytes) == (512, 256, 1024), "gathered in forward, and not afterwards"
    totals = found.totals
    assert totals.params == sum(each.params for each in found.rows)
    assert totals.params_local == sum(each.params_local for each in found.rows)
    assert totals.param_bytes == 4 * totals.params_local
    assert totals.param_bytes_whole == 4 * totals.params
    assert totals.param_bytes_by_device == {"cpu": totals.param_bytes}


def test_the_parts_of_all_ranks_are_the_whole(world: World) -> None:
    local = []
    for rank in range(3):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=3)
        found = torchprof.summary(fsdp(init_device_mesh("cpu", (3,))), verbose=0)
        local.append(found.totals.params_local)
        if rank < 2:
            dist.destroy_process_group()
    assert sum(local) == found.totals.params
    assert len(set(local)) > 1, "511 rows are not the same number for each of three"


def test_tensor_parallel_layers_say_how_they_are_split(world: World) -> None:
    world(2)
    model = split(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)), init_device_mesh("cpu", (2,)))
    found = torchprof.summary(model, (8, 256), verbose=0)
    assert row(found, "0").output_shapes == ((8, 256),), "of 512 columns, those of this rank"
    assert [each["placements"] for each in found.table.rows] == ["", "Shard(0)", "", "weight Shard(1); bias Replicate()"]
    last = row(found, "2")
    assert (last.params, last.params_local) == (512 * 256 + 256, 256 * 256 + 256)


def test_flops_are_those_of_this_rank_also_where_dtensor_finds_out_shapes(world: World) -> None:
    """It runs an op at the shape of the whole, the first time."""
    world(2)
    _clear_sharding_prop_cache()
    model = split(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)), init_device_mesh("cpu", (2,)))
    one = 2 * 8 * 256 * 256  # rows times the part of a weight
    for _ in range(2):
        found = torchprof.summary(model, (8, 256), backward=True, verbose=0).totals
        assert (found.flops, found.flops_backward) == (2 * one, 3 * one), "the input needs no gradient"
    _clear_sharding_prop_cache()
    with torchprof.profile(model) as prof:
        model(torch.rand(8, 256)).sum().backward()
    assert sum(each["flops"] or 0 for each in torchprof.by_op(prof.trace).rows) == 5 * one


def test_on_a_mesh_of_two_dimensions_each_has_a_placement(world: World) -> None:
    world(4, 3)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    model = split(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)), mesh["tp"])
    found = torchprof.summary(fully_shard(model, mesh=mesh["dp"]), verbose=0)
    shard = row(found, "2").shards["weight"]
    assert shard.mesh == (("dp", 2), ("tp", 2))
    assert shard.shape == (128, 256)
    assert found.table.rows[3]["placements"] == "weight dp Shard(0), tp Shard(1); bias dp Shard(0), tp Replicate()"
    assert "Mesh: dp=2 x tp=2 ranks" in str(found).splitlines()


def test_what_is_printed(world: World, golden: Golden) -> None:
    world(2)
    model = fsdp(init_device_mesh("cpu", (2,)))
    golden(str(torchprof.summary(model, verbose=0)), "summary_of_shards.txt")
    for parameter in model[3].parameters():  # type: ignore[index]
        parameter.requires_grad_(False)
    shown = torchprof.summary(model, (8, 255), columns=COLUMNS, verbose=0)
    listed = torchprof.Summary(shown.trace, "tree", COLUMNS, list_parameters=True)
    text = str(listed).splitlines()
    kept = [line for line in text if not line.startswith(("Forward", "Saved"))]
    golden("\n".join(kept), "summary_of_shards_with_parameters.txt")


def test_it_is_in_exports_and_in_the_file_of_the_trace(world: World, tmp_path: Path) -> None:
    world(2)
    found = torchprof.summary(fsdp(init_device_mesh("cpu", (2,))), (8, 255), verbose=0)
    exported = json.loads(json.dumps(found.to_dict()))
    assert exported["rows"][1]["shards"]["weight"]["shape"] == [256, 255]
    assert exported["rows"][1]["placements"] == "Shard(0)"
    assert exported["totals"]["params_local"] == found.totals.params_local
    found.trace.save(tmp_path / "trace")
    again = torchprof.Summary(torchprof.load(tmp_path / "trace"))
    assert str(again) == str(found)


def test_siblings_that_are_split_in_other_ways_are_not_folded(world: World) -> None:
    world(2)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    mesh = init_device_mesh("cpu", (2,))
    parallelize_module(
        model, mesh, {"0": ColwiseParallel(), "1": ColwiseParallel(), "2": RowwiseParallel(), "3": RowwiseParallel()}
    )
    found = torchprof.summary(model, fold=True, verbose=0)
    assert [each.name for each in found.rows] == ["Sequential", "0..1", "2..3"]
    assert found.rows[1].params_local == 2 * (64 * 32 + 32)


def test_a_model_without_shards_shows_nothing_of_it() -> None:
    found = torchprof.summary(network(), (8, 255), verbose=0)
    assert not {"params_local", "placements"} & set(found.columns)
    assert "rank" not in str(found)
    assert found.totals.params_local == found.totals.params
    assert found.totals.param_bytes_whole == found.totals.param_bytes
    assert "sharded_parameters" not in found.trace.facts


def trained(model: nn.Module, look: Callable[[nn.Module], object]) -> list[Tensor]:
    """The parameters of this rank after some steps, before each of which ``look`` is called."""
    torch.manual_seed(1)
    update = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        look(model)
        model(torch.rand(8, 255)).square().sum().backward()
        update.step()
        update.zero_grad()
    return [parameter.to_local().detach().clone() for parameter in model.parameters()]  # type: ignore[attr-defined]


class Broken(nn.Module):
    """Raises in forward, but for inputs of eight rows."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 8:
            raise ArithmeticError("rows")
        return x


def looks() -> dict[str, Callable[[nn.Module], object]]:
    def raising(model: nn.Module) -> None:
        with pytest.raises(ArithmeticError):
            torchprof.summary(model, (4, 255), verbose=0)

    def without_gradients(model: nn.Module) -> None:
        with torch.no_grad():
            torchprof.summary(model, (8, 255), verbose=0)

    return {
        "run": lambda model: torchprof.summary(model, (8, 255), verbose=0),
        "twice": lambda model: torchprof.summary(model, (8, 255), warmup=1, verbose=0),
        "without gradients": without_gradients,
        "raised": raising,
    }


@pytest.mark.parametrize("how", looks())
def test_training_goes_on_as_if_nobody_had_looked(world: World, how: str) -> None:
    world(1, backend="gloo")
    mesh = init_device_mesh("cpu", (1,))

    def model() -> nn.Module:
        made = network()
        made.append(Broken())
        for layer in (made[0], made[2]):
            fully_shard(layer, mesh=mesh)
        return fully_shard(made, mesh=mesh)

    expected = trained(model(), lambda model: None)
    found = trained(model(), looks()[how])
    assert all(map(torch.equal, found, expected))

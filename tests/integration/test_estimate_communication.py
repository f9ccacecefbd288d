"""What an estimate of a rank says of communication: counted by hand, by collective and dimension; NCCL; ranks that differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sharded_blocks import LAYERS, of_blocks, sharded_blocks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import torchprof
from torchprof import ArgumentError, Estimate
from torchprof.estimation.sharding.streams import streams_of

WIDTH, BATCH = 256, 16
OF_A_BLOCK = 2 * 4 * WIDTH * WIDTH
"""Parameters."""
MIB = 2**20

Build = Callable[[], nn.Module]


def network() -> nn.Sequential:
    return of_blocks(WIDTH)


def sharded(shape: tuple[int, ...] = (2,), width: int = WIDTH, **options: Any) -> nn.Module:
    return sharded_blocks(width, shape, "cuda", **options)


def split_and_sharded() -> nn.Module:
    mesh = init_device_mesh("cuda", (2, 2), mesh_dim_names=("data", "tensor"))
    model = network()
    for block in model:
        parallelize_module(block, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    return model


def replicated() -> nn.Module:
    return DistributedDataParallel(network().cuda(), device_ids=[0])


def of(build: Build, *, width: int = WIDTH, **options: Any) -> Estimate:
    given = {"optimizer": torch.optim.AdamW, "world_size": 2, **options}
    return torchprof.estimate(build, torch.empty(BATCH, width, device="meta"), **given)


def sent(found: Estimate) -> dict[tuple[str, str], tuple[int, int, int]]:
    return {(each.collective, each.dimension): (each.ranks, each.calls, each.bytes) for each in found.communication}


def test_sharded_parameters_are_gathered_twice_and_their_gradients_reduced_once() -> None:
    assert sent(of(partial(sharded, (8,)), world_size=8)) == {
        ("all-gather", "shard"): (8, 2 * LAYERS, 2 * LAYERS * OF_A_BLOCK * 4),
        ("reduce-scatter", "shard"): (8, LAYERS, LAYERS * OF_A_BLOCK * 4),
    }


def test_what_is_kept_after_forward_is_gathered_once() -> None:
    found = sent(of(partial(sharded, reshard_after_forward=False)))
    assert found["all-gather", "shard"] == (2, LAYERS, LAYERS * OF_A_BLOCK * 4)


def test_bytes_are_those_of_the_dtypes_of_mixed_precision() -> None:
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    found = sent(of(partial(sharded, mp_policy=half)))
    assert found["all-gather", "shard"][2] == 2 * LAYERS * OF_A_BLOCK * 2
    assert found["reduce-scatter", "shard"][2] == LAYERS * OF_A_BLOCK * 4


def test_hybrid_shards_are_reduced_along_the_other_dimension_too() -> None:
    found = sent(of(partial(sharded, (2, 4)), world_size=8))
    assert found["reduce-scatter", "shard"] == (4, LAYERS, LAYERS * OF_A_BLOCK * 4)
    assert found["all-reduce", "replicate"] == (2, LAYERS, LAYERS * OF_A_BLOCK)


def test_tensor_parallel_layers_reduce_what_they_return_and_its_gradient() -> None:
    found = sent(of(split_and_sharded, world_size=4))
    calls = LAYERS + LAYERS - 1  # the input of the first has no gradient
    assert found["all-reduce", "tensor"] == (2, calls, calls * BATCH * WIDTH * 4)
    assert found["all-gather", "data"][2] == 2 * LAYERS * OF_A_BLOCK * 4 // 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_distributed_data_parallel_reduces_its_buckets(device: str) -> None:
    (found,) = of(replicated, device=device).communication
    assert (found.collective, found.dimension, found.bytes) == ("all-reduce", "world", LAYERS * OF_A_BLOCK * 4)


def test_functional_collectives_are_counted_as_wholes() -> None:
    functional = torch.distributed._functional_collectives

    class Talks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> Any:
            y, world = self.layer(x).detach(), dist.distributed_c10d._get_default_group()
            functional.all_gather_tensor(y, 0, world)
            functional.reduce_scatter_tensor(y, "sum", 0, world)
            functional.all_to_all_single(y, None, None, world)
            dist.barrier()
            return self.layer(x)

    whole = BATCH * WIDTH * 4
    assert sent(of(lambda: Talks(), world_size=4)) == {
        ("all-gather", "world"): (4, 1, 4 * whole),
        ("reduce-scatter", "world"): (4, 1, whole),
        ("all-to-all", "world"): (4, 1, whole),
        ("barrier", "world"): (4, 1, 0),
    }


def test_one_rank_alone_sends_nothing_and_has_no_buffers_of_nccl() -> None:
    for build in (network, partial(sharded, (1,)), replicated):
        found = of(build, world_size=1)
        assert found.communication == ()
        assert "NCCL buffers" not in found.by_category


def test_nccl_takes_memory_for_each_group_of_ranks_and_none_on_the_cpu() -> None:
    one, two = of(sharded), of(partial(sharded, (2, 2)), world_size=4)
    assert two.by_category["NCCL buffers"] == 2 * one.by_category["NCCL buffers"]
    (line,) = [overhead for overhead in one.overheads if overhead.name == "NCCL buffers"]
    assert line.at_least is not None
    assert line.at_most is not None
    assert line.at_least < line.bytes < line.at_most
    assert not line.reserved
    assert "NVIDIA/nccl#964" in str(one)
    assert "NCCL buffers" not in of(sharded, device="cpu").by_category


def test_communication_is_printed_and_in_the_data() -> None:
    found = of(partial(sharded, (2, 2)), world_size=4)
    text = str(found)
    assert "Sent in a step  Dimension  Ranks  Calls" in text
    assert found.to_dict()["communication"][0] == {
        "collective": "all-gather",
        "dimension": "shard",
        "ranks": 2,
        "calls": 2 * LAYERS,
        "bytes": 2 * LAYERS * OF_A_BLOCK * 4,
    }
    assert "Sent in a step" not in str(of(network, world_size=None))


def test_gathers_and_reductions_have_streams_of_their_own() -> None:
    found = of(sharded)
    rows = found.memory.allocations
    streams = streams_of(found.trace, rows)
    names = {int(op): found.trace.strings[found.trace.op_names[op]] for op in set(rows["op"].tolist()) if op >= 0}
    gathers = [OF_A_BLOCK * 4 for _ in range(2 * LAYERS * 2)]  # in two steps
    used = [stream for stream in set(streams.tolist()) if stream]
    of_streams = {stream: rows["bytes"][streams == stream].tolist() for stream in used}
    assert len(used) == 2, names
    assert gathers in of_streams.values()
    assert [OF_A_BLOCK * 4 // 2 for _ in range(2 * LAYERS)] in of_streams.values()


def test_blocks_of_a_stream_are_not_taken_by_another() -> None:
    found = of(partial(sharded, width=1024), width=1024)
    assert found.replay is not None
    together = torchprof.replay(found.memory.allocations)
    assert found.max_reserved > together.max_reserved + 20 * MIB
    assert found.replay.segments > together.segments


def test_streams_of_the_cpu_are_its_own_again() -> None:
    before = torch.cpu.Stream, torch.cpu.Event, torch.cpu.stream, torch.cpu.current_stream
    of(sharded)
    assert (torch.cpu.Stream, torch.cpu.Event, torch.cpu.stream, torch.cpu.current_stream) == before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_of_all_ranks_the_one_that_needs_most_is_estimated(device: str) -> None:
    build = partial(sharded, (3,), width=40)  # 160 rows: 54, 54, 52
    found = of(build, width=40, world_size=3, ranks="all", device=device)
    each = [of(build, width=40, world_size=3, rank=rank, device=device).device_memory for rank in range(3)]
    assert found.device_memory == max(each)
    assert found.rank == each.index(max(each))
    assert sorted((kind.rank, kind.count, kind.device_memory) for kind in found.kinds_of_ranks) == [
        (0, 2, each[0]),
        (2, 1, each[2]),
    ]
    assert "Of rank 0 of 3, which needs most: rank 0 and 1 other: " in str(found)
    assert len(found.to_dict()["kinds_of_ranks"]) == 2


def test_equal_ranks_are_estimated_once_however_many_there_are() -> None:
    found = of(partial(sharded, (64,)), world_size=64, ranks="all")
    assert [(kind.rank, kind.count) for kind in found.kinds_of_ranks] == [(0, 64)]
    assert "Of rank 0 of 64: all are equal" in str(found)


def test_what_a_program_seeds_is_as_before() -> None:
    def build() -> nn.Module:
        torch.manual_seed(torch.initial_seed() + 1)
        return sharded()

    before = torch.get_rng_state()
    of(build, ranks="all")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ranks": "some"}, "ranks='some' must be 'all'"),
        ({"ranks": [0, 1]}, r"ranks=\[0, 1\] must be 'all'"),
        ({"ranks": "all", "rank": 1}, "ranks='all' and rank=1 exclude each other"),
        ({"ranks": "all", "world_size": None}, "say of how many, with world_size="),
        ({"ranks": "all", "world_size": -3}, "world_size=-3 must be how many ranks there are"),
    ],
)
def test_wrong_ranks_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        of(sharded, **options)
    assert not dist.is_initialized()


class Scattered(nn.Module):
    """Is sent its part by rank 0 in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> Any:
        parts = [torch.empty_like(x) for _ in range(2)] if dist.get_rank() == 0 else None
        dist.scatter(x, parts, src=0)
        return self.layer(x)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_scattered_is_the_whole_on_every_rank(rank: int) -> None:
    given = torch.empty(BATCH, WIDTH, device="meta")
    found = torchprof.estimate(lambda: Scattered(), given, device="cpu", world_size=2, rank=rank, steps=1)
    assert [(each.collective, each.bytes) for each in found.communication] == [("scatter", 2 * BATCH * WIDTH * 4)]

"""``estimate(build, inputs, world_size=...)``: what a rank of many needs, counted by hand; and a world that leaves nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sharded_blocks import LAYERS, of_blocks, sharded_blocks
from talking import WIDTH, Talks
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import torchprof
from torchprof import ArgumentError, Estimate, EstimateError, ModuleTypeError, TorchprofError

OF_A_BLOCK = 2 * 4 * WIDTH * WIDTH
"""Parameters: two layers without a bias, from the width to its fourfold and back."""
ALL = LAYERS * OF_A_BLOCK * 4
"""Bytes of the parameters."""

Build = Callable[[], nn.Module]


def network() -> nn.Sequential:
    return of_blocks(WIDTH)


def sharded(shape: tuple[int, ...] = (2,), device: str = "cpu", width: int = WIDTH, **options: Any) -> nn.Module:
    return sharded_blocks(width, shape, device, **options)


def replicated(**options: Any) -> nn.Module:
    return DistributedDataParallel(network(), **options)


def split(device: str = "cpu") -> nn.Module:
    mesh = init_device_mesh(device, (2,))
    model = network()
    for block in model:
        parallelize_module(block, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return model


def of(build: Build, *, width: int = WIDTH, **options: Any) -> Estimate:
    given = {"optimizer": torch.optim.AdamW, "device": "cpu", "world_size": 2, **options}
    return torchprof.estimate(build, torch.empty(8, width, device="meta"), **given)


def test_a_rank_has_its_shard_of_parameters_gradients_and_optimizer_state() -> None:
    held = of(sharded).by_category
    assert held["sharded parameters"] == ALL // 2
    assert 2 * ALL // 2 <= held["optimizer state"] <= 2 * ALL // 2 + 8 * 2 * LAYERS  # moments, and steps
    assert held["sharded gradients"] <= ALL // 2


def test_more_ranks_have_less_each() -> None:
    assert [of(partial(sharded, (count,)), world_size=count).by_category["sharded parameters"] for count in (2, 4, 8)] == [
        ALL // 2,
        ALL // 4,
        ALL // 8,
    ]


def test_only_blocks_that_run_are_gathered_unless_they_are_kept_after_forward() -> None:
    once = of(sharded).by_category["unsharded parameters"]
    kept = of(partial(sharded, reshard_after_forward=False)).by_category["unsharded parameters"]
    assert once <= 2 * OF_A_BLOCK * 4  # one, and the next in backward, which is gathered ahead
    assert kept >= (LAYERS - 1) * OF_A_BLOCK * 4


def test_what_is_gathered_has_the_dtype_of_mixed_precision() -> None:
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    built = partial(sharded, mp_policy=half, reshard_after_forward=False)
    assert of(built).by_category["unsharded parameters"] <= ALL // 2


def test_hybrid_sharding_shards_in_one_dimension() -> None:
    assert of(partial(sharded, (2, 2)), world_size=4).by_category["sharded parameters"] == ALL // 2


def test_ranks_differ_where_shards_do() -> None:
    first, last = (of(partial(sharded, width=33), width=33, rank=rank).by_category for rank in (0, 1))
    steps = 2 * LAYERS * 4
    assert first["sharded parameters"] == LAYERS * (66 * 33 + 17 * 132) * 4
    assert last["sharded parameters"] == first["sharded parameters"], "FSDP pads it"
    assert first["optimizer state"] == 2 * LAYERS * (66 * 33 + 17 * 132) * 4 + steps
    assert last["optimizer state"] == 2 * LAYERS * (66 * 33 + 16 * 132) * 4 + steps


def test_ranks_of_distributed_data_parallel_have_buckets_beside_gradients_unless_these_are_views() -> None:
    alone = of(network, world_size=1)
    beside, views = of(replicated), of(partial(replicated, gradient_as_bucket_view=True))
    assert beside.max_allocated - views.max_allocated == ALL
    assert views.max_allocated == pytest.approx(alone.max_allocated, rel=0.02)
    assert beside.by_category["parameters"] == ALL


def test_tensor_parallel_layers_have_a_part_of_each_weight_and_of_what_is_between_them() -> None:
    found, alone = of(split), of(network, world_size=1)
    assert found.by_category["sharded parameters"] == ALL // 2
    assert found.max_allocated < 0.6 * alone.max_allocated


def test_states_of_a_zero_redundancy_optimizer_are_those_of_a_rank() -> None:
    def optimizer(parameters: Any) -> Any:
        return ZeroRedundancyOptimizer(list(parameters), torch.optim.AdamW)

    whole, part = of(replicated), of(replicated, optimizer=optimizer)
    assert part.by_category["optimizer state"] == pytest.approx(whole.by_category["optimizer state"] / 2, rel=0.01)


def test_a_world_of_one_is_the_estimate_of_a_model_alone() -> None:
    alone, world = of(network, world_size=None), of(network, world_size=1)
    assert world.max_allocated == alone.max_allocated
    assert world.memory.allocations["bytes"].tolist() == alone.memory.allocations["bytes"].tolist()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ranks_cost_nothing(device: str) -> None:
    few, many = (of(partial(sharded, (count,), device), world_size=count, device=device) for count in (8, 1024))
    assert len(many.trace.ops) == len(few.trace.ops)


def test_a_million_ranks_make_as_few_shards_as_eight() -> None:
    made: list[int] = []

    def build(count: int) -> nn.Module:
        new_empty = Tensor.new_empty
        calls = [0]

        def counted(*args: Any, **options: Any) -> Tensor:
            calls[0] += 1
            return new_empty(*args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "new_empty", counted)
            model = sharded((count,))
        made.append(calls[0])
        return model

    few, many = (of(partial(build, count), world_size=count) for count in (8, 2**20))
    assert made[1] < 100, "most ranks have no row of any weight"
    assert len(many.trace.ops) == len(few.trace.ops)
    assert many.by_category["sharded parameters"] < few.by_category["sharded parameters"]


def test_a_script_for_gpus_runs_as_it_is() -> None:
    seen: dict[str, Any] = {}

    def build() -> nn.Module:
        dist.init_process_group("nccl")
        local = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(local)
        seen.update(rank=dist.get_rank(), world=dist.get_world_size(), local=local)
        return DistributedDataParallel(network().to(f"cuda:{local}").cuda(), device_ids=[local])

    found = of(build, device="cuda", world_size=16, rank=11)
    assert seen == {"rank": 11, "world": 16, "local": 3}
    assert found.by_category["parameters"] == ALL
    assert (found.rank, found.world_size) == (11, 16)
    assert "Of rank 11 of 16" in str(found)
    assert found.to_dict()["world_size"] == 16


def test_a_step_of_ones_own_clips_and_makes_meshes() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
        assert init_device_mesh("cpu", (2,)).get_local_rank() == 1
        model(x).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    assert of(sharded, step=step, rank=1).by_category["sharded parameters"] == ALL // 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, WIDTH)
        self.head = nn.Linear(WIDTH, 1000, bias=False)
        self.head.weight = self.table.weight
        self.scale = torch.ones(WIDTH)  # neither a parameter nor a buffer

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.table(tokens) * self.scale)


def test_a_parameter_in_two_places_is_one() -> None:
    def build() -> nn.Module:
        model = Tied()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        return model

    found = torchprof.estimate(
        build,
        torch.empty(4, 8, dtype=torch.long, device="meta"),
        optimizer=torch.optim.AdamW,
        device="cpu",
        world_size=2,
    )
    assert found.by_category["sharded parameters"] == 1000 * WIDTH * 4 // 2
    assert found.by_category["optimizer state"] < 1000 * WIDTH * 4 + 100


@pytest.mark.parametrize(
    "talk",
    [
        dist.all_reduce,
        lambda y: dist.broadcast(y, 0),
        lambda y: dist.all_gather_into_tensor(y.new_empty(16, WIDTH), y),
        lambda y: dist.reduce_scatter_tensor(y.new_empty(4, WIDTH), y),
        lambda y: dist.all_to_all_single(torch.empty_like(y), y),
        lambda y: dist.recv(y, src=1),
        lambda y: dist.barrier(),
    ],
)
def test_collectives_return_at_once(talk: Callable[[Tensor], object]) -> None:
    assert of(lambda: Talks(talk)).by_category["parameters"] == (WIDTH + 1) * WIDTH * 4


def shares_objects() -> nn.Module:
    return Talks(lambda y: dist.all_gather_object([None, None], {"a": 1}))


@pytest.mark.parametrize(
    ("build", "options", "error", "said"),
    [
        (network, {"world_size": 0}, ArgumentError, "world_size=0 must be how many ranks there are"),
        (network, {"world_size": "8"}, ArgumentError, "world_size='8' must be how many"),
        (network, {"world_size": True}, ArgumentError, "world_size=True must be how many"),
        (network, {"world_size": 2**20 + 1}, ArgumentError, "world_size=1048577 is more than the 1,048,576 ranks"),
        (network, {"world_size": 10**9, "ranks": "all"}, ArgumentError, "world_size=1000000000 is more than"),
        (network, {"rank": 2}, ArgumentError, "rank=2 must be one of the ranks of world_size=2: an int from 0 to 1"),
        (network, {"rank": -1}, ArgumentError, "rank=-1 must be one"),
        (network, {"world_size": None, "rank": 1}, ArgumentError, "rank=1 is one of many: say of how many, with world_size="),
        (network, {"world_size": None, "ranks": "all"}, ArgumentError, "ranks='all' is of many ranks: say .* with world_size="),
        (network, {"ranks": "all", "rank": 1}, ArgumentError, "ranks='all' and rank=1 exclude each other"),
        (network, {"ranks": "each"}, ArgumentError, "ranks='each' must be 'all'"),
        (network, {"compile": True}, ArgumentError, "compile=True is for a model on one device"),
        (partial(sharded, (2, 4)), {}, ArgumentError, "world_size=2 does not do for the mesh of the program: .* 8 ranks"),
        (network(), {}, ModuleTypeError, "must be a function that builds and shards the model as a rank does, not Sequential"),
        (nn.Linear, {}, ModuleTypeError, "not the class Linear"),
        (lambda: None, {}, ModuleTypeError, "must return a torch.nn.Module, or the schedule of a pipeline, not NoneType"),
        (lambda: FullyShardedDataParallel(network()), {}, EstimateError, "use torch.distributed.fsdp.fully_shard"),
        (shares_objects, {}, EstimateError, "all_gather_object"),
    ],
)
def test_what_is_wrong_or_unknown_is_named(build: Any, options: dict[str, Any], error: type[TorchprofError], said: str) -> None:
    with pytest.raises(error, match=said):
        of(build, **options)
    assert not dist.is_initialized()


def test_context_parallel_attention_is_named() -> None:
    def step(model: nn.Module, optimizer: Any, x: Tensor) -> None:
        heads = model(x).view(1, 1, 8, WIDTH)
        with context_parallel(init_device_mesh("cuda", (2,)), buffers=[x], buffer_seq_dims=[0]):
            nn.functional.scaled_dot_product_attention(heads, heads, heads).sum().backward()

    with pytest.raises(
        EstimateError, match="attention on tensors that are split between ranks, as context_parallel makes them"
    ):
        of(lambda: nn.Linear(WIDTH, WIDTH), step=step)


def test_what_the_program_raises_comes_out_and_the_world_is_gone() -> None:
    before = dict(os.environ)

    def interrupted() -> nn.Module:
        raise KeyboardInterrupt

    for build, error in ((interrupted, KeyboardInterrupt), (lambda: 1 / 0, ZeroDivisionError)):
        with pytest.raises(error):
            of(build)  # type: ignore[arg-type]
        assert not dist.is_initialized()
        assert {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")} == {
            name: before.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
        }


def test_functions_of_pytorch_are_its_own_again() -> None:
    places: list[tuple[Any, str]] = [
        (dist, "init_process_group"),
        (torch.cuda, "set_device"),
        (DeviceMesh, "__init__"),
        (DeviceMesh, "__getitem__"),
        (DistributedDataParallel, "__init__"),
        (FullyShardedDataParallel, "__init__"),
        (torch.UntypedStorage, "resize_"),
    ]
    before = [getattr(owner, name) for owner, name in places]
    of(sharded)
    of(replicated)
    assert [getattr(owner, name) for owner, name in places] == before
    assert "resize_" not in vars(torch.UntypedStorage)


def test_a_world_that_is_there_is_left_alone() -> None:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ArgumentError, match="is initialized already: call estimate before"):
            of(network)
        assert dist.get_backend() == "gloo"
    finally:
        dist.destroy_process_group()


def test_what_distributed_data_parallel_raises_is_raised_in_the_build() -> None:
    with pytest.raises(RuntimeError, match="any parameter that requires a gradient") as caught:
        of(lambda: DistributedDataParallel(nn.ReLU()))
    assert "raised in the build of the model" in caught.value.__notes__[-1]


@pytest.mark.parametrize("read", [lambda loss: loss.item(), lambda loss: f"{loss:.3f}"])
def test_a_loss_that_a_step_reads_is_left_out_or_allowed(read: Callable[[Tensor], object]) -> None:
    def step(model: nn.Module, optimizer: Any, x: Tensor) -> None:
        loss = model(x).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        read(loss)

    with pytest.raises(EstimateError, match=r"pass allow_real=\('aten::item',\) .* leave it out of the step") as caught:
        of(network, step=step)
    assert "routing" not in str(caught.value), "it is no router"
    assert of(network, step=step, allow_real=("aten::item",)).max_allocated > 0

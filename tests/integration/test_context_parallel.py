"""``context_parallel`` in ``estimate(build, inputs, world_size=...)``: a sequence split between ranks, counted by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import transformers as hf
from sharded_attention import HAS_RING
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional

import torchprof
from torchprof import ArgumentError, Estimate, EstimateError

if not HAS_RING:
    pytest.skip("this PyTorch has another context parallelism", allow_module_level=True)

from torch.distributed.tensor.experimental._context_parallel import _attention, _load_balancer, _sharding_rules

RANKS, BATCH, LENGTH, HEADS, WIDTH = 4, 2, 512, 4, 256
PART = LENGTH // RANKS
OF_A_RANK = BATCH * PART * WIDTH
"""Elements of a query, a key or a value."""


class Attention(nn.Module):
    """Causal attention of some heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for layer in layers)
        found: Tensor = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        result: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return result


def network(dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    return nn.Sequential(Attention(), Attention()).to(dtype)


def split() -> nn.Module:
    """The model, and the mesh that its sequences are split over."""
    model: Any = network()
    model.mesh = init_device_mesh("cuda", (RANKS,), mesh_dim_names=("cp",))
    return model  # type: ignore[no-any-return]


def step(model: Any, optimizer: Any, x: Tensor, rotate: str = "allgather", *, balanced: bool = True) -> None:
    _attention.set_rotate_method(rotate)
    _attention._cp_options.enable_load_balance = balanced
    with context_parallel(model.mesh, buffers=[x], buffer_seq_dims=[1], no_restore_buffers={x}):
        model(x).float().sum().backward()
    if optimizer is not None:
        optimizer.step()
    model.zero_grad()


def of(
    build: Callable[[], nn.Module] = split, *, length: int = LENGTH, dtype: Any = torch.bfloat16, **options: Any
) -> Estimate:
    given = {"step": step, "world_size": RANKS, "capacity": "A100-80GB", **options}
    return torchprof.estimate(build, torch.empty(BATCH, length, WIDTH, dtype=dtype, device="meta"), **given)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """What PyTorch keeps of context parallelism for the whole process is as before, whatever happened."""

    def kept() -> list[Any]:
        dispatcher = DTensor._op_dispatcher
        strategies = dict(dispatcher.sharding_propagator.op_strategy_funcs)
        return [
            functional.scaled_dot_product_attention,
            dict(vars(_attention._cp_options)),
            _attention._dispatch_mode,
            dict(_attention._replaced_functions),
            _attention._context_parallel_buffers,
            dispatcher._custom_op_handlers,
            dict(_sharding_rules._cp_strategy_contexts),
            {op: found for op, found in strategies.items() if "attention" in str(op)},
        ]

    before = kept()
    yield
    assert kept() == before


def saved(found: Estimate) -> int:
    """Bytes that are kept for backward."""
    return sum(size for path, size in found.memory.saved_by_module.items() if path != "(no module)")


@pytest.mark.parametrize(("rotate", "balanced"), [("allgather", True), ("alltoall", True), ("alltoall", False)])
def test_a_rank_saves_for_backward_what_its_part_of_the_sequence_needs(rotate: str, *, balanced: bool) -> None:
    """The parts of others are sent again in backward."""
    part = torch.empty(BATCH, PART, WIDTH, dtype=torch.bfloat16, device="meta")
    alone = torchprof.estimate(network, part, capacity="A100-80GB")
    first, last = (of(step=partial(step, rotate=rotate, balanced=balanced), rank=rank) for rank in (0, RANKS - 1))
    assert saved(last) == saved(alone)
    # The first rank puts results together of two halves: these lie otherwise in memory, and are copied for the layer after it.
    assert saved(first) == saved(alone) + (2 * OF_A_RANK * 2 if balanced else 0)


@pytest.mark.parametrize("rotate", ["allgather", "alltoall"])
def test_keys_and_values_are_sent_around(rotate: str) -> None:
    found = of(step=partial(step, rotate=rotate))
    keys_and_values, layers = 2 * OF_A_RANK, 2
    gathered = {"all-gather": (2 * layers, 2 * layers * RANKS * 2 * keys_and_values)} if rotate == "allgather" else {}
    # In backward, gradients of keys and values go around in float32, once more than these.
    times = 0 if gathered else 2 * (RANKS - 1)
    sent = {"all-to-all": (layers * (times + RANKS), layers * keys_and_values * (times * 2 + RANKS * 4))}
    assert {each.collective: (each.calls, each.bytes) for each in found.communication} == {**gathered, **sent}
    assert {(each.dimension, each.ranks) for each in found.communication} <= {("cp", RANKS), ("world", RANKS)}


def test_every_step_gets_the_whole_sequence() -> None:
    one, more = of(steps=1), of(steps=3)
    assert any("ranks with other parts of the sequence" in note for note in one.notes)
    assert one.communication == more.communication
    assert one.flops == more.flops


def test_without_load_balancing_the_last_rank_computes_most() -> None:
    in_order = partial(step, balanced=False)
    first, last = (of(step=in_order, rank=rank).flops for rank in (0, RANKS - 1))
    balanced = [of(rank=rank).flops for rank in (0, RANKS - 1)]
    block = 4 * BATCH * PART * PART * WIDTH  # two products of queries with the keys, and of scores with the values
    assert first is not None
    assert last is not None
    assert last - first == 2 * (RANKS - 1) * (block + 5 * block // 2)  # forward and backward, of two layers
    assert balanced[0] == balanced[1]
    assert first < balanced[0] < last  # type: ignore[operator]


@pytest.mark.parametrize(
    ("dtype", "gpu", "kernel"),
    [
        (torch.bfloat16, "A100-80GB", "flash"),
        (torch.float32, "A100-80GB", "efficient"),
        (torch.bfloat16, "H100-80GB", "cudnn"),
    ],
)
def test_the_kernel_is_that_of_the_gpu(dtype: torch.dtype, gpu: str, kernel: str) -> None:
    def build() -> nn.Module:
        return split().to(dtype)

    found = of(build, dtype=dtype, capacity=gpu)
    names = {name for name in found.trace.strings if name.startswith("aten::_scaled_dot_product_")}
    of_kernel = f"aten::_scaled_dot_product_{kernel}_attention"
    assert {of_kernel, f"{of_kernel}_backward"} <= names


def test_with_fsdp_parameters_are_sharded_between_all_ranks() -> None:
    def build() -> nn.Module:
        mesh = init_device_mesh("cuda", (2, RANKS), mesh_dim_names=("dp", "cp"))
        model: Any = network()
        both = mesh["dp", "cp"]._flatten("dp_cp")
        for layer in model:
            fully_shard(layer, mesh=both)
        fully_shard(model, mesh=both)
        model.mesh = mesh["cp"]
        return model  # type: ignore[no-any-return]

    found = of(build, optimizer=torch.optim.AdamW, world_size=2 * RANKS)
    assert found.memory.by_category["sharded parameters"] == 2 * 4 * WIDTH * WIDTH * 2 // (2 * RANKS)
    sent = {(each.collective, each.dimension): each.ranks for each in found.communication}
    assert sent["all-gather", "cp"] == sent["all-to-all", "cp"] == RANKS
    assert sent["all-gather", "dp_cp"] == sent["reduce-scatter", "dp_cp"] == 2 * RANKS


def test_with_tensor_parallel_a_rank_has_some_heads_of_a_part_of_the_sequence() -> None:
    def build() -> nn.Module:
        mesh = init_device_mesh("cuda", (RANKS, 2), mesh_dim_names=("cp", "tp"))
        plan = {**{f"*.{name}": ColwiseParallel() for name in ("query", "key", "value")}, "*.out": RowwiseParallel()}
        model: Any = parallelize_module(network(), mesh["tp"], plan)
        model.mesh = mesh["cp"]
        return model  # type: ignore[no-any-return]

    found = of(build, world_size=2 * RANKS)
    sent = {(each.collective, each.dimension): each.bytes for each in found.communication}
    alone = {(each.collective, each.dimension): each.bytes for each in of().communication}
    (whole,) = (size for (collective, _), size in alone.items() if collective == "all-gather")
    assert sent["all-gather", "cp"] == whole // 2  # half of the heads


def llama() -> nn.Module:
    make: Any = hf.LlamaConfig
    config = make(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        vocab_size=1000,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model: Any = hf.LlamaForCausalLM(config)
    model.mesh = init_device_mesh("cuda", (RANKS,))
    return model.to(torch.bfloat16)  # type: ignore[no-any-return]


def test_a_model_of_transformers_runs_with_its_positions_split_as_well() -> None:
    def train(model: Any, optimizer: Any, tokens: Tensor, labels: Tensor, positions: Tensor) -> None:
        buffers = [tokens, labels, positions]
        with context_parallel(model.mesh, buffers=buffers, buffer_seq_dims=[1, 1, 1], no_restore_buffers={*buffers}):
            logits = model(input_ids=tokens, position_ids=positions).logits
            assert logits.shape == (1, PART, 1000)
            functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    rows = torch.empty(1, LENGTH, dtype=torch.long, device="meta")
    found = torchprof.estimate(
        llama,
        (rows, rows.clone(), rows.clone()),
        step=train,
        optimizer=torch.optim.AdamW,
        world_size=RANKS,
        capacity="H100-80GB",
    )
    assert {each.collective for each in found.communication} == {"all-gather", "all-to-all"}


def test_the_style_for_modules_works_too() -> None:
    class Core(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.core = nn.Linear(WIDTH, WIDTH, bias=False), Core()

        def forward(self, x: Tensor) -> Tensor:
            heads = self.project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            result: Tensor = self.core(heads, heads, heads)
            return result

    def build() -> nn.Module:
        model: Any = Whole().to(torch.bfloat16)
        model.mesh = init_device_mesh("cuda", (RANKS,))
        kind = _attention._ContextParallel.AttentionType.SDPA
        return parallelize_module(model, model.mesh, {"core": _attention._ContextParallel(seq_dim=2, attention_type=kind)})

    def train(model: Any, optimizer: Any, x: Tensor) -> None:
        _attention._enable_context_parallel_dispatcher()  # and nobody takes it back
        balancer = _load_balancer._create_default_load_balancer(x.shape[1], RANKS, "cuda")
        (part,) = _attention._context_parallel_shard(model.mesh, [x], [1], balancer)
        model(part).float().sum().backward()

    assert {each.collective for each in of(build, step=train).communication} == {"all-gather", "all-to-all"}


# What is wrong is named.


def test_a_sequence_that_does_not_divide_is_named() -> None:
    with pytest.raises(
        EstimateError,
        match=r"cannot split dimension 1 of a buffer of shape \[2, 510, 256\] between 4 ranks: 510 is no multiple of 4. "
        "Pad the sequence, or use fewer ranks",
    ):
        of(length=510)


def test_a_sequence_that_only_divides_without_load_balancing_is_named_where_that_is_asked_for() -> None:
    def asking(model: Any, optimizer: Any, x: Tensor) -> None:
        balancer = _load_balancer._HeadTailLoadBalancer(x.shape[1], RANKS, "cuda")
        _attention._context_parallel_shard(model.mesh, [x], [1], balancer)

    assert of(length=516).device_memory > 0  # context_parallel goes without by itself
    with pytest.raises(EstimateError, match="and with load balancing into 2 parts for each: 516 is no multiple of 8"):
        of(length=516, step=asking)


def test_a_mesh_larger_than_the_world_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"world_size=2 does not do for the mesh of the program: .* 4 ranks"):
        of(world_size=2)


def test_on_the_cpu_there_is_no_such_attention() -> None:
    with pytest.raises(EstimateError, match="cannot be estimated for device='cpu': PyTorch cannot split its kernel of the CPU"):
        of(device="cpu", capacity=None)


@pytest.mark.parametrize("rotate", ["allgather", "alltoall"])
def test_what_the_program_raises_inside_leaves_nothing(rotate: str) -> None:
    def raising(model: Any, optimizer: Any, x: Tensor) -> None:
        _attention.set_rotate_method(rotate)
        with context_parallel(model.mesh, buffers=[x], buffer_seq_dims=[1]):
            model(x)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        of(step=raising)


def test_a_context_that_is_never_left_leaves_nothing() -> None:
    def entering(model: Any, optimizer: Any, x: Tensor) -> None:
        entered = context_parallel(model.mesh, buffers=[x], buffer_seq_dims=[1])
        entered.__enter__()
        model(x).float().sum().backward()
        model.entered = entered  # for as long as the model is there

    of(step=entering, steps=1)

"""Bounds of estimated steps, counted by hand: FLOPs by dtype, what is recomputed, what is sent for which module."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sharded_blocks import LAYERS, of_blocks, sharded_blocks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof import ArgumentError, Ceilings, Estimate

WIDTH, BATCH = 256, 64
PRODUCT = 2 * BATCH * WIDTH * 4 * WIDTH
"""FLOPs of a layer in forward, and of each of its gradients."""
FORWARD = 2 * LAYERS * PRODUCT
BACKWARD = 2 * FORWARD - PRODUCT  # the input has no gradient
OF_A_BLOCK = 2 * 4 * WIDTH * WIDTH * 4
"""Bytes of its parameters."""

Build = Callable[[], nn.Module]


def network() -> nn.Module:
    return of_blocks(WIDTH)


def sharded(*shape: int) -> nn.Module:
    return sharded_blocks(WIDTH, shape, "cuda")


def replicated() -> nn.Module:
    return DistributedDataParallel(network())


def split_and_sharded() -> nn.Module:
    mesh = init_device_mesh("cuda", (2, 2), mesh_dim_names=("data", "tensor"))
    model = network()
    for block in model.children():
        parallelize_module(block, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    return model


class Checkpointed(nn.Module):
    """Blocks of which only the inputs are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks.children():
            x = checkpoint(block, x, use_reentrant=False)
        return x


class Talks(nn.Module):
    """Sums up in a group of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(network())
        self.group = dist.new_group([0, 2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        dist.all_reduce(y.detach(), group=self.group)
        return y


def talking() -> nn.Module:
    return Talks()


@cache
def of(build: Build, world_size: int | None = None, **options: Any) -> Estimate:
    given = {"optimizer": torch.optim.AdamW, "capacity": "H100-80GB", "world_size": world_size, **options}
    return torchprof.estimate(build, torch.empty(BATCH, WIDTH, device="meta"), **given)


hybrid = partial(of, partial(sharded, 2, 8), 16)


def test_a_step_is_bound_by_what_it_computes_and_sends() -> None:
    found = hybrid().bound()
    assert found.flops == {"float32": FORWARD + BACKWARD}
    assert found.compute == pytest.approx((FORWARD + BACKWARD) / 67e12)
    gathered_and_reduced = 3 * LAYERS * OF_A_BLOCK
    sending = 7 / 8 * gathered_and_reduced / 450e9
    assert found.communication == found.step == pytest.approx(sending)
    assert found.mfu == pytest.approx((FORWARD + BACKWARD) / 67e12 / sending)
    assert [(each.dimension, each.link) for each in found.dimensions] == [
        ("shard", "NVLink 4"),
        ("replicate", "InfiniBand NDR"),
    ]
    assert found.dimensions[1].seconds == pytest.approx(LAYERS * OF_A_BLOCK / 8 / 50e9)


def test_other_gpus_and_links_need_no_other_estimate() -> None:
    found = hybrid()
    assert found.bound("A100-80GB").compute == pytest.approx((FORWARD + BACKWARD) / 19.5e12)
    given = found.bound(links={"shard": "100 GbE", "replicate": 1e9})
    assert [each.link for each in given.dimensions] == ["100 GbE", "953.7 MiB/s"]
    mine = found.bound(Ceilings("mine", "float32", 0, 1e12, 1e12))
    assert mine.compute == pytest.approx((FORWARD + BACKWARD) / 1e12)
    assert mine.communication == found.bound().communication


def test_under_autocast_products_are_in_its_dtype() -> None:
    assert of(network, amp=torch.bfloat16).bound().flops == {"bfloat16": FORWARD + BACKWARD}
    convolution = nn.Conv2d(3, 8, 3)
    found = torchprof.estimate(convolution, (2, 3, 16, 16), amp=torch.float16, capacity="T4").bound()
    assert [*found.flops] == ["float16"]


def test_what_is_checkpointed_is_computed_twice_and_is_the_models_once() -> None:
    found = of(lambda: Checkpointed(), amp=torch.bfloat16).bound()
    last_layers = LAYERS * PRODUCT  # what backward does not need is not recomputed
    assert found.recomputed == FORWARD - last_layers
    assert found.flops == {"bfloat16": FORWARD + BACKWARD + found.recomputed}
    assert found.mfu == pytest.approx((FORWARD + BACKWARD) / (FORWARD + BACKWARD + found.recomputed))


def test_a_program_that_allows_tf32_is_bound_by_its_peak() -> None:
    def build() -> nn.Module:
        torch.set_float32_matmul_precision("high")
        return network()

    before = torch.get_float32_matmul_precision()
    try:
        found = of(build).bound()
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.flops == {"tf32": FORWARD + BACKWARD}
    assert found.compute == pytest.approx((FORWARD + BACKWARD) / 494.5e12)


@pytest.mark.parametrize("name", ["hybrid", "split_and_sharded", "replicated", "talks"])
def test_what_is_sent_by_module_adds_up(name: str) -> None:
    found = {
        "hybrid": hybrid,
        "split_and_sharded": partial(of, split_and_sharded, 4),
        "replicated": partial(of, replicated, 2),
        "talks": partial(of, talking, 4),
    }[name]()
    sums: Counter[tuple[str, str]] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    for each in found.communication_by_module:
        sums[each.collective, each.dimension] += each.bytes
        calls[each.collective, each.dimension] += each.calls
    whole = found.communication
    assert dict(sums) == {(each.collective, each.dimension): each.bytes for each in whole}
    assert dict(calls) == {(each.collective, each.dimension): each.calls for each in whole}


def by_module(found: Estimate) -> set[tuple[str, str, str | None, int]]:
    return {(each.collective, each.dimension, each.module, each.bytes) for each in found.communication_by_module}


def test_blocks_are_gathered_for_themselves_and_partial_sums_for_the_layer_that_has_them() -> None:
    blocks = {("all-gather", "shard", str(block), 2 * OF_A_BLOCK) for block in range(LAYERS)}
    assert blocks <= by_module(hybrid())
    results = {("all-reduce", "tensor", f"{block}.2", BATCH * WIDTH * 4) for block in range(LAYERS)}
    inputs = {("all-reduce", "tensor", f"{block}.0", BATCH * WIDTH * 4) for block in range(1, LAYERS)}
    assert results | inputs <= by_module(of(split_and_sharded, 4))


def test_buckets_are_for_what_is_wrapped_and_groups_without_a_name_are_their_ranks() -> None:
    assert by_module(of(replicated, 2)) == {("all-reduce", "world", "module", LAYERS * OF_A_BLOCK)}
    assert by_module(of(talking, 4)) == {("all-reduce", "ranks 0, 2", "Talks", BATCH * WIDTH * 4)}


def test_what_is_sent_for_no_module_says_so() -> None:
    def step(model: nn.Module, optimizer: Any, x: torch.Tensor) -> None:
        model(x).sum().backward()
        dist.all_reduce(torch.zeros(4))
        optimizer.step()

    assert ("all-reduce", "shard", "", 16) in by_module(of(partial(sharded, 2), 2, step=step))


def test_a_gpu_that_is_not_named_has_no_peaks_and_a_line_is_printed_only_where_there_is_a_bound() -> None:
    found = of(partial(sharded, 2), 2, capacity="40GiB")
    assert (found.gpu, found.known_as, found.bound().step) == ("A100-80GB", None, None)
    assert "Bound:" not in str(found)
    assert found.bound("A100-80GB").step is not None
    text = str(hybrid()).splitlines()
    (line,) = [number for number, each in enumerate(text) if each.startswith("Bound: no step is faster than ")]
    of_what = "peaks of H100-80GB, as published; shard over NVLink 4, replicate over InfiniBand NDR"
    assert text[line + 1] == f"Bound: {of_what}; bound() says what is assumed"
    assert "Bound:" not in str(of(network))


def test_one_rank_alone_sends_nothing() -> None:
    for found in (of(network), of(partial(sharded, 1), 1)):
        assert found.bound().communication == 0
        assert found.bound().mfu == pytest.approx(1)
        assert "sending nothing" in str(found.bound())
        assert found.communication_by_module == ()


def test_on_the_cpu_rates_are_to_be_given() -> None:
    found = of(partial(sharded, 2), 2, device="cpu", capacity=None)
    assert found.bound().unknown[0] == (
        "how fast it computes: give torchprof.Ceilings, such as torchprof.ceilings('cpu') measures here"
    )
    with pytest.raises(ArgumentError, match="gpu='T4' says nothing of device='cpu': estimate with device='cuda'"):
        found.bound("T4")
    here = found.bound(Ceilings("a CPU", "float32", 2, 1e11, 1e10), {"shard": "10 GbE"})
    assert here.compute == pytest.approx((FORWARD + BACKWARD) / 1e11)
    assert here.communication == pytest.approx(1 / 2 * 3 * LAYERS * OF_A_BLOCK / 1.25e9)


def test_a_bound_is_kept_where_the_estimate_is_and_is_in_its_data() -> None:
    found = hybrid()
    again = pickle.loads(pickle.dumps(found))
    assert again.bound() == found.bound()
    assert again.communication_by_module == found.communication_by_module
    data = json.loads(json.dumps(found.to_dict()))
    assert data["bound"]["step"] == found.bound().step
    assert data["communication_by_module"][0]["module"] in {str(block) for block in range(LAYERS)}


def test_the_rank_that_needs_most_has_a_bound() -> None:
    assert of(partial(sharded, 2), 2, ranks="all").bound().step is not None


def test_streams_are_no_ops_of_the_program() -> None:
    found = hybrid()
    names = {found.trace.strings[name] for name in found.trace.op_names.tolist()}
    assert not [name for name in names if name.startswith("torchprof")]
    assert not len(found.trace.marks)
    assert {number for _, number in found.trace.facts["streams"]} > {0}

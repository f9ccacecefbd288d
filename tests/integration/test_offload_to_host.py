"""FSDP2 with ``CPUOffloadPolicy``: what a rank needs on the device and on the host, counted by hand from FSDP2's sources."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import pytest
import torch
from sharded_blocks import LAYERS, sharded_blocks
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

import torchprof
from torchprof import Estimate

RANKS = 4
WIDTH = 200
WEIGHT = 4 * WIDTH * WIDTH
BLOCK = 2 * WEIGHT
"""Elements: of a weight, and of a block of two."""
SHARD = WEIGHT // RANKS * 4
"""Bytes of a rank's shard of a weight, in float32: no power of two."""
WEIGHTS = 2 * LAYERS

HALF = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def of(offload: OffloadPolicy, *, step: Any = None, optimizer: Any = torch.optim.AdamW, **options: Any) -> Estimate:
    build = partial(sharded_blocks, WIDTH, (RANKS,), "cuda", offload_policy=offload, **options)
    return torchprof.estimate(build, (1, WIDTH), optimizer=optimizer, step=step, world_size=RANKS)


def large(found: Estimate) -> dict[str, int]:
    """Bytes at the peak of what grows with the parameters."""
    names = ("parameters", "sharded parameters", "unsharded parameters", "gradients", "sharded gradients", "optimizer state")
    return {name: found.memory.by_category[name] for name in (*names, "communication buffers")}


NOTHING_SHARDED = {"parameters": 0, "sharded parameters": 0, "sharded gradients": 0, "optimizer state": 0}


@pytest.mark.parametrize("pin_memory", [True, False])
@pytest.mark.parametrize(
    ("options", "unsharded", "gradients", "buffers"),
    [
        # Backward of the second block: it is gathered, the first one is being gathered, the third one's gradients are reduced.
        ({}, 4 * BLOCK, 4 * BLOCK, 4 * BLOCK + 4 * BLOCK),
        ({"mp_policy": HALF}, 2 * BLOCK, 2 * BLOCK, 2 * BLOCK + 4 * BLOCK),
        # All blocks stay gathered. The last one is copied out, and what the second one was copied out of is not free yet.
        ({"reshard_after_forward": False}, 3 * 4 * BLOCK, 0, 2 * 4 * BLOCK),
        # Two blocks are still gathered when the last one's gradients, made in bfloat16, are copied to be reduced in float32.
        ({"reshard_after_forward": False, "mp_policy": HALF}, 2 * 2 * BLOCK, 2 * BLOCK, 4 * BLOCK),
    ],
    ids="sharded-again half kept kept-half".split(),
)
def test_no_shard_is_on_the_device(
    options: dict[str, Any], unsharded: int, gradients: int, buffers: int, *, pin_memory: bool
) -> None:
    found = of(CPUOffloadPolicy(pin_memory=pin_memory), **options)
    needed = {"unsharded parameters": unsharded, "gradients": gradients, "communication buffers": buffers}
    assert large(found) == {**NOTHING_SHARDED, **needed}
    assert found.memory.peak.bytes - sum(needed.values()) < 0.02 * found.memory.peak.bytes  # activations of one row


@pytest.mark.parametrize("options", [{}, {"mp_policy": HALF}, {"reshard_after_forward": 2}], ids="float32 half to-2".split())
def test_without_it_the_device_has_the_same_and_the_shards(options: dict[str, Any]) -> None:
    without, found = of(OffloadPolicy(), **options), of(CPUOffloadPolicy(), **options)
    assert without.host is None
    held = large(without)
    on_host = sum(held[name] for name in ("sharded parameters", "sharded gradients", "optimizer state"))
    assert without.memory.peak.bytes - found.memory.peak.bytes == on_host
    assert found.max_allocated < without.max_allocated
    assert found.communication == without.communication


def test_the_host_has_shards_gradients_and_states_and_what_the_optimizer_makes_of_one_weight() -> None:
    host = of(CPUOffloadPolicy(pin_memory=False)).host
    assert host is not None
    shards = WEIGHTS * SHARD
    temporaries = host.by_category.pop("temporaries")
    assert host.by_category == {"sharded parameters": shards, "sharded gradients": shards, "optimizer state": 2 * shards}
    assert 2 * SHARD <= temporaries <= 3 * SHARD + 64  # AdamW updates weights one by one, as it does on the CPU
    assert host.pinned == 0
    assert host.bytes == 4 * shards + temporaries


def test_pinned_memory_is_given_in_blocks_of_powers_of_two() -> None:
    host = of(CPUOffloadPolicy()).host
    assert host is not None
    block = 1 << (SHARD - 1).bit_length()
    assert SHARD < block < 2 * SHARD
    assert host.by_category["sharded parameters"] == host.by_category["sharded gradients"] == WEIGHTS * block
    assert host.by_category["optimizer state"] == 2 * WEIGHTS * SHARD  # states are not pinned
    assert host.pinned == 2 * WEIGHTS * block


def test_gradients_that_are_added_up_are_copied_to_memory_that_is_not_pinned() -> None:
    """The first microbatch's are copied while the GPU works on, the second's are waited for and added to these."""

    def step(model: nn.Module, optimizer: Any, x: Any) -> None:
        for _ in range(2):
            model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    host = of(CPUOffloadPolicy(), step=step).host
    assert host is not None
    block = 1 << (SHARD - 1).bit_length()
    assert host.by_category["sharded gradients"] == WEIGHTS * block
    assert host.pinned == 2 * WEIGHTS * block


def test_each_gather_copies_every_shard_to_the_device_first() -> None:
    """On the stream of the copies, and only for as long as the gather takes."""
    found = of(CPUOffloadPolicy(), optimizer=None)
    rows, trace = found.memory.allocations, found.trace
    names = [trace.strings[name] for name in trace.op_names[rows["op"]].tolist()]
    copies = [row for row, name in zip(rows, names, strict=True) if name == "aten::_to_copy" and row["bytes"] == SHARD]
    # Of two steps: each block is gathered in forward and again in backward, but the last one, which stays gathered.
    gathers = 2 * (LAYERS + LAYERS)
    assert len(copies) == 2 * gathers
    assert all(0 <= row["start"] < row["end"] for row in copies)


def test_an_optimizer_that_works_on_all_weights_at_once_needs_temporaries_for_all() -> None:
    one = of(CPUOffloadPolicy(pin_memory=False)).host
    every = of(CPUOffloadPolicy(pin_memory=False), optimizer=partial(torch.optim.AdamW, foreach=True)).host
    assert one is not None
    assert every is not None
    assert one.by_category["temporaries"] < WEIGHTS * SHARD <= every.by_category["temporaries"]


def test_some_blocks_may_stay_on_the_device() -> None:
    def build() -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cuda", (RANKS,))
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2)))
        fully_shard(model[0], mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))
        fully_shard(model[1], mesh=mesh)
        return fully_shard(model, mesh=mesh)

    found = torchprof.estimate(build, (1, WIDTH), optimizer=torch.optim.SGD, world_size=RANKS)
    shard = WIDTH * WIDTH // RANKS * 4
    assert found.memory.by_category["sharded parameters"] == shard
    assert found.host is not None
    assert found.host.by_category == {"sharded parameters": shard, "sharded gradients": shard}


def test_a_model_that_the_program_puts_on_the_host_takes_no_memory_of_this_machine() -> None:
    wide = 50_000  # 10 GB of parameters for each weight

    def build() -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(wide, wide, bias=False), nn.Linear(wide, wide, bias=False))
        mesh = init_device_mesh("cuda", (RANKS,))
        for layer in model:
            fully_shard(layer, mesh=mesh, offload_policy=CPUOffloadPolicy())
        return fully_shard(model, mesh=mesh).to_empty(device="cpu")

    host = torchprof.estimate(build, (1, wide), world_size=RANKS).host
    assert host is not None
    assert host.by_category["sharded parameters"] == 2 * (1 << (wide * wide - 1).bit_length())


def test_it_is_printed_and_exported() -> None:
    found = of(CPUOffloadPolicy())
    (line,) = (line for line in str(found).splitlines() if line.startswith("On the host:"))
    assert "sharded parameters" in line
    assert "of it pinned, in blocks of powers of two" in line
    assert f"{RANKS} ranks on a host take" in line
    assert found.host is not None
    assert json.loads(json.dumps(found.to_dict()))["host"]["bytes"] == found.host.bytes
    assert "On the host" not in str(of(OffloadPolicy()))


def test_on_the_cpu_host_and_device_are_one() -> None:
    build = partial(sharded_blocks, WIDTH, (RANKS,), "cpu")
    given: dict[str, Any] = {"optimizer": torch.optim.AdamW, "world_size": RANKS, "device": "cpu"}
    found = torchprof.estimate(partial(build, offload_policy=CPUOffloadPolicy(pin_memory=False)), (1, WIDTH), **given)
    assert found.host is None
    assert found.max_allocated == torchprof.estimate(build, (1, WIDTH), **given).max_allocated


def test_fsdp_is_as_before_whatever_happens() -> None:
    from torch.distributed.fsdp._fully_shard import _fsdp_param, _fsdp_param_group

    def raises(model: nn.Module, optimizer: Any, x: Any) -> None:
        model(x).sum().backward()
        raise OSError("the disk is full")

    places = [
        (_fsdp_param.FSDPParam, "reset_sharded_param"),
        (_fsdp_param_group, "foreach_reduce"),
        (torch.Tensor, "is_pinned"),
    ]
    before, variables = [getattr(owner, name) for owner, name in places], dict(os.environ)
    with pytest.raises(OSError, match="the disk is full"):
        of(CPUOffloadPolicy(), step=raises)
    assert [getattr(owner, name) for owner, name in places] == before
    assert dict(os.environ) == variables

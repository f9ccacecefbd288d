"""What optimizers of shards hold where they do not step as usual, counted by hand. Truth: ``test_sharded_truth.py``."""

from __future__ import annotations

from functools import partial

import torch
from sharded_blocks import LAYERS, of_blocks, sharded_blocks
from sharded_programs import Adapted, in_backward
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import torchprof

WIDTH = 64
SHARDS = LAYERS * 2 * 4 * WIDTH * WIDTH * 4 // 2
"""Bytes of the parameters that one of two ranks has."""
STEPS = 2 * LAYERS * 4
"""Bytes of the steps that AdamW counts, one for each parameter."""


def test_steps_in_backward_have_the_states_of_others_and_never_all_gradients() -> None:
    build = partial(sharded_blocks, WIDTH, (2,), "cpu")
    usual, early = (
        torchprof.estimate(build, (8, WIDTH), optimizer=optimizer, device="cpu", world_size=2)
        for optimizer in (torch.optim.AdamW, in_backward)
    )
    assert usual.by_category["optimizer state"] == early.by_category["optimizer state"] == 2 * SHARDS + STEPS
    assert "sharded gradients" not in early.by_category, "none is left at the peak"
    assert 0 < usual.by_category["sharded gradients"] <= SHARDS
    assert early.max_allocated < usual.max_allocated


def test_only_what_is_trained_of_a_model_with_adapters_has_gradients_and_states() -> None:
    def build() -> nn.Module:
        mesh = init_device_mesh("cpu", (2,))
        model = of_blocks(WIDTH)
        for block in model:
            for name in ("0", "2"):
                setattr(block, name, Adapted(block.get_submodule(name)))  # type: ignore[arg-type]
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    found = torchprof.estimate(build, (8, WIDTH), optimizer=torch.optim.AdamW, device="cpu", world_size=2)
    adapters = LAYERS * 2 * 8 * 5 * WIDTH * 4 // 2
    assert found.by_category["sharded parameters"] == SHARDS + adapters
    assert found.by_category["optimizer state"] == 2 * adapters + 2 * STEPS
    assert found.by_category["sharded gradients"] <= adapters
    reduced = sum(sent.bytes for sent in found.communication if sent.collective == "reduce-scatter")
    assert reduced == 2 * adapters

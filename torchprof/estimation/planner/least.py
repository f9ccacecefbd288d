"""What every step needs at least: a rank's parameters, their gradients and the states of the optimizer, without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from torchprof.estimation.fake.surroundings import undisturbed
from torchprof.estimation.sharding.building import built_sharded, local_part
from torchprof.estimation.sharding.world import fake_world
from torchprof.record.nested import find_tensors
from torchprof.record.preserve import preserved_random_states

__all__ = ["least_held"]


def least_held(
    build: Callable[[], nn.Module], world_size: int, optimizer: Callable[..., Any] | None, *, own_step: bool
) -> dict[str, int]:
    """Bytes that a rank holds when the optimizer works, at least, by category; empty where nothing can be said.

    Args:
        build: builds and shards the model as rank 0 does.
        world_size: how many ranks there are.
        optimizer: makes the optimizer of parameters.
        own_step: whether the step is the user's own, which may free gradients and states when it likes.
    """
    with preserved_random_states(), undisturbed(collect=False), fake_world(world_size, 0):
        model = built_sharded(build)
        held = [tensor for tensor in model.parameters() if _is_on_the_device(tensor)]
        found = {"parameters": sum(map(_bytes, held))}
        if not own_step:
            trained = [tensor for tensor in held if tensor.requires_grad]
            found["gradients"] = sum(map(_bytes, trained))
            found["optimizer state"] = _states(optimizer, trained) if optimizer is not None else 0
    return {name: count for name, count in found.items() if count}


def _states(optimizer: Callable[..., Any], parameters: Sequence[torch.Tensor]) -> int:
    """Bytes of what the optimizer keeps for these: it makes a step of one of each size, on meta."""
    counts = Counter((tuple(local.shape), local.dtype) for local in map(local_part, parameters) if local.numel())
    total = 0
    for (shape, dtype), count in counts.items():
        probe = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
        probe.grad = torch.empty_like(probe)
        try:
            made = optimizer([probe])
            made.step()
            states = [each for each in find_tensors(dict(made.state.get(probe, {}))) if each.device.type == "meta"]
        except Exception:
            return 0  # such as of one that needs names or a closure: nothing is said of its states
        total += count * sum(map(_bytes, states))
    return total


def _is_on_the_device(tensor: torch.Tensor) -> bool:
    return local_part(tensor).device.type == "meta"


def _bytes(tensor: torch.Tensor) -> int:
    local = local_part(tensor)
    return local.numel() * local.itemsize

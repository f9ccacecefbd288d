"""What every step needs at least: a rank's parameters, their gradients and the states of the optimizer, before it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from torchprof.estimation.sharding.building import local_part
from torchprof.estimation.sharding.pipelines import as_module
from torchprof.record.nested import find_tensors

__all__ = ["TooLarge", "checked", "least_held"]


class TooLarge(Exception):
    """What a rank holds in any case is more than its GPU has.

    Attributes:
        least: bytes by category.
    """

    def __init__(self, least: dict[str, int]) -> None:
        super().__init__("parameters, gradients and optimizer state alone are more")
        self.least = least


def checked(
    build: Callable[[], Any], capacity: int, optimizer: Callable[..., Any] | None, *, own_step: bool
) -> Callable[[], Any]:
    """The function that builds and shards the model, which raises `TooLarge` where the model cannot fit: no step is run then.

    Args:
        capacity: bytes that the GPU has.
        optimizer, own_step: as for `least_held`.
    """

    def built() -> Any:
        made = build()
        model = as_module(made)
        if isinstance(model, nn.Module):
            least = least_held(model, optimizer, own_step=own_step)
            if sum(least.values()) > capacity:
                raise TooLarge(least)
        return made

    return built


def least_held(model: nn.Module, optimizer: Callable[..., Any] | None, *, own_step: bool) -> dict[str, int]:
    """Bytes that a rank holds when the optimizer works, at least, by category; empty where nothing can be said.

    Args:
        model: as the rank has it, on meta.
        optimizer: makes the optimizer of parameters.
        own_step: whether the step is the user's own, which may free gradients and states when it likes.
    """
    held = [tensor for tensor in model.parameters() if _is_on_the_device(tensor)]
    found = {"parameters": sum(map(_bytes, held))}
    if not own_step:
        trained = [tensor for tensor in held if tensor.requires_grad]
        found["gradients"] = sum(map(_bytes, trained))
        with torch.device("cpu"):  # where a program makes tensors of which it does not say where they are
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

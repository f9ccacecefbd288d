"""``DistributedDataParallel(find_unused_parameters=True)`` in ``estimate(build, inputs, world_size=...)``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import torchprof
from torchprof import Estimate

WIDTH, OTHERS = 64, 32


class Branches(nn.Module):
    """A layer that is used, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, OTHERS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.used(x)
        return found


USED, UNUSED = WIDTH * WIDTH * 4, WIDTH * OTHERS * 4


def of(step: Any = None, device: str = "cuda", **options: Any) -> Estimate:
    def build() -> nn.Module:
        return DistributedDataParallel(Branches(), **options)

    given: dict[str, Any] = {"optimizer": torch.optim.AdamW, "world_size": 2, "device": device, "step": step, "steps": 3}
    return torchprof.estimate(build, torch.empty(8, WIDTH, device="meta"), **given)


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_not_used_is_reduced_and_has_no_states(device: str, *, views: bool) -> None:
    found = of(device=device, find_unused_parameters=True, gradient_as_bucket_view=views)
    assert found.memory.by_category["parameters"] == USED + UNUSED
    assert found.memory.by_category["optimizer state"] in range(2 * USED, 2 * USED + 64)  # and a count of steps
    sent = [(each.collective, each.calls, each.bytes) for each in found.communication]
    assert sent == [("all-reduce", 2, USED + UNUSED + 2 * 4)]  # a bucket, and which of two parameters were used


def test_which_are_used_may_differ_between_steps() -> None:
    steps: list[int] = []

    def step(model: Any, optimizer: Any, x: Tensor) -> None:
        steps.append(1)
        inner = model.module
        inner.forward = inner.unused.forward if len(steps) == 2 else inner.used.forward
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    found = of(step, find_unused_parameters=True)
    assert found.memory.by_category["optimizer state"] in range(2 * (USED + UNUSED), 2 * (USED + UNUSED) + 64)


def test_gradients_that_are_there_stay() -> None:
    """What an earlier microbatch used and this one does not."""
    kept: list[Any] = []

    def step(model: Any, optimizer: Any, x: Tensor) -> None:
        inner = model.module
        for layer in (inner.unused, inner.used):
            inner.forward = layer.forward
            model(x).sum().backward()
        kept.append(inner.unused.weight.grad is not None)
        optimizer.zero_grad()

    of(step, find_unused_parameters=True)
    assert kept == [True, True, True]


def test_all_may_be_used() -> None:
    def step(model: Any, optimizer: Any, x: Tensor) -> None:
        inner = model.module
        inner.forward = lambda given: inner.unused(inner.used(given))
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    with_it, without = of(step, find_unused_parameters=True), of(step)
    assert with_it.memory.by_category["optimizer state"] == without.memory.by_category["optimizer state"]

"""Estimates of programs with sparse gradients, against what PyTorch's profiler counts of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from counting import counted_peak
from torch import Tensor, nn

import torchprof
from torchprof import EstimateError

ROWS, WIDTH = 5000, 32
Step = Callable[..., None]


class Embeds(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.embedding = kind(ROWS, WIDTH, sparse=True)
        self.linear = nn.Linear(WIDTH, 16)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.linear(self.embedding(ids))
        return found


def batches() -> list[Tensor]:
    """Two, none of whose indices occurs twice."""
    torch.manual_seed(0)
    return [part.clone() for part in torch.randperm(ROWS)[:1280].view(2, 64, 10)]


def each(model: nn.Module, optimizer: Any, *ids: Tensor) -> None:
    for part in ids:
        model(part).square().mean().backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad()


def accumulated(model: nn.Module, optimizer: Any, *ids: Tensor) -> None:
    for part in ids:
        model(part).square().mean().backward()
    if optimizer is not None:
        optimizer.step()
    model.zero_grad(set_to_none=False)


def counted(make: Callable[[], nn.Module], make_optimizer: Any, step: Step, steps: int) -> int:
    model, ids = make(), batches()
    optimizer = make_optimizer(model.parameters()) if make_optimizer is not None else None
    state = optimizer.state.values() if optimizer is not None else ()
    held = [value for values in state for value in values.values() if isinstance(value, Tensor)]

    def run() -> None:
        for _ in range(steps):
            step(model, optimizer, *ids)

    return counted_peak(run, [*model.parameters(), *ids, *held])


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, momentum=0.9)


def maximizing(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, maximize=True)


@pytest.mark.parametrize("step", [each, accumulated])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("make_optimizer", [None, torch.optim.SGD, momentum, maximizing, torch.optim.Adagrad])
def test_sparse_gradients_take_what_they_take(kind: Any, make_optimizer: Any, step: Step) -> None:
    steps = 1 if step is each and make_optimizer is momentum else 2  # then indices are met again
    found = torchprof.estimate(
        Embeds(kind), batches(), optimizer=make_optimizer, step=step, steps=steps, device="cpu"
    ).max_allocated
    assert found == pytest.approx(counted(lambda: Embeds(kind), make_optimizer, step, steps), abs=16)


@pytest.mark.parametrize("step", [each, accumulated])
def test_sparse_adam_takes_what_it_takes(step: Step) -> None:
    def make() -> nn.Module:
        return nn.Embedding(ROWS, WIDTH, sparse=True)

    found = torchprof.estimate(make, batches(), optimizer=torch.optim.SparseAdam, step=step, device="cpu").max_allocated
    assert found == pytest.approx(counted(make, torch.optim.SparseAdam, step, 2), abs=16)


def test_a_sparse_gradient_has_the_indices_and_values_of_what_was_looked_up() -> None:
    seen: list[tuple[bool, tuple[int, ...], tuple[int, ...], bool]] = []

    def step(model: nn.Module, optimizer: object, ids: Tensor) -> None:
        model(ids).sum().backward()
        gradient = model.weight.grad
        assert isinstance(gradient, Tensor)
        joined = gradient.coalesce()
        seen.append((gradient.is_sparse, tuple(gradient._indices().shape), tuple(joined.values().shape), joined.is_coalesced()))

    found = torchprof.estimate(nn.Embedding(ROWS, WIDTH, sparse=True), batches()[:1], step=step, steps=1, device="cpu")
    assert seen == [(True, (1, 640), (640, WIDTH), True)]
    assert any("where indices repeat" in note for note in found.notes)


@pytest.mark.parametrize("allow_real", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_large_table_is_never_there(device: str, allow_real: bool) -> None:
    found = torchprof.estimate(
        lambda: nn.Embedding(10**9, 64, sparse=True),
        {"input": torch.zeros(64, dtype=torch.long)},
        optimizer=torch.optim.SGD,
        device=device,
        allow_real=allow_real,
    )
    assert found.by_category["parameters"] == 10**9 * 64 * 4
    assert found.max_allocated < 10**9 * 64 * 4 + 2**26
    assert found.unmeasured == 0


def test_a_sparse_op_that_depends_on_values_is_named_with_the_way_out() -> None:
    class Sparsifies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.linear(x).to_sparse().to_dense()
            return found

    with pytest.raises(EstimateError, match=r"aten::_to_sparse in the root module .*allow_real=\('aten::_to_sparse',\)"):
        torchprof.estimate(Sparsifies(), (4, 8), device="cpu")
    sizes: list[int] = (
        torchprof.estimate(Sparsifies(), (4, 8), device="cpu", allow_real=("aten::_to_sparse",))
        .memory.allocations["bytes"]
        .tolist()
    )
    assert 2 * 32 * 8 in sizes  # indices of 32 elements, in two dimensions

"""Estimates of steps that do more than forward, backward and an update, against what PyTorch's profiler counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from counting import counted_peak
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof import ArgumentError, EstimateError


class Segments(nn.Module):
    """Layers of which each is checkpointed."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.1)) for _ in range(8)])
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.Linear(128, 64))


def plain(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    model(x).square().mean().backward()
    optimizer.step()
    model.zero_grad()


def accumulating(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    for _ in range(3):
        model(x).square().mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.zero_grad()


def with_closure(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    def closure() -> Tensor:
        model.zero_grad()
        loss: Tensor = model(x).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)


def scaling(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(x).square().mean()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    model.zero_grad()


def casting(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x).float().square().mean()
    loss.backward()
    optimizer.step()
    model.zero_grad()


def matrices(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Muon([parameter for parameter in parameters if parameter.dim() == 2])


def compared(make: Callable[[], nn.Module], make_optimizer: Any, step: Callable[..., None], x: Tensor) -> tuple[int, int]:
    found = torchprof.estimate(make, [x], optimizer=make_optimizer, step=step, device="cpu").max_allocated
    model = make()
    optimizer = make_optimizer(model.parameters())

    def run() -> None:
        for _ in range(2):
            step(model, optimizer, x)

    return found, counted_peak(run, [*model.parameters(), x])


@pytest.mark.parametrize("step", [accumulating, with_closure, scaling, casting])
def test_steps_of_many_kinds_take_what_they_take(step: Callable[..., None]) -> None:
    found, counted = compared(network, torch.optim.AdamW, step, torch.rand(32, 64))
    assert found == pytest.approx(counted, abs=64)


def test_products_in_sixteen_bits_need_a_copy_on_the_cpu() -> None:
    found, counted = compared(lambda: nn.Linear(64, 128, bias=False), matrices, plain, torch.rand(32, 64))
    assert found == pytest.approx(counted, abs=64)


def test_an_optimizer_that_wants_a_closure_takes_all_of_its_iterations() -> None:
    found, counted = compared(network, torch.optim.LBFGS, with_closure, torch.rand(32, 64))
    assert found == pytest.approx(counted, rel=0.01)
    by_default = torchprof.estimate(network, (32, 64), optimizer=torch.optim.LBFGS, device="cpu")
    assert by_default.max_allocated == pytest.approx(found, rel=0.01)
    assert by_default.notes == ()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_keeps_states_of_random_numbers(reentrant: bool) -> None:
    x = torch.rand(32, 16, requires_grad=True)
    found, counted = compared(lambda: Segments(reentrant), torch.optim.SGD, plain, x)
    assert found == pytest.approx(counted, abs=128)
    found_again = torchprof.estimate(lambda: Segments(reentrant), [x], step=lambda m, _, x: m(x).sum().backward(), device="cpu")
    assert found_again.memory.allocations["bytes"].tolist().count(5056) >= 8


def test_states_of_random_numbers_are_on_the_host_of_a_gpu() -> None:
    found = torchprof.estimate(lambda: Segments(False), (32, 16), device="cuda")
    assert 5056 not in found.memory.allocations["bytes"].tolist()


def test_the_search_for_a_batch_goes_on_until_it_does_not_fit() -> None:
    largest = torchprof.max_batch_size(nn.Linear(4, 4), lambda batch: (batch, 4), 2**21, device="cpu")
    assert largest > 4096
    bytes_of = [torchprof.estimate(nn.Linear(4, 4), (batch, 4), device="cpu").device_memory for batch in (largest, largest + 1)]
    assert bytes_of[0] <= 2**21 < bytes_of[1]
    with pytest.raises(ArgumentError, match="does their size depend on the batch"):
        torchprof.max_batch_size(nn.Linear(4, 4), lambda _: (1, 4), 2**30, device="cpu", steps=1)


def test_a_model_may_print_tensors_and_what_reads_them_is_named() -> None:
    class Prints(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.linear(x)
            self.said = f"{y.mean()} {y.sum():}"
            return y

    assert torchprof.estimate(Prints(), (2, 4), device="cpu").max_allocated > 0
    reads: list[Callable[[Tensor], Any]] = [
        lambda y: float(y.detach().sum()),
        lambda y: f"{y.sum():.3f}",
        lambda y: y.sum().tolist(),
        lambda y: y[y > 0],
    ]
    for read in reads:

        def loss(y: Tensor, read: Callable[[Tensor], Any] = read) -> Tensor:
            read(y)
            return y.sum()

        with pytest.raises(EstimateError, match=r"allow_real="):
            torchprof.estimate(nn.Linear(4, 4), (2, 4), loss=loss, device="cpu")
        options: dict[str, Any] = {"device": "cpu", "allow_real": True}
        assert torchprof.estimate(nn.Linear(4, 4), (2, 4), loss=loss, **options).notes

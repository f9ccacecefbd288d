"""The fake device does what the tests beside this one take for granted."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn


def train(device: str, steps: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.rand(8, 16).to(device)
    for _ in range(steps):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().cpu() for parameter in model.parameters()]


def test_a_network_trains_on_it_as_on_the_cpu(fake: Any) -> None:
    assert all(torch.equal(here, there) for here, there in zip(train("fake"), train("cpu"), strict=True))


def test_backward_runs_on_a_thread_of_the_device(fake: Any) -> None:
    threads = []

    class Where(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            threads.append(threading.get_ident())
            return grad

    Where.apply(torch.ones(2, device="fake", requires_grad=True)).sum().backward()  # type: ignore[no-untyped-call]
    assert threads != [threading.get_ident()]


def test_an_event_has_the_time_at_which_its_stream_is_done(fake: Any) -> None:
    first, second = (torch.Event(device="fake", enable_timing=True) for _ in range(2))
    fake.work(2_000_000)
    first.record()
    fake.work(5_000_000)
    second.record()
    assert not second.query()
    torch.accelerator.synchronize()
    assert second.query()
    assert fake.now() == 7_000_000
    assert first.elapsed_time(second) == 5.0


def test_streams_are_busy_side_by_side(fake: Any) -> None:
    here, there = (torch.Event(device="fake", enable_timing=True) for _ in range(2))
    other = torch.Stream(device="fake:0")
    fake.work(3_000_000)
    with other:
        fake.work(1_000_000)
        there.record()
    here.record()
    torch.accelerator.synchronize()
    assert there.elapsed_time(here) == 2.0


def test_blocks_are_rounded_and_kept_when_they_are_given_back(fake: Any) -> None:
    before = fake.allocated()
    x = torch.empty(1, device="fake")
    assert fake.allocated() - before == 512
    reserved = fake.reserved()
    del x
    assert (fake.allocated() - before, fake.reserved()) == (0, reserved)
    fake.empty_cache()
    assert fake.reserved() == reserved - 512


def test_what_does_not_fit_is_out_of_memory(fake: Any) -> None:
    fake.capacity(fake.reserved() + 1024)
    torch.empty(1024, dtype=torch.uint8, device="fake")
    with pytest.raises(torch.OutOfMemoryError, match="fake device out of memory"):
        torch.empty(1025, dtype=torch.uint8, device="fake")


def test_failures_are_injected_and_stay(fake: Any) -> None:
    fake.fail("kernel", after=1)
    x = torch.empty(1, device="fake").fill_(1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="kernel failed"):
            x.fill_(2)

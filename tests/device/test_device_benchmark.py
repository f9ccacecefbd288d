"""`torchprof.benchmark` on a device: which ones it waits for, and what it says of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torchprof
from torchprof.benchmarking.devices import devices_in_use

FEW: dict[str, Any] = {"rounds": 4, "warmup": 2, "recorded": 2}


def waits_of(fake: Any, device: int, work: Any, **options: Any) -> int:
    before = fake.synchronizations(device)
    torchprof.benchmark(work, gpu="off", **{**FEW, **options})
    return int(fake.synchronizations(device) - before)


def test_only_the_device_in_use_is_waited_for(fake: Any) -> None:
    fake.empty_cache()
    x = torch.ones(4, device="fake:1")
    assert [str(device) for device in devices_in_use()] == ["fake:1"]
    assert waits_of(fake, 0, lambda: x + 1) == 0
    few, more = (waits_of(fake, 1, lambda: x + 1, rounds=rounds) for rounds in (4, 6))
    assert more - few == 2 * 2, "before every timed call and after it"


def test_both_are_waited_for_where_both_have_memory(fake: Any) -> None:
    x, y = (torch.ones(4, device=f"fake:{index}") for index in range(2))
    result = torchprof.benchmark(lambda: (x + 1, y + 1), gpu="off", **FEW)
    assert result.waited_for == ("fake:0", "fake:1")


def test_devices_that_a_call_begins_to_use_are_found_while_it_warms_up(fake: Any) -> None:
    fake.empty_cache()
    result = torchprof.benchmark(lambda: torch.ones(4, device="fake:1") + 1, gpu="off", **FEW)
    assert result.waited_for == ("fake:1",)


def test_reserved_and_peak_are_those_of_the_allocator(fake: Any) -> None:
    model = nn.Linear(64, 64).to("fake")
    x = torch.rand(512, 64).to("fake")
    fake.empty_cache()
    result = torchprof.benchmark(lambda: model(x), model=model, gpu="off", **FEW)
    assert result.figures.memory_device == "fake:0"
    assert result.figures.peak == fake.max_allocated()
    assert result.figures.reserved == fake.max_reserved()
    assert "reserved_bytes" not in result.unknown


@pytest.mark.events
def test_intervals_of_events_are_device_time_and_no_kernels(fake: Any) -> None:
    fake.op_duration(7_000)
    model = nn.Linear(4, 4).to("fake")
    x = torch.ones(2, 4, device="fake")
    result = torchprof.benchmark(lambda: model(x), model=model, gpu="events", **FEW)
    assert result.figures.device_times == (7_000, 7_000)
    assert result.figures.kernels is result.idle_share is None
    assert "events" in result.unknown["kernels"]
    assert [str(hot) for hot in result.figures.hottest] == ["Linear"]

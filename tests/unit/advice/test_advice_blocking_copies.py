"""`blocking_copies`: copies to the device for which the host waits, so that the device is idle then."""

from __future__ import annotations

import pytest
from advice_traces import KERNELS, device_loop
from handwritten import trace

from torchprof.advice.registry import NotTold
from torchprof.advice.rules.blocking_copies import blocking_copies

WAITS = [(60, 740)]
LATE = [(50, 200, 20), (800, 990, 750)]


def test_the_host_waits_for_a_copy_from_memory_that_is_not_pinned() -> None:
    (found,) = blocking_copies(device_loop(WAITS, LATE, kind="to device"))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high) == (600_000, 600_000 + 60_000 // 2)
    assert found.what == "The host waits for 1 copy a step to the device, for 680 us"
    assert "pinned memory" in found.advice


def test_from_pinned_memory_it_only_has_to_be_asked_for() -> None:
    (found,) = blocking_copies(device_loop(WAITS, LATE, kind="to device", copy=KERNELS[2]))
    assert found.advice.startswith("Copy with .to(device, non_blocking=True)")


@pytest.mark.parametrize("kind", ["item", "memory"])
def test_other_waits_are_none(kind: str) -> None:
    assert not list(blocking_copies(device_loop(WAITS, LATE, kind=kind)))


def test_a_copy_while_the_device_is_busy_costs_nothing() -> None:
    assert not list(blocking_copies(device_loop(WAITS, [(50, 790, 20), (790, 1045, 30)], kind="to device")))


def test_without_runtime_calls_it_is_not_told_and_without_a_device_nothing_is_said() -> None:
    kernels = [{"start": 0, "end": 5}]
    with pytest.raises(NotTold, match="runtime"):
        list(blocking_copies(trace(kernels=kernels, strings=["k"], steps=[{"start": 0, "end": 1000}])))
    assert not list(blocking_copies(trace()))

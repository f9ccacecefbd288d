"""`data_loading`: a loop that waits for its data is told so, and one that does not is not."""

from __future__ import annotations

import pytest
from advice_traces import device_loop
from handwritten import trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.data_loading import data_loading


def loop(data: int) -> torchprof.Trace:
    """Two steps of 1,000 ns, in which so many are waited for data."""
    return trace(steps=[{"start": at, "end": at + 1000, "data": data, "forward": 500} for at in (0, 1000)])


def test_a_loop_that_waits_a_tenth_of_its_time() -> None:
    (found,) = data_loading(loop(data=100))
    assert found.worth is not None
    assert (found.worth.high, found.worth.whole, found.worth.measured) == (100, 1000, True)
    assert "10.0% of its time" in found.what


def test_a_loop_that_does_not_wait() -> None:
    assert list(data_loading(loop(data=10))) == []


def test_without_steps_it_cannot_be_told() -> None:
    with pytest.raises(NotTold, match=r"prof\.step\(\)"):
        list(data_loading(trace()))


def test_of_a_device_it_is_worth_the_time_in_which_that_was_idle() -> None:
    (found,) = data_loading(device_loop(waits=[], kernels=[(50, 100, 20), (300, 650, 280)], data=(600, 990)))
    assert found.worth is not None
    assert found.worth.high == (990_000 - 650_000) // 2, "between the two steps"
    assert found.worth.basis == "the idle time of the device while data was waited for"
    assert found.what == "A step waits 390 us for data, 39.0% of its time; cuda:0 is idle for 170 us of that"


def test_a_device_that_is_busy_meanwhile_loses_nothing() -> None:
    assert list(data_loading(device_loop(waits=[], kernels=[(50, 1020, 20)], data=(600, 990)))) == []

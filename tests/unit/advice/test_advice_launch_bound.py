"""`launch_bound`: a device that waits for the host to launch, and for nothing else."""

from __future__ import annotations

import pytest
from advice_traces import device_loop
from handwritten import gpu_trace, trace

from torchprof.advice.registry import NotTold
from torchprof.advice.rules.launch_bound import launch_bound

LATE = [(50, 100, 20), (300, 350, 280)]
"""From 100 to 300 us of a step the device waits for the host; from 350 until 50 of the next step, too."""


def test_late_launches_are_worth_the_idle_time_before_them() -> None:
    (found,) = launch_bound(device_loop(waits=[], kernels=LATE))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, (2 * 200_000 + 700_000) // 2, 1_000_000)
    assert found.what == "cuda:0 waits 550 us of a step for the host to launch: 2 kernels a step of 50.0 us on average"
    assert found.details == ("in forward: 550 us before 1.50 kernels a step",)


def test_time_in_which_it_waited_for_the_device_or_for_data_is_of_other_rules() -> None:
    waited = [(110, 290)]
    (found,) = launch_bound(device_loop(waits=waited, kernels=[(50, 120, 20), (300, 350, 295)]))
    assert found.worth is not None
    assert found.worth.high == 700_000 // 2  # only from 350 on: in the other gap it had waited for as long
    (found,) = launch_bound(device_loop(waits=[], kernels=LATE, data=(600, 990)))
    assert found.worth is not None
    assert found.worth.high == (2 * 200_000 + 700_000 - 390_000) // 2


def test_a_device_that_is_kept_busy_is_not_launch_bound() -> None:
    assert not list(launch_bound(device_loop(waits=[], kernels=[(50, 500, 20), (505, 1045, 30)])))


def test_what_is_compiled_or_launches_graphs_has_other_advice() -> None:
    (plain,) = launch_bound(device_loop(waits=[], kernels=LATE))
    (compiled,) = launch_bound(device_loop(waits=[], kernels=LATE, compiled=True))
    assert "torch.compile, which makes fewer" in plain.advice
    assert 'torch.compile(mode="reduce-overhead")' in compiled.advice
    (graphs,) = launch_bound(gpu_trace())
    assert "into CUDA graphs too" in graphs.advice


def test_without_a_device_nothing_is_said_and_without_kernels_it_is_not_told() -> None:
    assert not list(launch_bound(trace(steps=[{"start": 0, "end": 1000}])))
    on_device = trace(shapes=[()], tensors=[{"dtype": 6, "device_type": 1}], steps=[{"start": 0, "end": 1000}])
    with pytest.raises(NotTold, match="no kernels"):
        list(launch_bound(on_device))

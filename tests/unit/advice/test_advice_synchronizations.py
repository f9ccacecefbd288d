"""`synchronizations`: waits of the host for the device that leave it idle, by line; on the CPU nothing waits."""

from __future__ import annotations

from typing import Any

import pytest
from advice_traces import device_loop
from handwritten import trace

import torchprof
from torchprof.advice.rules.synchronizations import synchronizations
from torchprof.trace.schema import Phase


def test_item_leaves_the_device_idle_until_the_host_has_launched_again() -> None:
    """In each of two steps of 1 ms, item() waits from 100 to 500 us, and the next kernel starts at 600, where 400 was possible.

    From 900 until 50 of the next step the host is late; being 400 ahead, it had not been.
    """
    (found,) = synchronizations(device_loop(waits=[(100, 500)], kernels=[(50, 400, 20), (600, 900, 560)]))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (200_000, 200_000 + 150_000 // 2, 1_000_000)
    assert found.what == "The host waits for the device 1 time a step, for 400 us"
    assert found.details == ("aten::item, 1 a step, 400 us",)
    assert "of the step before" in found.advice


def test_late_launches_after_it_are_worth_at_most_what_it_waited() -> None:
    """The gap from 400 to 430 began while the host waited; that from 500 to 990 came later, of which 300 had been waited."""
    kernels = [(50, 400, 20), (430, 500, 420), (990, 995, 980)]
    (found,) = synchronizations(device_loop(waits=[(105, 405)], kernels=kernels))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high) == (30_000, 300_000)


def test_a_wait_while_the_device_has_enough_to_do_costs_nothing() -> None:
    assert not list(synchronizations(device_loop(waits=[(100, 390)], kernels=[(50, 400, 20), (400, 1045, 30)])))


def test_many_waits_in_a_step_have_other_advice_than_one() -> None:
    kernels = [(50, 200, 20), (300, 400, 250), (500, 600, 450), (700, 800, 650)]
    (found,) = synchronizations(device_loop(waits=[(60, 240), (310, 440), (510, 640)], kernels=kernels))
    assert "3 times a step" in found.what
    assert "torch.where" in found.advice


def test_allocations_from_the_driver_and_waits_when_all_is_done_are_none() -> None:
    kernels = [(50, 200, 20), (800, 900, 750)]
    assert not list(synchronizations(device_loop(waits=[(60, 740)], kernels=kernels, kind="memory")))


def test_the_wait_of_a_copy_to_the_device_is_of_another_rule() -> None:
    assert not list(
        synchronizations(device_loop(waits=[(60, 740)], kernels=[(50, 200, 20), (800, 900, 750)], kind="to device"))
    )


def item(device: int, **more: Any) -> torchprof.Trace:
    """A step of 1,000 ns with an item() of 300 ns on the CPU (0) or a GPU (1), of which no runtime call was recorded."""
    return trace(
        strings=["aten::item", "aten::_local_scalar_dense"],
        shapes=[()],
        tensors=[{"dtype": 6, "device_type": device, "storage": 1}],
        operands=[0],
        signatures=[{"name": 0, "n_inputs": 1}, {"name": 1, "n_inputs": 1}],
        steps=[{"start": 0, "end": 1000}],
        **{
            "ops": [
                {"start": 100, "end": 400, "signature": 0, "n_inputs": 1},
                {"start": 110, "end": 390, "signature": 1, "n_inputs": 1, "parent": 0},
            ],
            **more,
        },
    )


def test_where_runtime_calls_are_not_known_it_is_at_most_the_time_of_the_op() -> None:
    (found,) = synchronizations(item(1))
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 280, 1000)


def test_so_it_is_in_an_aggregated_trace() -> None:
    totals = [{"signature": 1, "count": 2, "time": 280, "module": -1, "stack": -1, "phase": Phase.OTHER}]
    (found,) = synchronizations(item(1, ops=[], op_totals=totals))
    assert found.worth is not None
    assert (found.worth.high, found.details) == (280, ("aten::_local_scalar_dense, 2 a step, 0.28 us",))


def test_on_the_cpu_item_waits_for_nothing() -> None:
    assert not list(synchronizations(item(0)))


@pytest.mark.parametrize(("target", "waits"), [(0, True), (1, False)])
def test_a_copy_to_the_host_waits_and_one_on_the_device_does_not(target: int, waits: bool) -> None:
    copied = trace(
        strings=["aten::copy_"],
        shapes=[()],
        tensors=[{"dtype": 6, "device_type": target, "storage": 1}, {"dtype": 6, "device_type": 1, "storage": 2}],
        operands=[0, 1],
        signatures=[{"name": 0, "n_inputs": 2}],
        steps=[{"start": 0, "end": 1000}],
        ops=[{"start": 100, "end": 400, "n_inputs": 2}],
    )
    assert bool(list(synchronizations(copied))) is waits

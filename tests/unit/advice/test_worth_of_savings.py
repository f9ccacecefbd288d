"""What findings are a part of, and what savings of the host are worth beside a device."""

from __future__ import annotations

import pytest
from advice_traces import device_loop
from handwritten import trace
from launches import Launch, gpu_step

import torchprof
from torchprof.advice.loop import loop_of

HOST = 1_000_000


def test_on_the_host_alone_all_that_is_saved_is_gained() -> None:
    loop = loop_of(trace(steps=[{"start": 0, "end": 1000, "forward": 500}]))
    assert (loop.time, loop.host, loop.idle, loop.of_devices) == (1000, 1000, None, False)
    assert loop.most_saved(300) == 300


def test_a_step_is_as_long_as_the_device_takes_where_the_host_is_ahead() -> None:
    loop = loop_of(gpu_step(Launch("aten::mm", "gemm", us=5000)))
    assert (loop.time, loop.host, loop.idle, loop.of_devices) == (5 * HOST, HOST, 0, True)
    assert loop.most_saved(300_000) == 0, "the device has no time to spare"
    assert loop.most_saved(300_000, 200_000) == 200_000


def test_the_host_gains_at_most_the_time_in_which_the_device_is_idle() -> None:
    loop = loop_of(gpu_step(Launch("aten::mm", "gemm", us=900)))
    assert (loop.time, loop.idle, loop.of_devices) == (HOST, 100_000, False)
    assert loop.most_saved(300_000) == 100_000
    assert loop.most_saved(50_000) == 50_000
    assert loop.most_saved(300_000, 150_000) == 250_000
    assert loop.most_saved(100_000, 500_000) == 500_000


def test_of_several_steps_it_is_the_time_from_the_first_kernel_to_the_last() -> None:
    loop = loop_of(device_loop(waits=[], kernels=[(50, 2050, 20)]))  # of two steps of 1 ms on two streams at once
    assert loop.time == pytest.approx((3050 - 50) * 1000 // 2)


def test_what_a_share_is_of_is_said_where_it_is_not_the_step_of_the_host() -> None:
    products = [Launch("aten::mm", "volta_sgemm_128x64", us=2500, shapes=((64, 64), (64, 64)), dtype=6)] * 2
    found = torchprof.findings(gpu_step(*products, devices=["NVIDIA A100"]))
    assert (
        found.of_step
        == "Step time: 5.00 ms, that of the device; the host takes 1.00 ms, and gains little by what it alone saves"
    )
    (worth,) = (each.worth for each in found if each.rule == "float32_products")
    assert worth is not None
    assert worth.whole == 5 * HOST
    assert found.of_step in str(found)
    assert torchprof.findings(gpu_step(Launch("aten::mm", "gemm", us=900))).of_step == ""

"""`exposed_communication`: collectives during which the device computes nothing."""

from __future__ import annotations

import pytest
from handwritten import trace
from launches import Launch, gpu_step

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.exposed_communication import exposed_communication

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def reduced(at: int) -> torchprof.Trace:
    """Kernels from 0 to 600 and from 800 to 900 us, and an all-reduce of 300 us on another stream."""
    return gpu_step(
        Launch("aten::mm", "gemm", 600),
        Launch("aten::mm", "gemm", 100, at=800),
        Launch("", ALL_REDUCE, 300, stream=20, at=at),
    )


def test_an_all_reduce_after_backward() -> None:
    (found,) = exposed_communication(reduced(at=550))  # beside the others until 600, and from 800
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 200_000, 1_000_000)
    assert found.worth.measured
    assert found.details == ("ncclDevKernel_AllReduce_Sum_f32_RING_LL: 300 us a step, 1 kernel in all, 300 us to 300 us each",)
    assert "200 us" in found.what
    assert "300 us that they take" in found.what


def test_one_beside_backward() -> None:
    assert list(exposed_communication(reduced(at=100))) == []


def test_a_loop_without_collectives() -> None:
    assert list(exposed_communication(gpu_step(Launch("aten::mm", "gemm", 600)))) == []


def test_without_single_kernels_it_cannot_be_told() -> None:
    sums = {"kernel_totals": [{"name": 0, "time": 1000, "count": 1}]}
    with pytest.raises(NotTold, match="aggregated"):
        list(exposed_communication(trace(strings=[ALL_REDUCE], facts={"aggregate": True}, **sums)))
    assert list(exposed_communication(trace(strings=["gemm"], facts={"aggregate": True}, **sums))) == []
    with pytest.raises(NotTold, match="no kernels"):
        list(exposed_communication(trace()))

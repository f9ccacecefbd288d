"""`channels_first`: convolutions that convert the layout of their operands."""

from __future__ import annotations

import pytest
from handwritten import trace
from launches import Launch, gpu_step

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.channels_first import channels_first

TO_LAST = "void cudnn::engines_precompiled::nchwToNhwcKernel<__half, __half, float, false, true, (cudnnKernelDataType_t)0>(...)"
TO_FIRST = (
    "void cudnn::engines_precompiled::nhwcToNchwKernel<__half, __half, float, true, false, (cudnnKernelDataType_t)0>(...)"
)
CONVOLUTION = "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_f16_s16816fprop_optimized_f16_256x64_32x4_nhwc_align8>(...)"


def convolution(converting: int) -> torchprof.Trace:
    """900 us of convolution, with two kernels of so many microseconds around it."""
    return gpu_step(
        Launch("aten::cudnn_convolution", TO_LAST, converting, path="conv"),
        Launch("aten::cudnn_convolution", CONVOLUTION, 900, path="conv"),
        Launch("aten::cudnn_convolution", TO_FIRST, converting, path="conv"),
    )


def test_kernels_that_convert() -> None:
    (found,) = channels_first(convolution(50))
    assert found.module == "conv"
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 100_000, 1_000_000)
    assert found.worth.measured
    assert found.details == (
        "nchwToNhwcKernel<__half, float>: 50.0 us in 1 kernel",
        "nhwcToNchwKernel<__half, float>: 50.0 us in 1 kernel",
    )


def test_one_that_takes_next_to_nothing() -> None:
    assert list(channels_first(convolution(5))) == []


def test_channels_last() -> None:
    assert list(channels_first(gpu_step(Launch("aten::cudnn_convolution", CONVOLUTION, 900)))) == []


def test_on_a_cpu_it_cannot_be_told() -> None:
    with pytest.raises(NotTold, match="no kernels"):
        list(channels_first(trace()))

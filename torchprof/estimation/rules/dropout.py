"""Dropout on CUDA keeps a mask of one byte per element; on the CPU, one number of the input's dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchprof.estimation.rules.registry import Kind, rule

aten = torch.ops.aten


@rule(
    Kind.KERNEL,
    "aten::dropout",
    on="cuda",
    when="training, with 0 < p < 1 and an input that is not empty",
    source="is_fused_kernel_acceptable in aten/src/ATen/native/Dropout.cpp",
)
def dropout(op: Any, input: Tensor, p: float, train: bool) -> Tensor:
    if train and 0 < p < 1 and input.numel():
        dropped: Tensor = aten.native_dropout(input, p, True)[0]
        return dropped
    result: Tensor = aten.mul(input, 0) if train and p == 1 else aten.alias(input)
    return result


@rule(
    Kind.ORDER,
    "aten::native_dropout",
    on="cuda",
    when="always: the mask is allocated before the result",
    source="dropout_cuda in aten/src/ATen/native/cuda/Dropout.cu; histories of an H200",
)
def mask_before_result(results: list[Tensor]) -> list[Tensor]:
    return results[::-1]

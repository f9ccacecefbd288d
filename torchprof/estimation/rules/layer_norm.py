"""Gradients of a layer norm are contiguous, where PyTorch's fake kernel keeps the strides of the output's gradient."""

from __future__ import annotations

from typing import Any

import torch

from torchprof.estimation.rules.registry import Kind, rule


@rule(
    Kind.RESULT,
    "aten::native_layer_norm_backward",
    on=("cpu", "cuda"),
    when="always; it shows where the gradient of the output is not contiguous",
    source="layer_norm_backward_cpu and layer_norm_backward_cuda, in aten/src/ATen/native/layer_norm.cpp and "
    "aten/src/ATen/native/cuda/layer_norm_kernel.cu, allocate with LEGACY_CONTIGUOUS_MEMORY_FORMAT",
)
def contiguous_layer_norm_gradients(op: Any, args: Any, kwargs: Any, returned: Any) -> Any:
    return tuple(item if item is None else item.contiguous() for item in returned)


@rule(
    Kind.RESULT,
    "aten::native_layer_norm",
    "aten::native_group_norm",
    "aten::native_batch_norm",
    on="cpu",
    when="an input of 16 bits with a weight of 32, as under autocast: statistics have the dtype of the weight",
    source="param_scalar_type in aten/src/ATen/native/cpu/mixed_data_type.h, used by layer_norm.cpp, group_norm.cpp and "
    "Normalization.cpp beside it",
)
def norm_statistics(op: Any, args: Any, kwargs: Any, returned: Any) -> Any:
    weight = args[2 if op is torch.ops.aten.native_layer_norm.default else 1]
    if weight is None or weight.dtype == args[0].dtype:
        return returned
    return (returned[0], *(item.to(weight.dtype) for item in returned[1:]))


@rule(
    Kind.RESULT,
    "aten::native_layer_norm",
    "aten::native_batch_norm",
    on="cuda",
    when="an input of 16 bits: statistics are of float32, where the fake kernel has those of the CPU",
    source="layer_norm_cuda in aten/src/ATen/native/cuda/layer_norm_kernel.cu and batch_norm_cuda in "
    "aten/src/ATen/native/cuda/Normalization.cu; native_layer_norm in torch/_refs/__init__.py casts them for the CPU only",
)
def float32_statistics(op: Any, args: Any, kwargs: Any, returned: Any) -> Any:
    if args[0].dtype not in (torch.float16, torch.bfloat16):
        return returned
    return (returned[0], *(item.float() for item in returned[1:]))

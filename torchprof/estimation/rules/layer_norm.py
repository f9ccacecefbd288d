"""Gradients of a layer norm are contiguous, where PyTorch's fake kernel keeps the strides of the output's gradient."""

from __future__ import annotations

from typing import Any

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

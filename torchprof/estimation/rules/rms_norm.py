"""An RMS norm is one kernel on CUDA, which keeps its input and a number per row for backward; on the CPU it is many ops.

Of a DTensor, each rank runs the kernel on its part of the rows: DTensor splits both ops, that of forward and that of backward.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.torch_private import DISPATCHER_RULES, ESTIMATE

FORWARD: Final = torch.ops.aten._fused_rms_norm.default
BACKWARD: Final = torch.ops.aten._fused_rms_norm_backward.default


@rule(
    Kind.KERNEL,
    "aten::_fused_rms_norm",
    on="cuda",
    when="eager; compilers decompose it. PyTorch itself takes many ops where the weight has another dtype than the input, for "
    "complex numbers and for channels last",
    source="_fused_rms_norm_cuda and _fused_rms_norm_backward_cuda in aten/src/ATen/native/cuda/layer_norm_kernel.cu, and "
    "rms_norm_symint in aten/src/ATen/native/layer_norm.cpp; derivatives.yaml says what is saved",
)
def fused_rms_norm(op: Any, input: Any, normalized_shape: Any, weight: Any, eps: Any) -> Any:
    if isinstance(input, ESTIMATE.FakeTensor):
        return _FusedRmsNorm.apply(input, len(normalized_shape), weight)  # type: ignore[no-untyped-call]
    if isinstance(getattr(input, "_local_tensor", input), DISPATCHER_RULES.FunctionalTensor):
        return op.decompose(input, normalized_shape, weight, eps)
    return _OfDTensors.apply(input, normalized_shape, weight, eps)  # type: ignore[no-untyped-call]


class _FusedRmsNorm(torch.autograd.Function):
    """Allocates what the two kernels do."""

    @staticmethod
    def forward(context: Any, input: torch.Tensor, dimensions: int, weight: torch.Tensor | None) -> Any:
        dtype = torch.promote_types(input.dtype, torch.float32)  # what sums are in
        rows = input.shape[: input.dim() - dimensions]
        output = torch.empty_like(input.contiguous(), memory_format=torch.contiguous_format)
        per_row = input.new_empty((*rows, *[1] * dimensions), dtype=dtype)
        context.save_for_backward(input, weight, per_row)
        context.mark_non_differentiable(per_row)
        context.set_materialize_grads(False)
        return output, per_row

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor, _: Any) -> Any:
        input, weight, _ = context.saved_tensors
        needs_input, _, needs_weight = context.needs_input_grad
        gradient, input = gradient.contiguous(), input.contiguous()
        of_input = torch.empty_like(input, memory_format=torch.contiguous_format) if needs_input else None
        return of_input, None, torch.empty_like(weight) if needs_weight else None


class _OfDTensors(torch.autograd.Function):
    """Calls both ops as PyTorch's own formula of the derivative does. DTensor splits them, and what is left of each op is what
    PyTorch's fake kernels say: of the parts of one rank, these are right."""

    @staticmethod
    def forward(context: Any, input: Any, normalized_shape: Any, weight: Any, eps: Any) -> Any:
        below_autograd = DISPATCHER_RULES.BelowAutograd()
        try:
            output, per_row = FORWARD(input, normalized_shape, weight, eps)
        finally:
            del below_autograd
        context.save_for_backward(input, weight, per_row)
        context.mark_non_differentiable(per_row)
        context.set_materialize_grads(False)
        context.normalized_shape = normalized_shape
        return output, per_row

    @staticmethod
    def backward(context: Any, gradient: Any, _: Any) -> Any:
        input, weight, per_row = context.saved_tensors
        needed = [context.needs_input_grad[0], context.needs_input_grad[2]]
        of_input, of_weight = BACKWARD(gradient, input, context.normalized_shape, per_row, weight, needed)
        return of_input, None, of_weight, None

"""Quantized linear layers and products: their multiply-adds count like those of floating point numbers.

The weights are packed, in an object that is no tensor, so the number of outputs is read from the result. The filter of a
quantized convolution cannot be found in the same way: these are unknown.
"""

from __future__ import annotations

from math import prod

from torchprof.flops.formulas.formula import Shape, formula
from torchprof.flops.formulas.matmul import mm_flops

__all__: list[str] = []

_LINEAR = """
    linear linear_relu linear_dynamic linear_relu_dynamic linear_dynamic_fp16 linear_relu_dynamic_fp16 linear_leaky_relu
    linear_tanh linear_dynamic_fp16_unpacked_weight linear_with_input_q_dq_qweight_dq_output_fp32
    linear_with_input_q_dq_qweight_dq_relu_output_fp32
""".split()


@formula(
    *(f"quantized::{name}" for name in _LINEAR),
    *(f"sparse::{name}" for name in ("qlinear", "qlinear_relu", "qlinear_dynamic", "qlinear_relu_dynamic")),
    "onednn::qlinear_pointwise",
    "onednn::linear_dynamic_fp16",
    "onednn::linear_relu_dynamic_fp16",
    "_quantized::linear",
    "_quantized::linear_dynamic",
    "_quantized::wrapped_quantized_linear",
    "_quantized::_wrapped_quantized_linear_prepacked",
    "_quantized::wrapped_fbgemm_linear_fp16_weight",
    tensors=1,
    needs_output=True,
)
def linear(x: Shape, out: Shape) -> int:
    """``x @ weight.T``. Zeros of a sparse weight are counted."""
    return 2 * prod(x) * out[-1]


@formula("quantized::matmul", tensors=2)
def matmul(a: Shape, b: Shape) -> int:
    """``a @ b``."""
    return mm_flops(a, b)

"""Matrix products: every sum of products that BLAS or a library of its kind does. ``[m, k] x [k, n]`` is ``2 m k n`` FLOPs.

What is added to the product (a bias, ``beta * self``) and what is applied to it (an activation, a scale) does not count, as in
``FlopCounterMode``.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torchprof.flops.formulas.formula import Shape, Sizes, formula

__all__ = ["mm_flops"]

PACKED_PAIRS = "float4_e2m1fn_x2"
"""A dtype with two numbers in each element, which the last dimension of a tensor counts once."""


def mm_flops(a: Sizes, b: Sizes) -> int:
    """Of ``[..., m, k] x [..., k, n]``, with the same leading dimensions."""
    assert (*a[:-2], a[-1]) == (*b[:-2], b[-2]), f"{a} x {b} is no matrix product"
    return 2 * prod(a) * b[-1]


@formula("aten::mm", "aten::bmm", "aten::_int_mm", tensors=2)
def mm(a: Shape, b: Shape) -> int:
    """``a @ b``."""
    return mm_flops(a, b)


@formula("aten::addmm", "aten::addmm_", "aten::baddbmm", "aten::baddbmm_", "aten::_addmm_activation", tensors=3)
def addmm(_: Shape, a: Shape, b: Shape) -> int:
    """``self + a @ b``."""
    return mm_flops(a, b)


@formula("aten::addbmm", "aten::addbmm_", tensors=3)
def addbmm(_: Shape, a: Shape, b: Shape) -> int:
    """``self + sum of a[i] @ b[i]``: as many as the products."""
    return mm_flops(a, b)


@formula("aten::mv", tensors=2)
def mv(a: Shape, x: Shape) -> int:
    """``a @ x``."""
    return mm_flops(a, [*x, 1])


@formula("aten::addmv", "aten::addmv_", tensors=3)
def addmv(_: Shape, a: Shape, x: Shape) -> int:
    """``self + a @ x``."""
    return mm_flops(a, [*x, 1])


@formula("aten::dot", "aten::vdot", tensors=2)
def dot(a: Shape, b: Shape) -> int:
    """The sum of ``a[i] * b[i]``."""
    return mm_flops([1, *a], [*b, 1])


@formula("aten::addr", "aten::addr_", tensors=3)
def addr(_: Shape, a: Shape, b: Shape) -> int:
    """``self + outer(a, b)``: BLAS's ger, a product of ``[m, 1] x [1, n]``."""
    return mm_flops([*a, 1], [1, *b])


@formula("aten::_foreach_mm")
def foreach_mm(many: list[Shape], others: list[Shape], *_: Any) -> int:
    """A product for each pair."""
    return sum(mm_flops(a, b) for a, b in zip(many, others, strict=True))


@formula("aten::_scaled_mm", "aten::_scaled_mm_v2", tensors=2)
def scaled_mm(a: Shape, b: Shape) -> int:
    """``a @ b``, of numbers of 8 bits or less. In the packed dtype of 4 bits, ``k`` counts pairs."""
    return mm_flops(a, b) * (2 if a.dtype == PACKED_PAIRS else 1)


@formula("aten::_grouped_mm", "aten::_scaled_grouped_mm", "aten::_scaled_grouped_mm_v2", tensors=2)
def grouped_mm(a: Shape, b: Shape) -> int:
    """A product for each group, where the groups divide a dimension of the operands, or are one.

    ======================  ======================  ==================================================
    ``a``                   ``b``                   FLOPs
    ======================  ======================  ==================================================
    ``[g, m, k]``           ``[g, k, n]``           ``2 g m k n``
    ``[m, k]``              ``[g, k, n]``           ``2 m k n``: every row is multiplied with one group
    ``[g, m, k]``           ``[k, n]``              ``2 m k n``: and every column
    ``[m, k]``              ``[k, n]``              ``2 m k n``: every product is of one group's ``k``
    ======================  ======================  ==================================================

    The groups are taken to fill that dimension.
    """
    assert a[-1] == b[-2], f"{a} x {b} is no grouped product"
    groups = a[0] if len(a) == len(b) == 3 else 1
    return 2 * groups * a[-2] * a[-1] * b[-1] * (2 if a.dtype == PACKED_PAIRS else 1)


@formula("aten::_weight_int8pack_mm", tensors=2)
@formula("aten::mkldnn_linear", tensors=2)
def linear(x: Shape, weight: Shape) -> int:
    """``x @ weight.T``: ``[..., k] x [n, k]``."""
    return 2 * prod(x) * weight[0]


@formula("aten::linear", tensors=2, only_outermost=False)
def linear_of_a_backend(x: Shape, weight: Shape) -> int:
    """The same, of a device on which it is not made of other ops. The weight may be a vector."""
    return 2 * prod(x) * (weight[0] if len(weight) == 2 else 1)


@formula("aten::linear_backward")
def linear_backward(x: Shape, grad: Shape, weight: Shape, mask: Sizes) -> int:
    """A product as large as that of forward for the gradient of the input, and one for that of the weight."""
    return 2 * prod(x) * weight[0] * (bool(mask[0]) + bool(mask[1]))


@formula("aten::mkldnn_linear_backward_input")
def mkldnn_linear_backward_input(_: Sizes, grad: Shape, weight: Shape) -> int:
    """``grad @ weight``: ``[..., n] x [n, k]``."""
    return 2 * prod(grad) * weight[1]


@formula("aten::mkldnn_linear_backward_weights", tensors=2)
def mkldnn_linear_backward_weights(grad: Shape, x: Shape) -> int:
    """``grad.T @ x``: ``[n, ...] x [..., k]``."""
    return 2 * prod(grad) * x[-1]


@formula("mkldnn::_linear_pointwise")
def linear_pointwise(x: Shape, second: Shape, third: Shape | None, *_: Any) -> int:
    """``x @ weight.T`` and an activation: ``(x, weight, bias, ...)``; with another operand, ``(x, other, weight, ...)``."""
    weight = third if third is not None and len(third) == 2 else second
    return 2 * prod(x) * weight[0]


@formula("mkl::_mkl_linear")
def mkl_linear(x: Shape, _: Shape, weight: Shape, *__: Any) -> int:
    """``x @ weight.T``: the second tensor is the weight packed for MKL, the third as it was."""
    return 2 * prod(x) * weight[0]


@formula("inductor::_mm_plus_mm", tensors=4)
def mm_plus_mm(a: Shape, b: Shape, c: Shape, d: Shape) -> int:
    """``a @ b + c @ d``."""
    return mm_flops(a, b) + mm_flops(c, d)


@formula("aten::_weight_int4pack_mm", "aten::_weight_int4pack_mm_for_cpu", "quantized::int4mm_packed_weight_cpu")
def int4pack_mm(x: Shape, weight: Shape, group: int, scales_and_zeros: Shape) -> int:
    """``x @ weight.T``, whose weight is packed: ``scales_and_zeros`` is ``[k / group, n, 2]``."""
    return 2 * prod(x) * scales_and_zeros[1]


@formula("aten::_dyn_quant_matmul_4bit")
def dyn_quant_matmul_4bit(x: Shape, weight: Shape, block: int, in_features: int, out_features: int) -> int:
    """``x @ weight.T``, whose weight is packed."""
    return 2 * prod(x) * out_features


@formula("aten::_mixed_dtypes_linear", tensors=3)
def mixed_dtypes_linear(x: Shape, weight: Shape, scale: Shape) -> int:
    """``x @ weight.T``: there is one scale for each of the ``n`` outputs."""
    return 2 * prod(x) * scale[-1]


@formula("aten::_sparse_semi_structured_mm", tensors=3)
def semi_structured_mm(a: Shape, _: Shape, b: Shape) -> int:
    """``a @ b``, where two of four elements of ``a`` are zeros and not stored: the others are multiplied."""
    return 2 * prod(a) * b[-1]


@formula("aten::_sparse_semi_structured_addmm", tensors=4)
def semi_structured_addmm(_: Shape, a: Shape, __: Shape, b: Shape) -> int:
    """``self + a @ b``, likewise."""
    return 2 * prod(a) * b[-1]


@formula("aten::_sparse_semi_structured_linear", tensors=2)
def semi_structured_linear(x: Shape, weight: Shape) -> int:
    """``x @ weight.T``: the stored elements of the weight, ``[n, k / 2]``, are multiplied."""
    return 2 * prod(x[:-1]) * prod(weight)

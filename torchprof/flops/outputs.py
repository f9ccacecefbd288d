"""The shapes that ops with a FLOP formula return, from those that they are given: for traces that do not have them.

The rules are those of PyTorch's meta kernels (``torch/_meta_registrations.py``), without PyTorch.
"""

from __future__ import annotations

import json
from typing import Any, Final

from torchprof.flops.outputs_of_convolutions import BY_NAME, POINTWISE
from torchprof.flops.shape_rules import Rule, Sizes

__all__ = ["RULES", "output_shapes"]


def output_shapes(name: str, inputs: list[Sizes], arguments: str | None) -> tuple[Sizes, ...]:
    """The shapes of the tensors that an op returns, the first ones at least; empty where these do not say.

    Args:
        inputs: shapes of its tensors.
        arguments: all its arguments as JSON, with ``{}`` for every tensor; None where they are not known.
    """
    rule = RULES.get(name)
    if rule is None or any(size < 0 for sizes in inputs for size in sizes):
        return ()
    try:
        found = rule(inputs, json.loads(arguments) if arguments is not None else [])
    except (IndexError, TypeError, ValueError, ZeroDivisionError):
        return ()
    return found if all(size >= 0 for sizes in found for size in sizes) else ()


def _of(place: int) -> Rule:
    """An op that returns what has the shape of this tensor."""
    return lambda inputs, arguments: (inputs[place],)


def _gradients(*places: int) -> Rule:
    """An op that returns what has the shapes of these tensors, such as their gradients."""
    return lambda inputs, arguments: tuple(inputs[place] for place in places)


def _product(first: int) -> Rule:
    """``[..., m, k] x [..., k, n]``, of which this is the place of the first."""
    return lambda inputs, arguments: ((*inputs[first][:-1], inputs[first + 1][-1]),)


def _linear(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    return ((*inputs[0][:-1], *inputs[1][:-1]),)


def _attention(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    q, _, v = inputs[:3]
    return ((*q[:-1], v[-1]),)


def _distances(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    a, b = inputs[:2]
    if a[:-2] != b[:-2]:
        raise ValueError("batches that are broadcast")
    return ((*a[:-1], b[-2]),)


def _distances_within(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    n = inputs[0][0]
    return ((n * (n - 1) // 2,),)


def _wanted(mask: int, *places: int) -> Rule:
    """An op that returns the gradients of the tensors at ``places``, and of a bias, as far as its mask asks for them.

    ``mask``: the argument that it is. The last of the places is that of the weight, which tells the size of the bias.
    """

    def rule(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
        gradients = [*(inputs[place] for place in places), inputs[places[-1]][:1]]
        return tuple(sizes for sizes, wanted in zip(gradients, arguments[mask], strict=True) if wanted)

    return rule


def _rows_by(place: int, dim: int) -> Rule:
    """``[..., in]`` by a weight in another form, of which this size of this tensor tells what comes out."""
    return lambda inputs, arguments: ((*inputs[0][:-1], inputs[place][dim]),)


def _grouped(offsets: int) -> Rule:
    """One product for each group of rows of either, as the tensor at this place says; or for each group of both."""

    def rule(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
        a, b = inputs[:2]
        groups = inputs[offsets] if len(a) == len(b) == 2 else a[:1] if len(a) == len(b) else ()
        return ((*groups, a[-2], b[-1]),)

    return rule


def _linear_with_more(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    """``(x, weight, bias, ...)``, or ``(x, other, weight, bias, kind)``, where ``other`` has the shape of the result."""
    return (inputs[1],) if len(arguments) == 5 else _linear(inputs, arguments)


def _foreach_product(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    half = len(inputs) // 2
    return tuple((a[0], b[1]) for a, b in zip(inputs[:half], inputs[half:], strict=True))


def _recurrent(hidden: int, both_ways: int | None = None, projected: int | None = None) -> Rule:
    """``[time, batch, channels]``, or rows that are packed. These are places of arguments."""

    def rule(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
        out = int((arguments[projected] if projected is not None else 0) or arguments[hidden])
        ways = 2 if both_ways is not None and arguments[both_ways] else 1
        return ((*inputs[0][:-1], out * ways),)

    return rule


def _half_of_spectrum(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    """Of real numbers: the last dimension that is transformed is halved where only one side is wanted."""
    dims, one_sided = arguments[1], arguments[3]
    return (_with_size(inputs[0], dims[-1], inputs[0][dims[-1]] // 2 + 1 if one_sided else inputs[0][dims[-1]]),)


def _from_spectrum(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    return (_with_size(inputs[0], arguments[1][-1], int(arguments[3])),)


def _with_size(sizes: Sizes, dim: int, size: int) -> Sizes:
    changed = list(sizes)
    changed[dim] = size
    return tuple(changed)


def _qr(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    (*batch, m, n), mode = inputs[0], arguments[1] if len(arguments) > 1 else "reduced"
    k = m if mode == "complete" else min(m, n)
    q = (0,) if mode == "r" else (*batch, m, k)
    return q, (*batch, k, n)


def _lu(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    *batch, m, n = inputs[0]
    k = min(m, n)
    permutation = (*batch, m, m) if len(arguments) < 2 or arguments[1] else (0,)
    return permutation, (*batch, m, k), (*batch, k, n)


def _solution(right: int) -> Rule:
    """What solves equations has the shape of their right sides, unless these are broadcast."""

    def rule(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
        a, b = inputs[0], inputs[right]
        if b != a[:-1] and b[:-2] != a[:-2]:
            raise ValueError("batches that are broadcast")
        return (b,)

    return rule


_SDPA: Final = "_scaled_dot_product_"
_ATTENTION: Final = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(("mm", "bmm", "_int_mm", "_scaled_mm", "_scaled_mm_v2"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "_addmm_activation"), _product(1)),
    "addbmm": lambda inputs, _: ((inputs[1][1], inputs[2][2]),),
    **dict.fromkeys(("linear", "mkldnn_linear"), _linear),
    "_weight_int8pack_mm": lambda inputs, _: ((inputs[0][0], inputs[1][0]),),
    "mv": lambda inputs, _: (inputs[0][:1],),
    "addmv": lambda inputs, _: (inputs[1][:1],),
    "addr": lambda inputs, _: ((inputs[1][0], inputs[2][0]),),
    **dict.fromkeys(("dot", "vdot"), lambda inputs, _: ((),)),
    **dict.fromkeys((f"{_SDPA}{kind}" for kind in _ATTENTION), _attention),
    f"{_SDPA}fused_attention_overrideable": _attention,
    **dict.fromkeys((f"{_SDPA}{kind}_backward" for kind in (*_ATTENTION, "fused_attention_overrideable")), _gradients(1, 2, 3)),
    **dict.fromkeys((f"_{kind}_attention_forward" for kind in ("flash", "efficient", "cudnn")), _attention),
    **dict.fromkeys((f"_{kind}_attention_backward" for kind in ("flash", "efficient", "cudnn")), _gradients(1, 2, 3)),
    **BY_NAME,
    "_cdist_forward": _distances,
    "_cdist_backward": _of(1),
    "_pdist_forward": _distances_within,
    "_pdist_backward": _of(1),
    "_fft_c2c": _of(0),
    **dict.fromkeys(("cholesky", "cholesky_inverse", "linalg_cholesky_ex", "linalg_inv_ex", "geqrf"), _of(0)),
    **dict.fromkeys(("linalg_householder_product", "linalg_lu_factor_ex", "_cholesky_solve_helper"), _of(0)),
    **dict.fromkeys(("triangular_solve", "cholesky_solve"), _of(0)),
    "linalg_solve_triangular": _of(1),
    "ormqr": _of(2),
    "linalg_qr": _qr,
    "linalg_lu": _lu,
    "linalg_lu_solve": _solution(2),
    "_linalg_solve_ex": _solution(1),
    "_linalg_det": lambda inputs, _: (inputs[0][:-2],),
    "_linalg_slogdet": lambda inputs, _: (inputs[0][:-2],) * 2,
    "_fft_r2c": _half_of_spectrum,
    "_fft_c2r": _from_spectrum,
    "linear_backward": _wanted(3, 0, 2),
    "_slow_conv2d_backward": _wanted(6, 1, 2),
    "mkldnn_linear_backward_input": lambda _, arguments: (tuple(map(int, arguments[0])),),
    "mkldnn_linear_backward_weights": lambda inputs, _: (inputs[2], inputs[2][:1]),
    "_foreach_mm": _foreach_product,
    "_grouped_mm": _grouped(2),
    "_scaled_grouped_mm": _grouped(4),
    **dict.fromkeys(("_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu"), _rows_by(2, 1)),
    "_mixed_dtypes_linear": _rows_by(2, 0),
    "_sparse_semi_structured_linear": _rows_by(1, 0),
    "_sparse_semi_structured_mm": lambda inputs, _: ((inputs[0][0], inputs[2][1]),),
    "_sparse_semi_structured_addmm": lambda inputs, _: ((inputs[1][0], inputs[3][1]),),
    "_dyn_quant_matmul_4bit": lambda inputs, arguments: ((*inputs[0][:-1], int(arguments[4])),),
    "_cudnn_rnn": _recurrent(7, 13, 8),
    "miopen_rnn": _recurrent(6, 11),
    "mkldnn_rnn_layer": _recurrent(10),
    **dict.fromkeys(("_cudnn_rnn_backward", "miopen_rnn_backward", "mkldnn_rnn_layer_backward"), _of(0)),
    "_triton_scaled_dot_attention": _of(0),
    "_scaled_dot_product_attention_math_for_mps": _attention,
}
_OF_OTHERS: Final[dict[str, Rule]] = {
    "mkldnn::_convolution_pointwise": POINTWISE,
    "mkldnn::_linear_pointwise": _linear_with_more,
    "mkl::_mkl_linear": _rows_by(2, 0),
    "inductor::_mm_plus_mm": _product(0),
    "quantized::matmul": _product(0),
    "quantized::linear_dynamic_fp16_unpacked_weight": _linear,
    "quantized::quantized_lstm_cell_dynamic": _gradients(1, 2),
    **dict.fromkeys((f"quantized::quantized_{kind}_cell_dynamic" for kind in ("gru", "rnn_relu", "rnn_tanh")), _of(1)),
    "torch_attn::_varlen_attn": _of(0),
    "torch_attn::_varlen_attn_backward": _gradients(1, 2, 3),
}
RULES: Final[dict[str, Rule]] = {
    **{f"aten::{name}": rule for name, rule in _RULES.items()},
    **_OF_OTHERS,
}
"""By the name of the op."""

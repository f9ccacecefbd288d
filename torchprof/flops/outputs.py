"""The shapes that ops with a FLOP formula return, from those that they are given: for traces that do not have them.

The rules are those of PyTorch's meta kernels (``torch/_meta_registrations.py``), without PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

__all__ = ["CONVOLUTIONS", "RULES", "output_shapes"]

Sizes = tuple[int, ...]
Rule = Callable[[list[Sizes], list[Any]], tuple[Sizes, ...]]
"""Gives the shapes of what an op returns from those of its tensors, and all its arguments, which are empty if unknown."""


class _Places(NamedTuple):
    """Where the arguments of a convolution stand; None of what it does not have. ``transposed`` may be the answer itself."""

    stride: int
    padding: int
    dilation: int | None = None
    groups: int | None = None
    transposed: int | bool = False
    output_padding: int | None = None


_ATEN_CONVOLUTION: Final = _Places(3, 4, 5, 8, 6, 7)
_WITH_BIAS: Final = _Places(4, 3, 5, 6)
_WITH_KERNEL_SIZE: Final = _Places(4, 5, 6)
CONVOLUTIONS: Final = {
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _ATEN_CONVOLUTION),
    "cudnn_convolution": _Places(3, 2, 4, 5),
    **dict.fromkeys(("cudnn_convolution_relu", "miopen_convolution_relu"), _Places(3, 4, 5, 6)),
    **dict.fromkeys(("cudnn_convolution_add_relu", "miopen_convolution_add_relu"), _Places(5, 6, 7, 8)),
    **dict.fromkeys(
        ("miopen_convolution", "miopen_depthwise_convolution", "mkldnn_convolution", "_mps_convolution"), _WITH_BIAS
    ),
    "cudnn_convolution_transpose": _Places(4, 2, 5, 6, True, 3),
    "miopen_convolution_transpose": _Places(5, 3, 6, 7, True, 4),
    "_mps_convolution_transpose": _Places(4, 2, 5, 6, True, 3),
    **dict.fromkeys(("_conv_depthwise2d", "conv_depthwise3d", "slow_conv_dilated2d", "slow_conv_dilated3d"), _WITH_KERNEL_SIZE),
    **dict.fromkeys(("_slow_conv2d_forward", "slow_conv3d_forward"), _Places(4, 5)),
    **dict.fromkeys(("slow_conv_transpose2d", "slow_conv_transpose3d"), _Places(4, 5, 7, None, True, 6)),
    "_nnpack_spatial_convolution": _Places(4, 3),
}


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
    """An op that returns the gradients of these tensors."""
    return lambda inputs, arguments: tuple(inputs[place] for place in places)


def _product(first: int) -> Rule:
    """``[..., m, k] x [..., k, n]``, of which this is the place of the first."""
    return lambda inputs, arguments: ((*inputs[first][:-1], inputs[first + 1][-1]),)


def _linear(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    return ((*inputs[0][:-1], *inputs[1][:-1]),)


def _attention(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    q, _, v = inputs[:3]
    return ((*q[:-1], v[-1]),)


def _convolution(places: _Places) -> Rule:
    """Of ``[batch, channels, *positions]`` and a weight ``[out, channels / groups, *filter]``."""

    def rule(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
        x, weight = inputs[:2]
        transposed = places.transposed if isinstance(places.transposed, bool) else arguments[places.transposed]
        stride, padding = arguments[places.stride], arguments[places.padding]
        dilation = 1 if places.dilation is None else arguments[places.dilation]
        positions = []
        n = len(weight) - 2
        for at, (size, width) in enumerate(zip(x[-n:], weight[-n:], strict=True)):
            step, pad, gap = (_at(values, at) for values in (stride, padding, dilation))
            if transposed:
                extra = 0 if places.output_padding is None else _at(arguments[places.output_padding], at)
                positions.append((size - 1) * step - 2 * pad + gap * (width - 1) + extra + 1)
            else:
                positions.append((size + 2 * pad - gap * (width - 1) - 1) // step + 1)
        groups = 1 if places.groups is None else int(arguments[places.groups] or 1)
        return ((*x[: -n - 1], weight[1] * groups if transposed else weight[0], *positions),)

    return rule


def _convolution_backward(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    """The gradients that the mask, the last argument, asks for."""
    _, x, weight = inputs[:3]
    transposed, groups, mask = arguments[7], int(arguments[9]), arguments[10]
    bias = (weight[1] * groups if transposed else weight[0],)
    return tuple(sizes for sizes, wanted in zip((x, weight, bias), mask, strict=True) if wanted)


def _distances(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    a, b = inputs[:2]
    if a[:-2] != b[:-2]:
        raise ValueError("batches that are broadcast")
    return ((*a[:-1], b[-2]),)


def _distances_within(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    n = inputs[0][0]
    return ((n * (n - 1) // 2,),)


def _over_time(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    """``[time, batch, channels]`` and a weight ``[width, channels, out]``."""
    (time, batch, _), (width, _, out) = inputs[:2]
    return ((time + 2 * int(arguments[3]) - width + 1, batch, out),)


def _at(values: Any, place: int) -> int:
    """One value for each dimension, where one may stand for all."""
    return int(values[place if len(values) > 1 else 0] if isinstance(values, list) else values)


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
    **{name: _convolution(places) for name, places in CONVOLUTIONS.items()},
    "convolution_backward": _convolution_backward,
    "conv_tbc": _over_time,
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
}
RULES: Final[dict[str, Rule]] = {
    **{f"aten::{name}": rule for name, rule in _RULES.items()},
    "mkldnn::_convolution_pointwise": _convolution(_WITH_BIAS),
}
"""By the name of the op."""

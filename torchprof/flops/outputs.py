"""The shapes that ops with a FLOP formula return, from those that they are given: for traces that do not have them.

The rules are those of PyTorch's meta kernels (``torch/_meta_registrations.py``), without PyTorch.
"""

from __future__ import annotations

import json
from typing import Any, Final

__all__ = ["output_shape"]

Sizes = tuple[int, ...]

PRODUCTS: Final = {"mm": 0, "bmm": 0, "_int_mm": 0, "_scaled_mm": 0, "addmm": 1, "baddbmm": 1, "_addmm_activation": 1}
"""Matrix products ``[..., m, k] x [..., k, n]``, and the place of the first operand."""
CONVOLUTIONS: Final = {
    "convolution": (3, 4, 5, 6, 7, 8),
    "_convolution": (3, 4, 5, 6, 7, 8),
    "convolution_overrideable": (3, 4, 5, 6, 7, 8),
    "cudnn_convolution": (3, 2, 4, None, None, 5),
    "miopen_convolution": (4, 3, 5, None, None, 6),
    "miopen_depthwise_convolution": (4, 3, 5, None, None, 6),
    "mkldnn_convolution": (4, 3, 5, None, None, 6),
}
"""Where stride, padding, dilation, transposed, output padding and groups stand among the arguments."""
ATTENTION: Final = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)


def output_shape(name: str, inputs: list[Sizes], arguments: str | None) -> Sizes | None:
    """The shape of the first tensor that an op returns; None where these do not say.

    Args:
        inputs: shapes of its tensors.
        arguments: all its arguments as JSON, with ``{}`` for every tensor.
    """
    space, _, op = name.partition("::")
    if space != "aten" or any(size < 0 for sizes in inputs for size in sizes):
        return None
    try:
        if op in PRODUCTS:
            a, b = inputs[PRODUCTS[op] : PRODUCTS[op] + 2]
            return (*a[:-1], b[-1])
        if op == "linear":
            return (*inputs[0][:-1], *inputs[1][:-1])
        if op == "mv":
            return inputs[0][:1]
        if op in ATTENTION:
            q, _, v = inputs[:3]
            return (*q[:-1], v[-1])
        if op in CONVOLUTIONS and arguments is not None:
            return _convolution(inputs[0], inputs[1], json.loads(arguments), CONVOLUTIONS[op])
    except (IndexError, TypeError, ValueError, ZeroDivisionError):
        return None
    return None


def _convolution(x: Sizes, weight: Sizes, arguments: list[Any], places: tuple[int | None, ...]) -> Sizes:
    """Of ``[batch, channels, *positions]`` and a weight ``[out, channels / groups, *filter]``."""
    stride, padding, dilation, transposed, extra, groups = (None if at is None else arguments[at] for at in places)
    positions = []
    for at, (size, width) in enumerate(zip(x[2:], weight[2:], strict=True)):
        step, pad, gap = (_at(values, at) for values in (stride, padding, dilation))
        if transposed:
            positions.append((size - 1) * step - 2 * pad + gap * (width - 1) + _at(extra, at) + 1)
        else:
            positions.append((size + 2 * pad - gap * (width - 1) - 1) // step + 1)
    return (x[0], weight[1] * int(groups or 1) if transposed else weight[0], *positions)


def _at(values: Any, place: int) -> int:
    """One value for each dimension, where one may stand for all."""
    return int(values[place if len(values) > 1 else 0] if isinstance(values, list) else values)

"""Convolutions, and their backward.

Every element of the output is a sum of ``channels of a group * size of the filter`` products; a transposed convolution has as
many products as the convolution that it is the backward of, so there it is every element of the input. In both cases:

    2 * batch * positions * elements of the weight      positions: of the output; transposed, of the input

Products with padding are counted, as in ``FlopCounterMode``. Backward has as many products as forward for the gradient of the
input, and again for that of the weight, in whatever number of groups: ``FlopCounterMode`` multiplies the latter by the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torchprof.flops.formulas.formula import Operand, Shape, Sizes, formula

__all__: list[str] = []


def _each(values: int | Sizes, count: int) -> list[int]:
    """One value for each dimension, where one may stand for all."""
    listed = [values] if isinstance(values, int) else list(values)
    return listed * count if len(listed) == 1 else listed


def _convolution(x: Shape, weight: Shape, stride: Any, padding: Any, dilation: Any, transposed: bool = False) -> int:
    """Of an input ``[batch, channels, *positions]`` and a weight ``[out, channels / groups, *filter]``."""
    sizes, filter_size = x[2:], weight[2:]
    if not transposed:
        parts = (_each(values, len(sizes)) for values in (stride, padding, dilation))
        sizes = tuple(
            (size + 2 * pad - gap * (width - 1) - 1) // step + 1
            for size, width, step, pad, gap in zip(sizes, filter_size, *parts, strict=True)
        )
    return 2 * x[0] * prod(sizes) * prod(weight)


@formula("aten::convolution", "aten::_convolution", "aten::convolution_overrideable")
def convolution(
    x: Shape, weight: Shape, _: Shape | None, stride: Sizes, padding: Sizes, dilation: Sizes, transposed: bool, *__: Any
) -> int:
    """The op that all convolutions of ``torch.nn`` end in."""
    return _convolution(x, weight, stride, padding, dilation, transposed)


@formula("aten::convolution_backward")
def convolution_backward(
    grad: Shape,
    x: Shape,
    weight: Shape,
    _: Any,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    output_mask: Sizes,
) -> int:
    """Twice that of forward, or once where only one of the two gradients is asked for."""
    positions = x[2:] if transposed else grad[2:]
    return 2 * x[0] * prod(positions) * prod(weight) * (bool(output_mask[0]) + bool(output_mask[1]))


@formula("aten::convolution_backward_overrideable")
def convolution_backward_overrideable(
    grad: Shape, x: Shape, weight: Shape, stride: Any, padding: Any, dilation: Any, transposed: bool, *more: Any
) -> int:
    """The same, in another order of arguments."""
    return convolution_backward(grad, x, weight, None, stride, padding, dilation, transposed, *more)


@formula("aten::mps_convolution_backward")
def mps_convolution_backward(x: Shape, grad: Shape, weight: Shape, *more: Any) -> int:
    """The same, in another order of arguments."""
    return convolution_backward(grad, x, weight, None, (), (), (), False, (), 1, more[-1])


@formula("aten::_slow_conv2d_backward")
def slow_conv2d_backward(grad: Shape, x: Shape, weight: Shape, *more: Any) -> int | None:
    """The same. Where results are given in place of a mask, shapes do not say which were asked for."""
    if not (isinstance(more[-1], list) and len(more[-1]) == 3 and all(isinstance(asked, bool) for asked in more[-1])):
        return None
    return convolution_backward(grad, x, weight, None, (), (), (), False, (), 1, more[-1])


def _at(stride: int, padding: int, dilation: int | None = None, *, transposed: bool = False) -> Callable[..., int]:
    """A formula for arguments in another order: the input and the weight come first, the others at these places."""

    def compute(*arguments: Any) -> int:
        gap = arguments[dilation] if dilation is not None else 1
        return _convolution(arguments[0], arguments[1], arguments[stride], arguments[padding], gap, transposed)

    return compute


formula("aten::cudnn_convolution")(_at(3, 2, 4))
formula("aten::cudnn_convolution_transpose", "aten::_mps_convolution_transpose")(_at(4, 2, 5, transposed=True))
formula("aten::cudnn_convolution_relu", "aten::miopen_convolution_relu")(_at(3, 4, 5))
formula("aten::cudnn_convolution_add_relu", "aten::miopen_convolution_add_relu")(_at(5, 6, 7))
formula("aten::miopen_convolution", "aten::miopen_depthwise_convolution")(_at(4, 3, 5))
formula("aten::mkldnn_convolution", "aten::_mps_convolution")(_at(4, 3, 5))
formula("aten::miopen_convolution_transpose")(_at(5, 3, 6, transposed=True))
formula("aten::_nnpack_spatial_convolution")(_at(4, 3))
formula("aten::_slow_conv2d_forward", "aten::slow_conv3d_forward")(_at(4, 5))
formula("aten::_conv_depthwise2d", "aten::conv_depthwise3d")(_at(4, 5, 6))
formula("aten::slow_conv_dilated2d", "aten::slow_conv_dilated3d")(_at(4, 5, 6))
formula("aten::slow_conv_transpose2d", "aten::slow_conv_transpose3d")(_at(4, 5, 7, transposed=True))


@formula("mkldnn::_convolution_pointwise")
def convolution_pointwise(*arguments: Any) -> int:
    """With an activation: ``(x, weight, bias, padding, stride, ...)``; with another operand, ``(x, other, weight, ...)``."""
    third = arguments[2]
    with_another = isinstance(third, Operand) and len(third) > 1
    x, weight, _, padding, stride, dilation = (arguments[0], *arguments[2:7]) if with_another else arguments[:6]
    return _convolution(x, weight, stride, padding, dilation)


@formula("mkldnn::_convolution_pointwise_")
def convolution_pointwise_in_place(
    _: Shape, x: Shape, weight: Shape, bias: Any, padding: Any, stride: Any, dilation: Any, *__: Any
) -> int:
    """Into the first operand."""
    return _convolution(x, weight, stride, padding, dilation)


@formula("mkldnn::_convolution_transpose_pointwise")
def convolution_transpose_pointwise(x: Shape, weight: Shape, *_: Any) -> int:
    """Transposed, with an activation."""
    return _convolution(x, weight, 1, 0, 1, transposed=True)


@formula("aten::conv_tbc", only_outermost=False)
def conv_tbc(x: Shape, weight: Shape, _: Shape, padding: int) -> int:
    """Over the first dimension: ``[time, batch, channels] * [filter, channels, out]``."""
    return 2 * (x[0] + 2 * padding - weight[0] + 1) * x[1] * prod(weight)

"""The shapes that convolutions and their gradients have."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from torchprof.flops.shape_rules import Rule, Sizes

__all__ = ["BY_NAME", "CONVOLUTIONS", "POINTWISE"]


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


def _convolution_backward(transposed: int) -> Rule:
    """The gradients that the mask, the last argument, asks for. ``transposed``: which argument says that."""

    def rule(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
        _, x, weight = inputs[:3]
        is_transposed, _, groups, mask = arguments[transposed : transposed + 4]
        bias = (weight[1] * int(groups) if is_transposed else weight[0],)
        return tuple(sizes for sizes, wanted in zip((x, weight, bias), mask, strict=True) if wanted)

    return rule


def _over_time(inputs: list[Sizes], arguments: list[Any]) -> tuple[Sizes, ...]:
    """``[time, batch, channels]`` and a weight ``[width, channels, out]``."""
    (time, batch, _), (width, _, out) = inputs[:2]
    return ((time + 2 * int(arguments[3]) - width + 1, batch, out),)


def _at(values: Any, place: int) -> int:
    """One value for each dimension, where one may stand for all."""
    return int(values[place if len(values) > 1 else 0] if isinstance(values, list) else values)


BY_NAME: Final[dict[str, Rule]] = {
    **{name: _convolution(places) for name, places in CONVOLUTIONS.items()},
    "convolution_backward": _convolution_backward(7),
    "convolution_backward_overrideable": _convolution_backward(6),
    "conv_tbc": _over_time,
}
"""By the name of the op, without ``aten::``."""
POINTWISE: Final = _convolution(_WITH_BIAS)
"""Of Inductor's convolution with what follows it."""

"""Recurrent layers, in one kernel: the products of every step with the weights of the input and of the hidden state.

    for each layer, direction, step and element of the batch    2 * gates * hidden * (inputs + hidden)
    with a projection of the hidden state                       2 * hidden * (gates * (inputs + projected) + projected)

Gates: 4 of an LSTM, 3 of a GRU, 1 of a plain RNN. The input of the second layer is the output of the first, of both directions.
What the gates do with the products is elementwise, and does not count. That is the count of ``FlopCounterMode`` where PyTorch
makes the layer of single ops. Backward has twice as many: for the gradients of what was multiplied, and of the weights.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

from torchprof.flops.formulas.formula import Shape, Sizes, formula

__all__: list[str] = []

GATES: Final = {0: 1, 1: 1, 2: 4, 3: 3}
"""By the mode of cuDNN and oneDNN: RNN with ReLU, RNN with tanh, LSTM, GRU."""


def _layers(x: Shape, gates: int, hidden: int, layers: int, directions: int, projected: int = 0) -> int:
    """Of an input ``[..., inputs]``, whose other elements are steps and batch, or both in one (packed)."""
    inputs, out, products = x[-1], projected or hidden, 0
    for _ in range(layers):
        products += directions * (gates * hidden * (inputs + out) + (hidden * projected if projected else 0))
        inputs = directions * out
    return 2 * prod(x[:-1]) * products


@formula("aten::_cudnn_rnn")
def cudnn_rnn(
    x: Shape,
    weights: Any,
    stride: Any,
    buffer: Any,
    hx: Any,
    cx: Any,
    mode: int,
    hidden: int,
    projected: int,
    layers: int,
    *more: Any,
) -> int:
    """All layers."""
    return _layers(x, GATES[mode], hidden, layers, 2 if more[3] else 1, projected)


@formula("aten::_cudnn_rnn_backward")
def cudnn_rnn_backward(x: Shape, *more: Any) -> int:
    """Once for the gradients of the input and the hidden states, which are always computed, and once for the weights."""
    mode, hidden, projected, layers, _, _, _, both_ways = more[9:17]
    return _layers(x, GATES[mode], hidden, layers, 2 if both_ways else 1, projected) * (1 + bool(more[-1][3]))


@formula("aten::miopen_rnn")
def miopen_rnn(x: Shape, weights: Any, stride: Any, hx: Any, cx: Any, mode: int, hidden: int, layers: int, *more: Any) -> int:
    """All layers."""
    return _layers(x, GATES[mode], hidden, layers, 2 if more[3] else 1)


@formula("aten::miopen_rnn_backward")
def miopen_rnn_backward(x: Shape, *more: Any) -> int:
    """As `cudnn_rnn_backward`."""
    mode, hidden, layers, _, _, _, both_ways = more[9:16]
    return _layers(x, GATES[mode], hidden, layers, 2 if both_ways else 1) * (1 + bool(more[-1][3]))


@formula("aten::mkldnn_rnn_layer")
def mkldnn_rnn_layer(x: Shape, *more: Any) -> int:
    """One layer in one direction."""
    mode, hidden = more[8:10]
    return _layers(x, GATES[mode], hidden, 1, 1)


@formula("aten::mkldnn_rnn_layer_backward")
def mkldnn_rnn_layer_backward(x: Shape, *more: Any) -> int:
    """Of one layer in one direction: all gradients are computed."""
    mode, hidden = more[13:15]
    return 2 * _layers(x, GATES[mode], hidden, 1, 1)


@formula("aten::_lstm_mps")
def lstm_mps(
    x: Shape, hx: list[Shape], weights: Any, biases: Any, layers: int, dropout: Any, train: Any, both_ways: bool, *_: Any
) -> int:
    """All layers."""
    return _layers(x, GATES[2], hx[0][-1], layers, 2 if both_ways else 1)


@formula("aten::lstm_mps_backward")
def lstm_mps_backward(*arguments: Any) -> int:
    """Of all layers: all gradients are computed."""
    x, hx, layers, both_ways = arguments[5], arguments[7], arguments[10], arguments[13]
    return 2 * _layers(x, GATES[2], hx[0][-1], layers, 2 if both_ways else 1)


def _quantized(arguments: tuple[Any, ...], gates: int) -> int:
    """``(input, hx, params, biases, layers, ...)``; packed, ``(input, batch_sizes, hx, params, biases, layers, ...)``."""
    packed = isinstance(arguments[2], list) and isinstance(arguments[4], bool)
    hx, (layers, _, _, both_ways) = (arguments[2], arguments[5:9]) if packed else (arguments[1], arguments[4:8])
    state: Sizes = hx[0] if isinstance(hx, list) else hx
    return _layers(arguments[0], gates, state[-1], layers, 2 if both_ways else 1)


@formula("aten::quantized_lstm", only_outermost=False)
def quantized_lstm(*arguments: Any) -> int:
    """All layers, with packed weights."""
    return _quantized(arguments, GATES[2])


@formula("aten::quantized_gru", only_outermost=False)
def quantized_gru(*arguments: Any) -> int:
    """All layers, with packed weights."""
    return _quantized(arguments, GATES[3])


@formula("quantized::quantized_lstm_cell_dynamic", only_outermost=False)
def quantized_lstm_cell(x: Shape, hx: list[Shape], *_: Any) -> int:
    """One step of one layer."""
    return _layers(x, GATES[2], hx[0][-1], 1, 1)


@formula("quantized::quantized_gru_cell_dynamic", only_outermost=False)
def quantized_gru_cell(x: Shape, hx: Shape, *_: Any) -> int:
    """One step of one layer."""
    return _layers(x, GATES[3], hx[-1], 1, 1)


@formula("quantized::quantized_rnn_relu_cell_dynamic", "quantized::quantized_rnn_tanh_cell_dynamic", only_outermost=False)
def quantized_rnn_cell(x: Shape, hx: Shape, *_: Any) -> int:
    """One step of one layer."""
    return _layers(x, GATES[0], hx[-1], 1, 1)

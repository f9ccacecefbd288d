"""Recurrent layers on CUDA are cuDNN's, and keep a reserve for their backward.

Its size is cuDNN's to say. Taken is what the formulas of backward need of every layer, direction and step: gates and cell of an
LSTM, gates and the hidden part of the candidate of a GRU, nothing but outputs of a plain one; and the outputs between layers.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

import torch

from torchprof.estimation.rules.registry import Kind, rule

aten = torch.ops.aten

PLAIN_RELU, PLAIN_TANH, LSTM, GRU = range(4)
"""``cudnnRNNMode_t``."""

MODES: Final = {"aten::lstm": LSTM, "aten::gru": GRU, "aten::rnn_tanh": PLAIN_TANH, "aten::rnn_relu": PLAIN_RELU}
KEPT: Final = {PLAIN_RELU: 0, PLAIN_TANH: 0, LSTM: 5, GRU: 4}
"""Numbers that backward needs of every hidden unit and step, beside the output."""


@rule(
    Kind.KERNEL,
    *(f"{name}.input" for name in MODES),
    on="cuda",
    when="sequences that are not packed",
    source="_cudnn_impl in aten/src/ATen/native/cudnn/RNN.cpp",
)
def cudnn_rnn(
    op: Any,
    input: Any,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    mode = MODES[op._schema.name]
    hidden, cell = (hx[0], hx[1]) if mode == LSTM else (hx, None)
    size = cell.shape[2] if cell is not None else hidden.shape[2]
    projected = hidden.shape[2] if hidden.shape[2] != size else 0
    each = (4 if has_biases else 2) + (1 if projected else 0)
    found = aten._cudnn_rnn(
        *(input, params, each, input.new_empty(0), hidden, cell, mode, size, projected, num_layers),
        *(batch_first, dropout, train, bidirectional, [], None),
    )
    return found[:3] if mode == LSTM else found[:2]


@rule(
    Kind.FAKE_KERNEL,
    "aten::_cudnn_rnn",
    on="cuda",
    when="training; the size by the formulas of backward, rather than cuDNN's own",
    source="_cudnn_rnn in aten/src/ATen/native/cudnn/RNN.cpp asks cuDNN for the size of the reserve, and saves it",
)
def cudnn_rnn_reserve(
    input: Any, weight: Any, weight_stride0: Any, weight_buf: Any, hx: Any, cx: Any, mode: int, hidden_size: int,
    proj_size: int, num_layers: int, batch_first: bool, dropout: float, train: bool, bidirectional: bool, *options: Any,
) -> Any:  # fmt: skip
    directions, width = 2 if bidirectional else 1, proj_size or hidden_size
    output = input.new_empty((*input.shape[:2], width * directions))
    cell = torch.empty_like(cx) if cx is not None else input.new_empty(0)
    steps = prod(input.shape[:2]) * directions
    numbers = steps * (num_layers * KEPT[mode] * hidden_size + (num_layers - 1) * width) if train else 0
    reserve = torch.empty(numbers * input.itemsize, dtype=torch.uint8)
    return output, torch.empty_like(hx), cell, reserve, weight_buf


@rule(
    Kind.FAKE_KERNEL,
    "aten::_cudnn_rnn_backward",
    on="cuda",
    when="always: PyTorch has no fake kernel for it",
    source="_cudnn_rnn_backward_weight in aten/src/ATen/native/cudnn/RNN.cpp: gradients of weights are views of one tensor",
)
def cudnn_rnn_gradients(
    input: Any, weight: Any, weight_stride0: Any, weight_buf: Any, hx: Any, cx: Any, *options: Any,
) -> Any:  # fmt: skip
    whole = input.new_empty(sum(part.numel() for part in weight))
    parts, first = [], 0
    for part in weight:
        parts.append(whole[first : first + part.numel()].view(part.shape))
        first += part.numel()
    return torch.empty_like(input), torch.empty_like(hx), torch.empty_like(cx) if cx is not None else None, parts

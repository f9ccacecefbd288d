"""Recurrent layers on CUDA are cuDNN's, and keep a reserve for their backward.

Its size is cuDNN's to say. On an H200 with cuDNN 9.19 it was, for every hidden unit, layer, direction and step, 5 numbers of an
LSTM and 6 of a GRU; the outputs between layers; a bit for each of these where there is dropout; and 256 bytes. Of plain layers,
which were not seen, it is taken to be nothing but the outputs between layers.

The workspace of forward, and of each of the two kernels of backward, was seen in three cases only. What is taken, the weights,
gates in float32 and three numbers more for each unit and step, is 3 to 4% less than it was there.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any, Final

import numpy as np
import torch

from torchprof.estimation.overheads import Overhead
from torchprof.estimation.rules.registry import Kind, Workspaces, rule
from torchprof.estimation.target import Target
from torchprof.trace.trace import Trace

aten = torch.ops.aten

PLAIN_RELU, PLAIN_TANH, LSTM, GRU = range(4)
"""``cudnnRNNMode_t``."""

MODES: Final = {"aten::lstm": LSTM, "aten::gru": GRU, "aten::rnn_tanh": PLAIN_TANH, "aten::rnn_relu": PLAIN_RELU}
KEPT: Final = {PLAIN_RELU: 0, PLAIN_TANH: 0, LSTM: 5, GRU: 6}
"""Numbers in the reserve of every hidden unit and step, beside the output."""
GATES: Final = {PLAIN_RELU: 1, PLAIN_TANH: 1, LSTM: 4, GRU: 3}
MORE_IN_WORKSPACE: Final = 3
"""What comes nearest to the three workspaces that were seen; cuDNN does not say what is in them."""
FLOAT32: Final = 4
RESERVE_HEAD: Final = 256
STATE_OF_THREAD: Final = 24
"""Bytes of the generator that drops outputs between layers, for each thread that the GPU runs at once."""
FORWARD: Final = "aten::_cudnn_rnn"
DROPOUT, TRAIN = 11, 12
"""Places of its arguments."""


@rule(
    Kind.KERNEL,
    *(f"{name}.input" for name in MODES),
    on="cuda",
    when="sequences that are not packed; under autocast, everything is cast first",
    source="_cudnn_impl in aten/src/ATen/native/cudnn/RNN.cpp; _cudnn_rnn_cast_reflatten in "
    "aten/src/ATen/cudnn/AutocastRNN.cpp",
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
    if torch.is_autocast_enabled("cpu"):  # which stands for CUDA's
        dtype = torch.get_autocast_dtype("cpu")
        params, hidden, cell, input = (
            [part.to(dtype) for part in params],
            hidden.to(dtype),
            cell if cell is None else cell.to(dtype),
            input.to(dtype),
        )
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
    when="always; the reserve only in training. Results of layers that are given the batch first are transposed",
    source="_cudnn_rnn in aten/src/ATen/native/cudnn/RNN.cpp asks cuDNN for the size of the reserve, and saves it; "
    "histories of an H200: 23,134,464 bytes for an LSTM with dropout, 27,263,232 for a GRU of two layers of 512, 64 steps, "
    "batch 16; 11,600,128 for the LSTM in bfloat16",
)
def cudnn_rnn_reserve(
    input: Any, weight: Any, weight_stride0: Any, weight_buf: Any, hx: Any, cx: Any, mode: int, hidden_size: int,
    proj_size: int, num_layers: int, batch_first: bool, dropout: float, train: bool, bidirectional: bool, *options: Any,
) -> Any:  # fmt: skip
    directions, width = 2 if bidirectional else 1, proj_size or hidden_size
    output = _by_step(input, width * directions, batch_first)
    cell = torch.empty_like(cx) if cx is not None else input.new_empty(0)
    steps = prod(input.shape[:2]) * directions
    between = steps * (num_layers - 1) * width
    numbers = steps * num_layers * KEPT[mode] * hidden_size + between
    dropped = -(-between // 8) if dropout else 0
    reserve = torch.empty(numbers * input.itemsize + dropped + RESERVE_HEAD if train else 0, dtype=torch.uint8)
    return output, torch.empty_like(hx), cell, reserve, weight_buf


def _by_step(input: torch.Tensor, width: int, batch_first: bool) -> torch.Tensor:
    """A tensor for all steps, which cuDNN has lie in memory one after the other."""
    first, second = input.shape[:2]
    return input.new_empty((second, first, width)).transpose(0, 1) if batch_first else input.new_empty((first, second, width))


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
    batch_first = options[8]
    whole = input.new_empty(sum(part.numel() for part in weight))
    parts, first = [], 0
    for part in weight:
        parts.append(whole[first : first + part.numel()].view(part.shape))
        first += part.numel()
    return (
        _by_step(input, input.shape[2], batch_first),
        torch.empty_like(hx),
        torch.empty_like(cx) if cx is not None else None,
        parts,
    )


@rule(
    Kind.WORKSPACE,
    "aten::_cudnn_rnn",
    "aten::_cudnn_rnn_backward",
    on="cuda",
    when="always: cuDNN's workspace, copies by step of what has the batch first, and zeros for gradients that are not there",
    source="_cudnn_rnn, _cudnn_rnn_backward_input and _cudnn_rnn_backward_weight in aten/src/ATen/native/cudnn/RNN.cpp; "
    "histories of an H200: 45,744,512 bytes for an LSTM, 37,552,512 for a GRU of two layers of 512, 64 steps, batch 16; "
    "31,261,056 in bfloat16",
)
class cudnn_rnn_workspace(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        is_forward = op is aten._cudnn_rnn.default
        input, weights = args[0], args[1]
        mode, hidden, _, layers, batch_first, _, _, both_ways = args[6:14] if is_forward else args[10:18]
        units = prod(input.shape[:2]) * layers * hidden * (2 if both_ways else 1)
        of_weights = sum(weight.numel() for weight in weights if weight.dim() == 2)
        workspace = units * GATES[mode] * FLOAT32 + (units * MORE_IN_WORKSPACE + of_weights) * int(input.itemsize)
        copied = input.numel() * input.itemsize if batch_first else 0
        if is_forward:
            return int(workspace + copied)
        of_output = args[6].numel() * args[6].itemsize if batch_first else 0
        # Gradients of weights are made after those of the input, when the copy of the output is gone.
        made_later = sum(weight.numel() * weight.itemsize for weight in weights)
        states = sum(
            state.numel() * state.itemsize
            for state, gradient in ((args[4], args[8]), (args[5], args[9]))
            if state is not None and gradient is None
        )
        return int(workspace + copied + states + max(0, of_output - made_later))


@rule(
    Kind.OVERHEAD,
    "aten::_cudnn_rnn",
    on="cuda",
    when="training with dropout between layers: the state of a random number generator, which is kept",
    source="dropout_state_cache in aten/src/ATen/native/cudnn/RNN.cpp; cudnnDropoutGetStatesSize: 24 bytes for each thread, "
    "6,488,064 on an H200",
)
def cudnn_dropout_state(trace: Trace, target: Target) -> Overhead | None:
    if FORWARD not in trace.strings:
        return None
    calls = np.flatnonzero(trace.op_names == trace.strings.index(FORWARD))
    first = next((int(op) for op in calls if _drops(trace, int(op))), None)
    if first is None:
        return None
    size = STATE_OF_THREAD * target.multiprocessors * target.threads_per_multiprocessor
    return Overhead("cuDNN dropout state", size, "24 bytes for each thread that runs at once", reserved=True, taken_at=(first,))


def _drops(trace: Trace, op: int) -> bool:
    """Whether a call drops outputs between layers."""
    arguments = json.loads(trace.strings[trace.signatures[trace.ops["signature"][op]]["arguments"]])
    return bool(arguments[DROPOUT] and arguments[TRAIN])

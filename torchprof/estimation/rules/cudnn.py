"""What cuDNN needs on CUDA, by rule: no GPU was there to ask.

- Convolutions. PyTorch takes the workspace of the plan it runs from its allocator and frees it after (``run_conv_plan`` in
  ATen/native/cudnn/Conv_v8.cpp). Tensor cores compute on channels-last; what comes channels-first is converted in that
  workspace: input, weight and output, with channels padded to 16 bytes ("Tensor Core Operations" and "Tensor Layouts" of
  NVIDIA's cuDNN developer guide; the kernels show up as ``nchwToNhwcKernel`` in profiles). So in float16, bfloat16, and in
  float32 where TF32 is allowed (``torch.backends.cudnn.allow_tf32``, on by default) on a GPU that has it. Other convolutions
  are taken to need nothing. With ``torch.backends.cudnn.benchmark`` the fastest plan is taken, which may need much more.
- Depthwise convolutions run in a kernel of PyTorch's own (``use_cudnn_depthwise`` in ATen/native/Convolution.cpp) or in
  one of cuDNN's that converts nothing.
- RNNs keep a reserve for their backward (``_cudnn_rnn`` in ATen/native/cudnn/RNN.cpp asks cuDNN for its size, and saves it).
  Taken is what the formulas of backward need of every layer, direction and step: gates and cell of an LSTM, gates and the
  hidden part of the candidate of a GRU, nothing but outputs of a plain one; and the outputs between layers.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Final

import torch

from torchprof.estimation.rules.workspaces import Workspaces

__all__ = ["LIBRARY", "RULES", "CudnnWorkspaces", "recurrent"]

aten = torch.ops.aten
TENSOR_CORES: Final = (torch.float16, torch.bfloat16)
WITHOUT_TF32: Final = ("T4", "V100")
PADDED_TO: Final = 16
"""Bytes that the channels of one pixel take up a multiple of."""

PLAIN_RELU, PLAIN_TANH, LSTM, GRU = range(4)
KEPT: Final = {PLAIN_RELU: 0, PLAIN_TANH: 0, LSTM: 5, GRU: 4}
"""Numbers that backward needs of every hidden unit and step, beside the output."""


class CudnnWorkspaces(Workspaces):
    """Workspaces of convolutions.

    Args:
        gpu: its name, where it is known: whether it has TF32.
    """

    def __init__(self, gpu: object = None) -> None:
        self._tf32 = not (isinstance(gpu, str) and gpu.startswith(WITHOUT_TF32))

    def bytes(self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        if func is aten.convolution.default:
            input, weight = args[0], args[1]
            return self._converted(input, weight, results[0], groups=args[8])
        if func is aten.convolution_backward.default:
            gradient, input, weight = args[0], args[1], args[2]
            return self._converted(input, weight, gradient, groups=args[9])  # one kernel after the other, each of the three
        return 0

    def _converted(self, input: torch.Tensor, weight: torch.Tensor, output: torch.Tensor, groups: int) -> int:
        tf32 = self._tf32 and torch.backends.cudnn.allow_tf32 and input.dtype == torch.float32
        if not (tf32 or input.dtype in TENSOR_CORES) or not torch.backends.cudnn.enabled:
            return 0
        depthwise = groups > 1 and groups == input.shape[1]
        if depthwise or _is_channels_last(input) or _is_channels_last(weight):
            return 0
        return sum(map(_padded, (input, weight, output)))


def _is_channels_last(tensor: torch.Tensor) -> bool:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    return last is not None and tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous()


def _padded(tensor: torch.Tensor) -> int:
    channels = -(-tensor.shape[1] * tensor.itemsize // PADDED_TO) * PADDED_TO
    return channels * tensor.numel() // max(1, tensor.shape[1])


def recurrent(mode: int) -> Any:
    """What ``lstm``, ``gru`` and their kin do on CUDA, for tensors that say they are on the CPU."""

    def run(
        input: Any, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool, *rest: bool
    ) -> Any:
        bidirectional, batch_first = rest
        hidden, cell = (hx[0], hx[1]) if mode == LSTM else (hx, None)
        size = cell.shape[2] if cell is not None else hidden.shape[2]
        projected = hidden.shape[2] if hidden.shape[2] != size else 0
        each = (4 if has_biases else 2) + (1 if projected else 0)
        found = aten._cudnn_rnn(
            *(input, params, each, input.new_empty(0), hidden, cell, mode, size, projected, num_layers),
            *(batch_first, dropout, train, bidirectional, [], None),
        )
        return found[:3] if mode == LSTM else found[:2]

    return run


LIBRARY: Final[dict[str, Callable[..., Any]]] = {
    "lstm.input": recurrent(LSTM),
    "gru.input": recurrent(GRU),
    "rnn_tanh.input": recurrent(PLAIN_TANH),
    "rnn_relu.input": recurrent(PLAIN_RELU),
}
"""Ops that choose cuDNN on CUDA, and what they do then."""


def _forward(
    input: Any, weight: Any, weight_stride0: Any, weight_buf: Any, hx: Any, cx: Any, mode: int, hidden_size: int,
    proj_size: int, num_layers: int, batch_first: bool, dropout: float, train: bool, bidirectional: bool, *options: Any,
) -> Any:  # fmt: skip
    directions, given = 2 if bidirectional else 1, proj_size or hidden_size
    output = input.new_empty((*input.shape[:2], given * directions))
    cell = torch.empty_like(cx) if cx is not None else input.new_empty(0)
    steps = prod(input.shape[:2]) * directions
    numbers = steps * (num_layers * KEPT[mode] * hidden_size + (num_layers - 1) * given) if train else 0
    reserve = torch.empty(numbers * input.itemsize, dtype=torch.uint8)
    return output, torch.empty_like(hx), cell, reserve, weight_buf


def _backward(
    input: Any, weight: Any, weight_stride0: Any, weight_buf: Any, hx: Any, cx: Any, *options: Any,
) -> Any:  # fmt: skip
    whole = input.new_empty(sum(part.numel() for part in weight))  # gradients of weights are views of one tensor
    parts, first = [], 0
    for part in weight:
        parts.append(whole[first : first + part.numel()].view(part.shape))
        first += part.numel()
    return torch.empty_like(input), torch.empty_like(hx), torch.empty_like(cx) if cx is not None else None, parts


RULES: Final[dict[Any, Callable[..., Any]]] = {aten._cudnn_rnn.default: _forward, aten._cudnn_rnn_backward.default: _backward}
"""What these return."""

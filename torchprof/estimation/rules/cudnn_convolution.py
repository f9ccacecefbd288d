"""The workspace of cuDNN's convolutions, as far as it is known without a GPU to ask.

Tensor cores compute on channels-last tensors: in float16, in bfloat16, and in float32 where TF32 is allowed. What comes
channels-first is converted in the workspace: input, filters and output; of filters of 1 x 1, which are the same in both
layouts, only input and output. In steps of 1 these are products of matrices, which can be read as they lie where a channel has
a multiple of 16 bytes; gradients of such filters are made for each image, in float32, and then added up. What comes
channels-last is converted where a pixel of the input has no multiple of 16 bytes.

So an H200 with cuDNN 9.19 did in a ResNet-50, but for some bytes more. What it did otherwise is not in these rules: gradients
of filters of 3 x 3 in parts, with up to 81% more workspace, and a few outputs that were written without a conversion.
Depthwise convolutions are taken to need nothing: they run in a kernel of PyTorch's own (``use_cudnn_depthwise`` in
aten/src/ATen/native/Convolution.cpp), or in one of cuDNN's that converts nothing. With ``torch.backends.cudnn.benchmark`` the
fastest plan is taken, which may need much more.

In float32 on a V100, filters of 3 x 3 in steps of 1 are computed by Winograd's algorithm in several kernels, what passes
between them in the workspace: tiles of 4 x 4 results, each of which takes 6 x 6 numbers of every channel.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

import torch

from torchprof.estimation.rules.registry import Kind, Workspaces, rule
from torchprof.estimation.target import Target
from torchprof.trace.trace import Trace

aten = torch.ops.aten

TENSOR_CORE_DTYPES: Final = (torch.float16, torch.bfloat16)
PADDED_TO: Final = 16
"""Bytes that the channels of one pixel, or the pixels of one channel, take up a multiple of."""
FLOAT32: Final = 4
BLOCK: Final = (128, 256)
"""Rows and columns of a gradient of filters that a block of threads computes, with others while there are multiprocessors.

Read off four of five sizes of workspaces of channels-last gradients on an H200; the fifth took half of what this gives.
"""

VOLTA: Final = (7, 0)
TILE: Final = 4
TRANSFORMED: Final = 36
LEAST_CHANNELS: Final = {aten.convolution.default: 128, aten.convolution_backward.default: 64}
"""Of input and output: with 64, only gradients of weights were seen to be computed so."""

USES_CUDNN: Final = ("aten::convolution", "aten::_cudnn_rnn", "aten::_scaled_dot_product_cudnn_attention")


@rule(
    Kind.WORKSPACE,
    "aten::convolution",
    "aten::convolution_backward",
    on="cuda",
    when="channels-first, or with pixels of no multiple of 16 bytes, in float16, bfloat16, or float32 with "
    "torch.backends.cudnn.allow_tf32 on compute capability 8.0 and newer; not depthwise; cuDNN enabled. In float32 on 7.0: "
    "filters of 3 x 3, stride 1, 128 channels, or 64 in backward",
    source="run_conv_plan in aten/src/ATen/native/cudnn/Conv_v8.cpp takes and frees it; 'Tensor Core Operations' and 'Tensor "
    "Layouts' in NVIDIA's cuDNN developer guide; histories of a ResNet-50 on an H200; for 7.0, the trace of a ResNet-50 in the "
    "test data of kineto's TensorBoard plugin (resnet50_num_workers_0)",
)
class cudnn_convolution(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        if op is aten.convolution.default:
            input, weight, output, groups = args[0], args[1], results[0], args[8]
        else:  # backward: one kernel after the other, each of the three tensors
            output, input, weight, groups = args[0], args[1], args[2], args[9]
        tf32 = self.target.has_tf32 and torch.backends.cudnn.allow_tf32 and input.dtype == torch.float32
        if not torch.backends.cudnn.enabled:
            return 0
        if input.dtype == torch.float32 and self.target.capability == VOLTA:
            return _winograd(op, args, input, weight, output)
        if not (tf32 or input.dtype in TENSOR_CORE_DTYPES):
            return 0
        if groups > 1 and groups == input.shape[1]:
            return 0
        stride, padding, _, transposed = args[3:7] if op is aten.convolution.default else args[4:8]
        is_product = not transposed and {*weight.shape[2:], *stride} == {1} and {*padding} == {0}
        converted = _converted(input, weight, output, is_product)
        if op is aten.convolution.default:
            return (
                sum(converted) if input.dtype in TENSOR_CORE_DTYPES else sum(map(_unpadded, converted, (input, weight, output)))
            )
        of_input, of_weight, _ = args[10]
        sums = self._partial_sums(input, weight) if is_product and not sum(converted) else 0
        if of_weight and _is_channels_last(input) and sum(converted):
            sums = _bytes(output)
        # The gradient of the input is made before that of the filters is allocated.
        first = max(0, sum(converted) - (_bytes(weight) if of_weight else 0)) if of_input else 0
        return max(first, sum(converted) + sums if of_weight else 0)

    def _partial_sums(self, input: torch.Tensor, weight: torch.Tensor) -> int:
        """Bytes of what is added up to gradients of filters of 1 x 1."""
        if not _is_channels_last(input):
            return int(input.shape[0] * weight.numel() * FLOAT32)
        blocks = prod(-(-size // side) for size, side in zip(sorted(weight.shape[:2]), BLOCK, strict=True))
        sharing = self.target.multiprocessors // blocks if input.dtype == torch.float32 else 0
        return int(sharing * weight.numel() * FLOAT32) if sharing > 1 else 0


def _converted(input: torch.Tensor, weight: torch.Tensor, output: torch.Tensor, is_product: bool) -> tuple[int, int, int]:
    """Bytes of copies in another layout, of input, filters and output."""
    pixel = input.shape[1] * input.itemsize
    if _is_channels_last(input) or _is_channels_last(weight):
        return (_padded(input), _padded(weight), 0) if pixel % PADDED_TO else (0, 0, 0)
    if is_product and prod(input.shape[2:]) * input.itemsize % PADDED_TO == 0:
        return (0, 0, 0)
    is_same_in_both = set(weight.shape[2:]) == {1}
    return _padded(input), 0 if is_same_in_both else _padded(weight), _padded(output)


def _unpadded(size: int, tensor: torch.Tensor) -> int:
    """Forward of float32 converts without padding."""
    return min(size, _bytes(tensor))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def _winograd(op: Any, args: Any, input: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> int:
    """Bytes of transformed inputs, results and weights; 0 where another algorithm is taken."""
    stride, _, dilation, transposed, _, groups = args[3:9] if op is aten.convolution.default else args[4:10]
    others = transposed or groups != 1 or {*stride, *dilation} != {1} or weight.shape[2:] != (3, 3)
    if others or min(weight.shape[:2]) < LEAST_CHANNELS[op] or _is_channels_last(input):
        return 0
    outputs, inputs = weight.shape[:2]
    tiles = output.shape[0] * -(-output.shape[2] // TILE) * -(-output.shape[3] // TILE)
    return TRANSFORMED * weight.itemsize * (tiles * (inputs + outputs) + inputs * outputs)


def _is_channels_last(tensor: torch.Tensor) -> bool:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    return last is not None and tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous()


def _padded(tensor: torch.Tensor) -> int:
    channels = -(-tensor.shape[1] * tensor.itemsize // PADDED_TO) * PADDED_TO
    return channels * tensor.numel() // max(1, tensor.shape[1])


@rule(
    Kind.NOTE,
    *USES_CUDNN,
    on="cuda",
    when="the program has convolutions or recurrent layers, or attention in cuDNN",
    source="cudnnBackendGetAttribute of CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE needs a GPU",
)
def cudnn_plans(trace: Trace, target: Target) -> str | None:
    if not any(op in trace.strings for op in USES_CUDNN):
        return None
    return (
        "what cuDNN takes beyond the rules in torchprof.estimation.rules, for which an estimate is too low (gradients of 1 x 1 "
        "convolutions in float32 were seen to take as much again on a V100): only a GPU can tell"
    )

"""The workspace of cuDNN's convolutions, as far as it is known without a GPU to ask.

Tensor cores compute on channels-last tensors. What comes channels-first is converted in the workspace: input, weight and
output, with channels padded to 16 bytes. So in float16, in bfloat16, and in float32 where TF32 is allowed. Other convolutions
are taken to need nothing, and depthwise ones too: they run in a kernel of PyTorch's own (``use_cudnn_depthwise`` in
aten/src/ATen/native/Convolution.cpp), or in one of cuDNN's that converts nothing. With ``torch.backends.cudnn.benchmark`` the
fastest plan is taken, which may need much more.

In float32 on a V100, filters of 3 x 3 in steps of 1 are computed by Winograd's algorithm in several kernels, what passes
between them in the workspace: tiles of 4 x 4 results, each of which takes 6 x 6 numbers of every channel.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof.estimation.rules.registry import Kind, Workspaces, rule
from torchprof.estimation.target import Target
from torchprof.trace.trace import Trace

aten = torch.ops.aten

TENSOR_CORE_DTYPES: Final = (torch.float16, torch.bfloat16)
PADDED_TO: Final = 16
"""Bytes that the channels of one pixel take up a multiple of."""

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
    when="channels-first in float16, bfloat16, or float32 with torch.backends.cudnn.allow_tf32 on compute capability 8.0 and "
    "newer; not depthwise; cuDNN enabled. In float32 on 7.0: filters of 3 x 3, stride 1, 128 channels, or 64 in backward",
    source="run_conv_plan in aten/src/ATen/native/cudnn/Conv_v8.cpp takes and frees it; 'Tensor Core Operations' and 'Tensor "
    "Layouts' in NVIDIA's cuDNN developer guide; nchwToNhwcKernel in profiles; for 7.0, the trace of a ResNet-50 in the test "
    "data of kineto's TensorBoard plugin (resnet50_num_workers_0)",
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
        depthwise = groups > 1 and groups == input.shape[1]
        if depthwise or _is_channels_last(input) or _is_channels_last(weight):
            return 0
        return sum(map(_padded, (input, weight, output)))


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

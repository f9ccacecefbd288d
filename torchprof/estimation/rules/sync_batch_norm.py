"""``nn.SyncBatchNorm`` in training: PyTorch's own code of it runs, and its kernels, which only GPUs have, are said here.

A rank computes the mean and the deviation of each channel, gathers those of all ranks, and normalizes; in backward it adds up
two sums of each channel with the other ranks. Where channels are neighbors in memory, as in channels last, blocks of threads
that share channels leave their parts in a buffer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, Final

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from torchprof.estimation.fake.callers import replaced
from torchprof.estimation.rules.op_arguments import argument
from torchprof.estimation.rules.registry import Kind, Workspaces, rule
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import ESTIMATE

SOURCE: Final = "aten/src/ATen/native/cuda/Normalization.cu and Normalization.cuh"
CHANNELS_LAST: Final = (torch.channels_last, torch.channels_last_3d)
THREADS: Final = 512
WIDEST_BLOCK: Final = 32
PER_THREAD: Final = 16
MOST_BLOCKS: Final = 128
LEAST_BLOCKS: Final = 8
"""Of those that share channels: with fewer, one does it all."""
SEMAPHORE: Final = 4
MOST_INDEXED: Final = 2**31 - 1


@rule(
    Kind.PATCH,
    "torch.nn.SyncBatchNorm.forward",
    on="cuda",
    when="in training, with other ranks; on the CPU, PyTorch refuses it",
    source="SyncBatchNorm in torch/nn/modules/batchnorm.py and torch/nn/modules/_functions.py",
)
@contextmanager
def synchronized_batch_norms(target: Target) -> Iterator[None]:
    """The layer takes its inputs for those of a GPU, and every rank for one that has some, until the block ends."""
    forward = torch.nn.SyncBatchNorm.forward
    check: Any = DistributedDataParallel._passing_sync_batchnorm_handle

    @wraps(check)
    def checked(self: Any, module: torch.nn.Module) -> None:
        if not any(isinstance(parameter, ESTIMATE.FakeTensor) for parameter in module.parameters()):
            check(self, module)

    @wraps(forward)
    def call(self: Any, input: torch.Tensor) -> Any:
        with _AllSelected() if isinstance(input, ESTIMATE.FakeTensor) else nullcontext():
            return forward(self, input)

    backend = torch._C._get_privateuse1_backend_name

    @wraps(backend)
    def backend_name() -> str:
        """The layer asks which devices there are beside CUDA's: fake tensors are on the CPU."""
        caller = sys._getframe(1)
        is_layer = caller.f_code is forward.__code__ and isinstance(caller.f_locals.get("input"), ESTIMATE.FakeTensor)
        return "cpu" if is_layer else backend()

    with (
        replaced(torch.nn.SyncBatchNorm, "forward", call),
        replaced(DistributedDataParallel, "_passing_sync_batchnorm_handle", checked),
        replaced(torch._C, "_get_privateuse1_backend_name", backend_name),
    ):
        yield


class _AllSelected(TorchFunctionMode):
    """Masks, of the ranks that have inputs, select all."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor) and args[1].dtype is torch.bool:
            tensor, mask = args
            return tensor[mask.new_empty(mask.shape, dtype=torch.long)]  # where it selects, which the kernel finds first
        return func(*args, **(kwargs or {}))


@rule(Kind.FAKE_KERNEL, "aten::batch_norm_stats", on="cuda", when="always", source=f"batch_norm_stats_cuda in {SOURCE}")
def stats_of_batch_norm(input: torch.Tensor, eps: float) -> Any:
    return tuple(input.new_empty(input.shape[1], dtype=_accumulated_in(input)) for _ in range(2))


@rule(
    Kind.FAKE_KERNEL,
    "aten::batch_norm_gather_stats_with_counts",
    on="cuda",
    when="always",
    source=f"batch_norm_gather_stats_cuda_template in {SOURCE}",
)
def gathered_stats_of_batch_norm(input: torch.Tensor, mean: torch.Tensor, *args: Any, **options: Any) -> Any:
    return tuple(mean.new_empty(mean.shape[1], dtype=_accumulated_in(mean)) for _ in range(2))


@rule(Kind.FAKE_KERNEL, "aten::batch_norm_elemt", on="cuda", when="always", source=f"batch_norm_elemt_cuda in {SOURCE}")
def normalized_elements(input: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    return torch.empty_like(input, memory_format=_suggested(input))


@rule(
    Kind.FAKE_KERNEL,
    "aten::batch_norm_backward_reduce",
    on="cuda",
    when="always",
    source=f"batch_norm_backward_reduce_cuda in {SOURCE}",
)
def backward_sums_of_batch_norm(
    gradient: torch.Tensor,
    input: torch.Tensor,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    weight: torch.Tensor | None,
    input_g: bool,
    weight_g: bool,
    bias_g: bool,
) -> Any:
    if _channels_are_neighbors(gradient) and _channels_are_neighbors(input):  # all of them, whichever are asked for
        input_g, weight_g, bias_g = True, weight is not None, weight is not None
    sums = [torch.empty_like(mean) if input_g else None for _ in range(2)]
    of = mean if weight is None else weight
    of_weight = [of.new_empty(mean.shape) if needed else None for needed in (weight_g, bias_g)]
    return (*sums, *of_weight)


@rule(
    Kind.FAKE_KERNEL,
    "aten::batch_norm_backward_elemt",
    on="cuda",
    when="always",
    source=f"batch_norm_backward_elemt_cuda in {SOURCE}",
)
def backward_elements_of_batch_norm(gradient: torch.Tensor, input: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    format = _suggested(input) if _channels_are_neighbors(gradient) else torch.contiguous_format
    return torch.empty_like(input, memory_format=format)


@rule(
    Kind.WORKSPACE,
    "aten::batch_norm_stats",
    "aten::batch_norm_backward_reduce",
    "aten::batch_norm_backward_elemt",
    on="cuda",
    when="channels are neighbors in memory and blocks of threads share them; or of inputs and gradients only one is channels "
    "last, and is copied",
    source=f"batch_norm_stats_channels_last_cuda_template, batch_norm_backward_reduce_cuda_channels_last_template and "
    f"flexible_launch_configs in {SOURCE}",
)
class workspaces_of_batch_norm(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int | tuple[int, ...]:
        name = op._schema.name.removeprefix("aten::batch_norm_")
        given = [args[0]] if name == "stats" else [args[0], args[1]]
        deciding = given[:1] if name == "backward_elemt" else given
        if not all(map(_channels_are_neighbors, deciding)):
            return tuple(each.numel() * each.itemsize for each in given if each.dim() > 2 and not each.is_contiguous())
        if name == "backward_elemt":
            return 0
        size = _accumulated_in(args[0] if name == "stats" else argument(op, args, kwargs, "mean")).itemsize
        return _shared(given[-1], (4 if name == "stats" else 2) * size)


def _shared(input: torch.Tensor, size: int) -> int | tuple[int, ...]:
    """Bytes in which blocks that share channels leave their parts, and in which they count which are done.

    Args:
        input: whose channels are neighbors.
        size: bytes of one part of one channel.
    """
    channels = input.shape[1]
    rows = input.numel() // channels
    wide = min(_power_of_two(channels), WIDEST_BLOCK)
    high = min(_power_of_two(-(-rows // PER_THREAD)), THREADS // wide)
    if wide * high != THREADS:
        wide = min(_power_of_two(channels), THREADS // high)
    blocks = min(-(-rows // (high * PER_THREAD)), MOST_BLOCKS)
    return (size * channels * blocks, SEMAPHORE * -(-channels // wide)) if blocks >= LEAST_BLOCKS else 0


def _power_of_two(number: int) -> int:
    """The largest that is not larger; at least 1."""
    return 1 << max(number.bit_length() - 1, 0)


def _channels_are_neighbors(tensor: torch.Tensor) -> bool:
    """Whether PyTorch takes its kernels for channels last."""
    if tensor.numel() > MOST_INDEXED:
        return False
    last = tensor.dim() in (4, 5) and tensor.is_contiguous(memory_format=CHANNELS_LAST[tensor.dim() - 4])
    return last or (tensor.is_contiguous() and tensor.stride(1) == 1)


def _suggested(tensor: torch.Tensor) -> torch.memory_format:
    """The memory format of results: channels last of what is so, and of nothing that is contiguous as well."""
    if tensor.dim() in (4, 5) and not tensor.is_contiguous():
        format = CHANNELS_LAST[tensor.dim() - 4]
        return format if tensor.is_contiguous(memory_format=format) else torch.contiguous_format
    return torch.contiguous_format


def _accumulated_in(tensor: torch.Tensor) -> torch.dtype:
    """What sums of these elements are in."""
    return torch.promote_types(tensor.dtype, torch.float32)

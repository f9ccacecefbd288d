"""Reductions, such as sums, means, maxima and norms: blocks of threads that share an output leave their parts in a buffer.

inputs    of an output: shared by the threads of a block, if that leaves enough for each; then by blocks
outputs   of a block: one for each of its rows, where neighbors in memory come into the same output; else several
buffer    for every output and every block that shares it, what its threads have come to
counters  how many blocks are finished, to find the last, which puts the parts together
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch

from torchprof.estimation.rules.op_arguments import argument
from torchprof.estimation.rules.reduced_dimensions import ReducedDimensions
from torchprof.estimation.rules.registry import Kind, Workspaces, overload, rule
from torchprof.estimation.target import Target

HALF: Final = (torch.float16, torch.bfloat16)
THREADS: Final = 512
WARP: Final = 32
WIDEST_VECTOR: Final = 4
LEAST_PER_THREAD: Final = 16
MOST_PER_THREAD: Final = 256
COUNTER: Final = 4


class Reduction(NamedTuple):
    """What a kernel does.

    Attributes:
        accumulator: bytes that a thread adds up in, for a dtype of inputs.
        converts: whether inputs are copied first where the result has another dtype, except 16 bits to float32.
        vector: neighbors that a thread loads at once, where these come into the same output.
        vector_of_half: the same, of 16 bits.
    """

    accumulator: Callable[[torch.dtype], int]
    converts: bool = False
    vector: int = 4
    vector_of_half: int = 4


def _sum(dtype: torch.dtype) -> int:
    return 4 if dtype in HALF else 8 if dtype == torch.complex32 else dtype.itemsize


def _norm(dtype: torch.dtype) -> int:
    return _sum(dtype) // (2 if dtype.is_complex else 1)


def _moments(dtype: torch.dtype) -> int:
    """Mean, sum of squares, and their count, once in 32 bits, once in the dtype; aligned."""
    return 32 if dtype == torch.float64 else 16


def _truth(dtype: torch.dtype) -> int:
    return 1


def _value(dtype: torch.dtype) -> int:
    return dtype.itemsize


def _two_values(dtype: torch.dtype) -> int:
    return 2 * dtype.itemsize


def _value_and_index(dtype: torch.dtype) -> int:
    return 16


SUM: Final = Reduction(_sum, converts=True, vector_of_half=8)
PRODUCT: Final = Reduction(_sum, converts=True)
NORM: Final = Reduction(_norm, converts=True)
MOMENTS: Final = Reduction(_moments, vector=2, vector_of_half=2)
TRUTH: Final = Reduction(_truth)
EXTREME: Final = Reduction(_value)
EXTREMES: Final = Reduction(_two_values)
EXTREME_AND_INDEX: Final = Reduction(_value_and_index)

KINDS: Final[Mapping[str, Reduction]] = {
    **dict.fromkeys(("sum", "sum.dim_IntList", "nansum", "mean", "mean.dim"), SUM),
    **dict.fromkeys(("prod", "prod.dim_int"), PRODUCT),
    **dict.fromkeys(("linalg_vector_norm", "norm.Scalar", "norm.ScalarOpt_dim", "norm.ScalarOpt_dim_dtype"), NORM),
    **dict.fromkeys(("std.correction", "var.correction", "std_mean.correction", "var_mean.correction"), MOMENTS),
    **dict.fromkeys(("any", "any.dim", "any.dims", "all", "all.dim", "all.dims"), TRUTH),
    **dict.fromkeys(("amax", "amin", "max", "min"), EXTREME),
    "aminmax": EXTREMES,
    **dict.fromkeys(("max.dim", "min.dim", "argmax", "argmin"), EXTREME_AND_INDEX),
}
"""By op: as the kernels in aten/src/ATen/native/cuda/Reduce*Kernel.cu call ``gpu_reduce_kernel``."""


@rule(
    Kind.WORKSPACE,
    *(f"aten::{name}" for name in KINDS),
    on="cuda",
    when="each thread would take 256 inputs or more; a copy too, where inputs are converted first, as in the sum of booleans",
    source="setReduceConfig, ReduceConfig::global_memory_size and gpu_reduce_kernel in aten/src/ATen/native/cuda/Reduce.cuh; "
    "make_reduction_from_out_ty in aten/src/ATen/native/ReduceOpsUtils.h",
)
class reductions(Workspaces):
    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._kinds = {overload(f"aten::{name}"): kind for name, kind in KINDS.items()}

    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        kind, tensor = self._kinds[op], args[0]
        if not tensor.numel() or not tensor.dim() or tensor.layout is not torch.strided or not results:
            return 0
        dims = argument(op, args, kwargs, "dim")
        dims = [dims] if isinstance(dims, int) else dims
        reduced = {dim % tensor.dim() for dim in dims} if dims else set(range(tensor.dim()))
        result, copied = results[0], 0
        dtype = tensor.dtype
        if kind.converts and not (dtype in HALF and result.dtype == torch.float32) and not dtype.is_complex:
            dtype = result.dtype
            copied = tensor.numel() * dtype.itemsize if dtype != tensor.dtype else 0
        dimensions = ReducedDimensions.of(tensor, reduced)
        accumulator = kind.accumulator(dtype)
        vector = kind.vector_of_half if dtype in HALF else kind.vector
        parts = list(dimensions.parts(dtype.itemsize, result.itemsize))
        shared = max(staging(part, accumulator, dtype, vector, self.target) for part in parts)
        # What parts of a tensor come to is kept where the result has too few bits for it.
        kept = dimensions.outputs * accumulator if len(parts) > 1 and result.itemsize < accumulator else 0
        return copied + shared + kept


def staging(dimensions: ReducedDimensions, accumulator: int, dtype: torch.dtype, vector: int, target: Target) -> int:
    """Bytes of the buffer of one kernel and its counters; 0: no output is shared by blocks.

    Args:
        dimensions: of what is reduced.
        accumulator: bytes of what a thread adds up.
        dtype: of the inputs.
        vector: neighbors that a thread loads at once, where these come into the same output.
        target: with its GPU.
    """
    inputs, outputs = dimensions.inputs_per_output, dimensions.outputs
    along_inputs = dimensions.are_reduced_fastest
    outputs_per_thread = 1 if along_inputs else _outputs_per_thread(dimensions)
    across, down = (inputs, outputs) if along_inputs else (outputs // outputs_per_thread, inputs)
    if along_inputs and dimensions.input_strides[0] == 1 and across >= 128 and dimensions.reduced == 1:
        across //= vector
    width, height = _block(across, down, THREADS // (2 if dtype == torch.complex128 else 1) // outputs_per_thread)
    per_thread = -(-inputs // width) if along_inputs else inputs
    if per_thread < min(height * LEAST_PER_THREAD, MOST_PER_THREAD):
        return 0  # each row of threads takes outputs of its own
    per_thread = -(-inputs // (height * width if along_inputs else height))
    blocks = -(-(outputs // outputs_per_thread) // (1 if along_inputs else width))
    resident = target.multiprocessors * (target.threads_per_multiprocessor // (width * height))
    if per_thread < MOST_PER_THREAD or blocks > resident:
        return 0
    fewest = -(-per_thread // MOST_PER_THREAD)
    sharing = max(min(-(-resident // blocks), -(-per_thread // LEAST_PER_THREAD)), fewest)
    if sharing == 1:
        return 0
    parts = 1 if along_inputs else width * outputs_per_thread
    return accumulator * outputs * sharing * parts + COUNTER * blocks


def _outputs_per_thread(dimensions: ReducedDimensions) -> int:
    """Neighboring outputs that one thread takes, for which it loads that many inputs at once."""
    kept = dimensions.reduced
    if dimensions.input_strides[kept] != 1:
        return 1
    others = [stride for dim, stride in enumerate(dimensions.input_strides) if dim != kept]
    count = WIDEST_VECTOR
    while any(number % count for number in (dimensions.offset, dimensions.shape[kept], *others)):
        count //= 2
    return count


def _block(across: int, down: int, threads: int) -> tuple[int, int]:
    """Width and height of a block of threads."""
    across, down = (_power_below(min(max(1, count), threads)) for count in (across, down))
    height = min(down, threads // min(across, WARP))
    return min(across, threads // height), height


def _power_below(number: int) -> int:
    """The largest power of two that is not larger."""
    return 1 << (number.bit_length() - 1)

"""Sums over rows, such as gradients of biases: blocks of threads that share a column leave their parts in a buffer.

Written by what ``setReduceConfig`` and ``global_memory_size`` in ATen/native/cuda/Reduce.cuh of PyTorch 2.13 decide for a
contiguous tensor that is summed over its first dimensions.

    rows       each thread adds up rows // height of them, for vector neighboring columns
    columns    width threads of a block, vector columns each, and as many blocks as it takes
    buffer     for every block and every part that a column is cut in, what its threads have added up
"""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof.estimation.rules.registry import Kind, Workspaces, rule

aten = torch.ops.aten

ACCUMULATED: Final = {torch.float16: 4, torch.bfloat16: 4, torch.float32: 4, torch.float64: 8}
"""Bytes of an element while it is added up."""
THREADS: Final = 512
WARP: Final = 32
WIDEST_VECTOR: Final = 4
LEAST_PER_THREAD: Final = 16
MOST_PER_THREAD: Final = 256
SEMAPHORE: Final = 4


@rule(
    Kind.WORKSPACE,
    "aten::sum.dim_IntList",
    on="cuda",
    when="a contiguous tensor is summed over its first dimensions, and each thread would add up 256 rows or more",
    source="setReduceConfig and ReduceConfig::global_memory_size in aten/src/ATen/native/cuda/Reduce.cuh",
)
class column_sums(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        tensor, dims = args[0], args[1]
        size = ACCUMULATED.get(tensor.dtype)
        if not dims or size is None or not tensor.numel() or not tensor.is_contiguous():
            return 0
        summed = sorted(dim % tensor.dim() for dim in dims)
        if summed != list(range(len(summed))) or len(summed) == tensor.dim():
            return 0
        columns = tensor.shape[len(summed) :].numel()
        return self._buffer(tensor.numel() // columns, columns, size)

    def _buffer(self, rows: int, columns: int, size: int) -> int:
        vector = next(width for width in (WIDEST_VECTOR, 2, 1) if columns % width == 0)
        threads = THREADS // vector
        across, down = (min(_power_below(count), threads) for count in (max(1, columns // vector), rows))
        height = min(down, threads // min(across, WARP))
        width = min(across, threads // height)
        if rows < min(height * LEAST_PER_THREAD, MOST_PER_THREAD):
            return 0  # a thread adds up a whole column
        per_thread = -(-rows // height)
        blocks = -(-(columns // vector) // width)
        resident = self.target.multiprocessors * (self.target.threads_per_multiprocessor // (width * height))
        if per_thread < MOST_PER_THREAD or blocks > resident:
            return 0
        parts = max(min(-(-resident // blocks), -(-per_thread // LEAST_PER_THREAD)), -(-per_thread // MOST_PER_THREAD))
        return size * columns * parts * width * vector + SEMAPHORE * blocks if parts > 1 else 0


def _power_below(number: int) -> int:
    """The largest power of two that is not larger."""
    return 1 << (number.bit_length() - 1)

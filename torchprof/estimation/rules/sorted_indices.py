"""Gradients of lookups on CUDA: indices are sorted, so that rows that go to the same place are added up by one thread."""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof.estimation.rules.op_arguments import argument
from torchprof.estimation.rules.registry import Kind, Workspaces, rule
from torchprof.record.nested import find_tensors

INDEX: Final = 8
"""Bytes of an index, once it is one into all of the memory."""
SORTED_BY_ONE_BLOCK: Final = 2304
"""Pairs of 8 bytes each that CUB sorts in the registers of one block; for more it takes a second copy of both."""
SORTS_NONE: Final = 3072
"""Indices up to which an embedding's gradient is computed without sorting them."""
ROWS_PER_THREAD: Final = 10
LARGEST_BLOCK: Final = 1024
WARP: Final = 32
FEW_BLOCKS: Final = 4
"""For each multiprocessor."""


def _sort(count: int, size: int) -> int:
    """Bytes that CUB takes to sort pairs of an index and its place."""
    return 2 * count * size if count > SORTED_BY_ONE_BLOCK else 1


@rule(
    Kind.WORKSPACE,
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index_put",
    on="cuda",
    when="values are accumulated, as in the gradient of x[indices], or with deterministic algorithms",
    source="index_put_with_sort_kernel and makeLinearIndex in aten/src/ATen/native/cuda/Indexing.cu; SingleTilePolicy and "
    "InvokeOnesweep in CUB's dispatch_radix_sort.cuh",
)
class index_copies(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        target, places, values, accumulates = (
            argument(op, args, kwargs, name) for name in ("self", "indices", "values", "accumulate")
        )
        indices = [index for index in find_tensors(places) if index.dtype not in (torch.bool, torch.uint8)]
        if not (accumulates or torch.are_deterministic_algorithms_enabled()) or not indices:
            return 0
        count: int = torch.broadcast_shapes(*(index.shape for index in indices)).numel()  # type: ignore[no-untyped-call]
        sliced = target.numel() // max(1, _indexed(target, places))
        copied: int = 0 if target.is_contiguous() else target.numel() * target.itemsize
        if values.numel() != count * sliced or not values.is_contiguous():
            copied += count * sliced * values.itemsize
        widened = sum(index.numel() for index in indices if index.dtype == torch.int32)
        # The index into all of the memory, the same sorted, the order it had, and that after sorting.
        return copied + (4 * count + widened) * INDEX + _sort(count, INDEX)


def _indexed(target: torch.Tensor, places: Any) -> int:
    """Elements of the dimensions that are indexed."""
    sizes = [size for size, place in zip(target.shape, places, strict=False) if place is not None]
    return torch.Size(sizes).numel()


@rule(
    Kind.WORKSPACE,
    "aten::embedding_dense_backward",
    on="cuda",
    when="of more than 3,072 indices, or with scale_grad_by_freq; sums of up to 10 rows are made first, then put together",
    source="embedding_dense_backward_cuda in aten/src/ATen/native/cuda/Embedding.cu and embedding_backward_cuda_kernel in "
    "aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu",
)
class embedding_gradients(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        names = ("grad_output", "indices", "num_weights", "scale_grad_by_freq")
        gradient, indices, words, by_frequency = (argument(op, args, kwargs, name) for name in names)
        count, width, size = int(indices.numel()), int(gradient.shape[-1]), int(indices.itemsize)
        copied: int = sum(tensor.numel() * tensor.itemsize for tensor in (gradient, indices) if not tensor.is_contiguous())
        if not count or (count <= SORTS_NONE and not by_frequency):
            return copied
        segments = min(count, int(words))
        partial: int = count // ROWS_PER_THREAD + segments
        accumulator = max(4, int(gradient.itemsize))
        # Sorted indices, the order they had, where segments begin; of segments, their parts, and where these begin.
        orders: int = (3 + by_frequency) * count * size + 2 * segments * size + partial * size + 2 * INDEX
        if not self._adds_in_place(segments, partial, width):
            return copied + orders + partial * width * accumulator
        return copied + orders + partial * size + (words * width * accumulator if gradient.itemsize == 2 else 0)

    def _adds_in_place(self, segments: int, partial: int, width: int) -> bool:
        """Whether parts are added atomically, because there are few segments, and long ones."""
        aligned = -(-width // WARP) * WARP
        blocks = -(-segments * aligned // min(aligned, LARGEST_BLOCK))
        few = blocks < self.target.multiprocessors * FEW_BLOCKS and partial > 4 * blocks
        return few and not torch.are_deterministic_algorithms_enabled()

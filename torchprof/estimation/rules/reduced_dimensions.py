"""How PyTorch walks over a tensor that it reduces: dimensions in their order in memory, those that go first, neighbors merged.

Written by what ``TensorIteratorBase`` in aten/src/ATen/TensorIterator.cpp does in ``reorder_dimensions``,
``coalesce_dimensions`` and ``with_32bit_indexing``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod
from typing import Final

import torch

__all__ = ["ReducedDimensions"]

LARGEST_OFFSET: Final = 2**31 - 1
"""Elements, and bytes, that kernels count in 32 bits. What is larger is reduced in parts, one after the other."""


@dataclass(frozen=True, slots=True)
class ReducedDimensions:
    """Dimensions of a tensor that is reduced, the fastest first; of those that go, the strides of the output are 0.

    Attributes:
        shape: of the input.
        output_strides, input_strides: in elements.
        offset: of the input's first element, from where its memory begins.
    """

    shape: tuple[int, ...]
    output_strides: tuple[int, ...]
    input_strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: torch.Tensor, reduced: Collection[int]) -> ReducedDimensions:
        """Those of a tensor, of which these dimensions go; what comes out is contiguous."""
        outputs, step = [0] * tensor.dim(), 1
        for dim in reversed(range(tensor.dim())):
            if dim not in reduced:
                outputs[dim], step = step, step * tensor.shape[dim]
        order = _order(tensor.shape, outputs, tensor.stride(), reduced)
        picked = [[values[dim] for dim in order] for values in (tensor.shape, outputs, tensor.stride())]
        shape, output_strides, input_strides = _merged(*picked)
        return cls(tuple(shape), tuple(output_strides), tuple(input_strides), int(tensor.storage_offset()))

    @property
    def reduced(self) -> int:
        """How many of them go."""
        return self.output_strides.count(0)

    @property
    def outputs(self) -> int:
        return prod(self.shape[self.reduced :])

    @property
    def inputs_per_output(self) -> int:
        return prod(self.shape[: self.reduced])

    @property
    def are_reduced_fastest(self) -> bool:
        """Whether neighbors in memory come into the same output."""
        return self.reduced == len(self.shape) or (
            self.reduced > 0 and self.input_strides[0] < self.input_strides[self.reduced]
        )

    def parts(self, input_size: int, output_size: int) -> Iterator[ReducedDimensions]:
        """Parts that 32 bits are enough for: itself, or halves of its longest dimension.

        Args:
            input_size, output_size: bytes of an element.
        """
        operands = ((self.input_strides, input_size), (self.output_strides, output_size))
        extents = [
            [(n - 1) * stride * size for n, stride in zip(self.shape, strides, strict=True)] for strides, size in operands
        ]
        if prod(self.shape) <= LARGEST_OFFSET and all(1 + sum(extent) <= LARGEST_OFFSET for extent in extents):
            yield self
            return
        longest = max(reversed(range(len(self.shape))), key=lambda dim: max(extent[dim] for extent in extents))
        first = self.shape[longest] // 2
        for start, count in ((0, first), (first, self.shape[longest] - first)):
            shape = (*self.shape[:longest], count, *self.shape[longest + 1 :])
            offset = self.offset + start * self.input_strides[longest]
            yield from ReducedDimensions(shape, self.output_strides, self.input_strides, offset).parts(input_size, output_size)


def _order(shape: torch.Size, outputs: list[int], inputs: tuple[int, ...], reduced: Collection[int]) -> list[int]:
    """Insertion sort, in which two dimensions may have no order of their own."""
    order = list(reversed(range(len(shape))))
    for place in range(1, len(order)):
        later = place
        for earlier in reversed(range(place)):
            comparison = _compare(order[earlier], order[later], shape, outputs, inputs, reduced)
            if comparison > 0:
                order[earlier], order[later] = order[later], order[earlier]
                later = earlier
            elif comparison < 0:
                break
    return order


def _compare(a: int, b: int, shape: torch.Size, outputs: list[int], inputs: tuple[int, ...], reduced: Collection[int]) -> int:
    """Above 0 where dimension ``a`` comes after ``b``, below where it comes before, 0 where neither is said."""
    if (a in reduced) != (b in reduced):
        return 1 if b in reduced else -1
    for strides in (outputs, inputs):
        if 0 in (strides[a], strides[b]):
            continue
        if strides[a] != strides[b]:
            return 1 if strides[a] > strides[b] else -1
        if shape[a] > shape[b]:
            return 1
    return 0


def _merged(shape: list[int], *operands: list[int]) -> tuple[list[int], ...]:
    """Neighbors that are walked over in one stride each are one dimension."""
    merged: list[list[int]] = [[size, *strides] for size, *strides in zip(shape, *operands, strict=True)]
    kept = merged[:1]
    for size, *strides in merged[1:]:
        last = kept[-1]
        if 1 in (last[0], size) or all(last[0] * before == after for before, after in zip(last[1:], strides, strict=True)):
            if last[0] == 1:
                last[1:] = strides
            last[0] *= size
        else:
            kept.append([size, *strides])
    return tuple([row[column] for row in kept] for column in range(1 + len(operands)))

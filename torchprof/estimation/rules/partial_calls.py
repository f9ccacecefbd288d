"""A call of an op on part of its tensors, and what the whole needs by what parts of it do.

What kernels need beside their results grows with the batch; what a convolution needs whose weight is the largest of its
tensors, with the channels of its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Final

import torch

from torchprof.estimation.fake.sparse import is_sparse, parts_of

__all__ = ["Part", "parts_of_call"]

aten = torch.ops.aten

CONVOLUTIONS: Final = {aten.convolution.default: 1, aten.convolution_backward.default: 2}
"""Which argument is the weight."""
BLOCK: Final = 32
"""Channels that oneDNN lays out together, or a divisor of it: parts are multiples."""


@dataclass(frozen=True)
class Part:
    """A dimension along which a call is cut.

    Attributes:
        whole: its size.
        block: parts are multiples of it.
        cut: an argument or result of the call, and a smaller size: the same of a part.
        enough: a size from which on a part needs as much as the whole; None: there is none.
    """

    whole: int
    block: int
    cut: Callable[[Any, int], Any]
    enough: int | None = None

    def extrapolated(self, share: float, measure: Callable[[int], int]) -> int | None:
        """What the whole needs, by what two parts do; None where there are no two.

        Args:
            share: how much of the whole the larger part may be.
            measure: what a part of a size needs.
        """
        if self.enough is not None:
            return measure(self.enough) if self.enough < self.whole else None
        blocks = int(self.whole * share) // self.block
        if blocks < 2:
            return None
        small, large = blocks // 2 * self.block, blocks * self.block
        less, more = measure(small), measure(large)
        return max(0, more + (self.whole - large) * (more - less) // (large - small))


def parts_of_call(op: Any, args: Any) -> Iterator[Part]:
    """The ways to cut a call, likely ones first."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.dim()]
    if op in CONVOLUTIONS:
        first = CONVOLUTIONS[op]
        images, weight, transposed, groups = args[:first], args[first], args[first + 5], args[first + 7]
        shape = tuple(weight.shape)
        if _bytes(weight) > sum(map(_bytes, images)) and groups == 1 and not transposed:
            yield Part(shape[0], BLOCK, partial(_with_channels, weight=shape))
        else:
            yield Part(images[0].shape[0], 1, partial(_with_images, weight=shape))
    elif sparse := [tensor for tensor in tensors if is_sparse(tensor)]:
        rows = sparse[0].shape[0]  # of a table, of which those matter that the sparse tensor has
        yield Part(rows, 1, partial(_with_batch, whole=rows), enough=parts_of(sparse[0])[0].shape[-1])
    else:
        for whole in dict.fromkeys(tensor.shape[0] for tensor in sorted(tensors, key=_bytes, reverse=True)):
            for least_dim, numbers in product((2, 1), (False, True)):
                yield Part(whole, 1, partial(_with_batch, whole=whole, least_dim=least_dim, numbers=numbers))


def _with_batch(value: Any, size: int, *, whole: int, least_dim: int = 1, numbers: bool = False) -> Any:
    """Tensors, and lists of sizes, whose first dimension is the batch.

    Args:
        least_dim: of tensors; those of one dimension may be weights that are as long by chance.
        numbers: also the first number that is the size of the batch.
    """
    left = 1 if numbers else 0

    def cut(item: Any) -> Any:
        nonlocal left
        if isinstance(item, torch.Tensor):
            is_cut = item.dim() >= least_dim and item.shape[0] == whole
            return _resized(item, (size, *item.shape[1:])) if is_cut else item
        if isinstance(item, list | tuple):
            if len(item) > 1 and type(item[0]) is int and item[0] == whole:  # sizes
                return type(item)((size, *item[1:]))
            return type(item)(map(cut, item))
        if left and type(item) is int and item == whole:
            left = 0
            return size
        return item

    return cut(value)


def _with_images(value: Any, size: int, *, weight: tuple[int, ...]) -> Any:
    """Of a convolution: what has as many dimensions as the weight, which is none of the images."""
    if isinstance(value, list | tuple):
        return type(value)(_with_images(item, size, weight=weight) for item in value)
    is_image = isinstance(value, torch.Tensor) and value.dim() == len(weight) and tuple(value.shape) != weight
    return _resized(value, (size, *value.shape[1:])) if is_image else value


def _with_channels(value: Any, size: int, *, weight: tuple[int, ...]) -> Any:
    """Of a convolution: the weight and the bias have the channels of the output first, and the output second."""

    def cut(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            if tuple(item.shape) == weight or tuple(item.shape) == weight[:1]:
                return _resized(item, (size, *item.shape[1:]))
            if item.dim() == len(weight) and item.shape[1] == weight[0] != weight[1]:
                return _resized(item, (item.shape[0], size, *item.shape[2:]))
            return item
        if isinstance(item, list | tuple):
            return type(item)([size] if list(item) == [weight[0]] else map(cut, item))
        return item

    return cut(value)


def _resized(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of another shape whose dimensions lie in memory in the same order, without gaps."""
    if is_sparse(tensor):
        parts, is_coalesced = (tensor._indices(), tensor._values()), tensor.is_coalesced()
        return torch.sparse_coo_tensor(*parts, shape, is_coalesced=is_coalesced, check_invariants=False)
    strides, stride = [0] * len(shape), 1
    for dim in sorted(range(len(shape)), key=lambda dim: (tensor.stride(dim), -dim)):
        if tensor.stride(dim):
            strides[dim] = stride
            stride *= max(1, shape[dim])
    return tensor.new_empty_strided(shape, strides)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize

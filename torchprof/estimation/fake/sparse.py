"""Sparse tensors: made of indices and values, which have the memory."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, Final

import torch

from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.nested import find_tensors

__all__ = [
    "LayoutError",
    "has_sparse",
    "is_sparse",
    "made_of",
    "parts_of",
    "returns_known",
    "set_parts",
    "sparse_stand_in",
    "with_strides",
]

FakeTensor = ESTIMATE.FakeTensor
in_kernel_invocation_manager = ESTIMATE.in_kernel_invocation_manager
aten = torch.ops.aten

BY_ROW: Final = (torch.sparse_csr, torch.sparse_bsr)
BY_COLUMN: Final = (torch.sparse_csc, torch.sparse_bsc)
SPARSE: Final = (torch.sparse_coo, *BY_ROW, *BY_COLUMN)

KNOWN: Final = frozenset(
    """_sparse_coo_tensor_with_dims _sparse_coo_tensor_with_dims_and_tensors _sparse_coo_tensor_unsafe sparse_coo_tensor
    _sparse_compressed_tensor_unsafe sparse_compressed_tensor embedding_backward embedding_sparse_backward
    _embedding_bag_backward _embedding_bag_sparse_backward detach alias _coalesced_ copy_sparse_to_sparse_ coalesce
    empty new_empty resize_as_ resize_as_sparse_ sparse_resize_ sparse_resize_and_clear_""".split()
)
"""Ops whose fake kernels return as many elements as they are given."""


class LayoutError(Exception):
    """A tensor has a layout whose memory is not known."""


def is_sparse(tensor: torch.Tensor) -> bool:
    """Whether a tensor is made of indices and values."""
    return tensor.layout in SPARSE


def has_sparse(arguments: Any) -> bool:
    return any(is_sparse(tensor) for tensor in find_tensors(arguments))


def returns_known(op: Any) -> bool:
    """Whether PyTorch's fake kernel knows how many elements its result has, given sparse tensors or returning one."""
    schema = op._schema
    tells_a_fact = not schema.is_mutable and not any("Tensor" in str(made.type) for made in schema.returns)
    return tells_a_fact or op.is_view or schema.name.removeprefix("aten::") in KNOWN


def with_strides(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors, and in place of sparse ones what these are made of.

    Raises:
        LayoutError: one has another layout.
    """
    found: list[torch.Tensor] = []
    for tensor in tensors:
        if tensor.layout is torch.strided:
            found.append(tensor)
        elif is_sparse(tensor):
            found += parts_of(tensor)
        else:
            raise LayoutError(f"a tensor has the layout {tensor.layout}, whose memory is not counted")
    return found


def parts_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The indices and values of a sparse tensor. Those of a fake one are on ``meta``."""
    if isinstance(tensor, FakeTensor):
        with in_kernel_invocation_manager(tensor.fake_mode):
            return _parts(tensor)
    return _parts(tensor)


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in BY_ROW:
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]


def made_of(indices: torch.Tensor, values: torch.Tensor, like: torch.Tensor, coalesced: bool) -> torch.Tensor:
    """A new tensor of layout COO, of the size of another."""
    return torch.sparse_coo_tensor(indices, values, like.shape, is_coalesced=coalesced, check_invariants=False)


def set_parts(indices: torch.Tensor, values: torch.Tensor, fake: Any, coalesced: bool) -> torch.Tensor:
    """Give a fake tensor of layout COO other indices and values."""
    new = made_of(indices, values, fake, coalesced)
    with in_kernel_invocation_manager(fake.fake_mode):
        aten.copy_sparse_to_sparse_(fake, new)
    return fake  # type: ignore[no-any-return]


def sparse_stand_in(fake: Any) -> torch.Tensor:
    """A real tensor in place of a fake one: ones, each at a place of its own where there are enough of them.

    Raises:
        NotImplementedError: of another layout than COO.
    """
    if fake.layout is not torch.sparse_coo:
        raise NotImplementedError(f"no stand-in for layout {fake.layout}")
    with in_kernel_invocation_manager(fake.fake_mode):
        (indices, values), is_coalesced = _parts(fake), fake.is_coalesced()
    sizes = fake.shape[: len(indices)]
    places = torch.arange(values.shape[0]) % max(1, prod(sizes))
    made = torch.stack(torch.unravel_index(places, sizes)) if sizes else places.new_empty(0, len(places))
    ones = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype).fill_(1)
    return torch.sparse_coo_tensor(made, ones, fake.shape, is_coalesced=is_coalesced, check_invariants=False)

"""Where a backward pass starts: gradients of one for outputs of every layout."""

from __future__ import annotations

from collections.abc import Callable

import torch

from torchprof.errors import ArgumentError
from torchprof.record.nested import tensor_bytes

__all__ = ["seed_maker", "storage_bytes"]


def seed_maker(root: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A function that makes ones of the shape of an output, and keeps it alive no longer than needed.

    Where the shape alone does not say how to make them, they are made at once.

    Raises:
        ArgumentError: an output of its layout has no ones.
    """
    if is_plain(root):
        shape, dtype, device = root.shape, root.dtype, root.device
        return lambda: torch.ones(shape, dtype=dtype, device=device)
    with torch.no_grad():
        ones = _ones_like(root.detach())
    return lambda: ones


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether its shape, dtype and device say everything: it is strided, and no subclass is around it."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and not tensor.is_nested


def _ones_like(root: torch.Tensor) -> torch.Tensor:
    layout = root.layout
    if layout == torch.sparse_coo:
        indices, values = root._indices(), torch.ones_like(root._values())
        return torch.sparse_coo_tensor(indices, values, root.shape, is_coalesced=root.is_coalesced())
    if layout in (torch.sparse_csr, torch.sparse_bsr):
        return torch.sparse_compressed_tensor(
            root.crow_indices(), root.col_indices(), torch.ones_like(root.values()), root.shape, layout=layout
        )
    if layout in (torch.sparse_csc, torch.sparse_bsc):
        return torch.sparse_compressed_tensor(
            root.ccol_indices(), root.row_indices(), torch.ones_like(root.values()), root.shape, layout=layout
        )
    try:
        return torch.ones_like(root)
    except (RuntimeError, TypeError) as error:  # NotImplementedError is the first
        raise ArgumentError(
            f"backward=True cannot start from an output of class {type(root).__name__} and layout {root.layout}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def storage_bytes(tensor: torch.Tensor) -> int | None:
    """What is kept alive by keeping a tensor: its whole storage; of one that has none of its own, what it takes."""
    if tensor.layout == torch.strided and type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return tensor.untyped_storage().nbytes()
    return tensor_bytes(tensor)

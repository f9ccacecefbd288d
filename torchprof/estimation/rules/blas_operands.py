"""Operands of products: what BLAS cannot read as it lies, such as the expanded gradient of a sum, is copied first."""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof.estimation.fake.sparse import is_sparse
from torchprof.estimation.rules.registry import Kind, Workspaces, rule

__all__ = ["PRODUCTS", "suits_blas"]

PRODUCTS: Final = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2), "mv": (0, 1), "dot": (0, 1)}
"""Products, and which of their arguments are such operands."""
ON_CUDA: Final = {
    **{name: places for name, places in PRODUCTS.items() if name != "dot"},
    "addmv": (1, 2),
    "_addmm_activation": (1, 2),
}
"""The same, of those that cuBLAS computes; of ``dot`` it takes any strides."""


def suits_blas(operand: Any) -> bool:
    """Whether it is a vector or a matrix, or many, whose rows or columns lie one after the other."""
    if not isinstance(operand, torch.Tensor) or is_sparse(operand) or operand.numel() < 2:
        return True
    if operand.dim() == 1:
        return operand.stride(0) > 0
    (rows, columns), (of_row, of_column) = operand.shape[-2:], operand.stride()[-2:]
    return (of_column == 1 and of_row >= max(1, columns)) or (of_row == 1 and of_column >= max(1, rows))


@rule(
    Kind.WORKSPACE,
    *(f"aten::{name}" for name in ON_CUDA),
    on="cuda",
    when="neither the rows nor the columns of an operand lie one after the other: it is cloned",
    source="prepare_matrix_for_cublas in aten/src/ATen/native/cuda/cuBlasCommonArgs.h; prepare_batch_matrix_for_cublas and "
    "addmv_out_cuda in aten/src/ATen/native/cuda/Blas.cpp",
)
class blas_operands(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        places = ON_CUDA[op._schema.name.removeprefix("aten::")]
        copied = [args[place] for place in places if not _suits_cublas(args[place])]
        return sum(operand.numel() * operand.itemsize for operand in copied)


def _suits_cublas(operand: torch.Tensor) -> bool:
    if operand.layout is not torch.strided or suits_blas(operand):
        return True
    # Strides of dimensions of one element do not matter here, if they are not 0.
    return operand.is_contiguous() and (operand.dim() == 2 or 0 not in operand.stride()[-2:])

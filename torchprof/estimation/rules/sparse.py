"""Sparse tensors, as gradients of embeddings: PyTorch's fake kernels say that they have no elements.

How many a real one has may depend on values. Taken is the most: no place occurs twice, and tensors that are added have no place
in common. All are of layout COO.
"""

from __future__ import annotations

from typing import Any

import torch

from torchprof.estimation.fake.sparse import is_sparse, made_of, set_parts
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.trace.trace import Trace

ACCUMULATES = "torch::autograd::AccumulateGrad"
READS = "aten::_indices"
SOURCE = "aten/src/ATen/native/sparse/SparseTensorMath.cpp"


def _clone(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tensor._indices().clone(), tensor._values().clone()


@rule(
    Kind.SPARSE_KERNEL,
    "aten::clone",
    "aten::_coalesce",
    "aten::neg",
    on=("cpu", "cuda"),
    when="of layout COO: indices and values are new, and as many; autograd takes a gradient as it is where it is contiguous",
    source="accumulateGrad in torch/csrc/autograd/functions/accumulate_grad.h; clone_sparse and _coalesce_sparse_cpu in "
    "aten/src/ATen/native/sparse/SparseTensor.cpp; neg_sparse in " + SOURCE,
)
def sparse_copy(op: Any, self: Any, **options: Any) -> torch.Tensor:
    node = ESTIMATE.current_autograd_node()
    if node is not None and node.name() == ACCUMULATES and self._values().is_contiguous():
        return made_of(self._indices(), self._values(), self, self.is_coalesced())
    coalesced = op is torch.ops.aten._coalesce.default or self.is_coalesced()
    return made_of(*_clone(self), self, coalesced)


@rule(
    Kind.SPARSE_KERNEL,
    "aten::add.Tensor",
    "aten::add_.Tensor",
    "aten::sub.Tensor",
    "aten::sub_.Tensor",
    on=("cpu", "cuda"),
    when="of layout COO: elements of both, none at the same place; the sum with a dense tensor is dense",
    source="add_out_sparse_contiguous and add_out_dense_sparse_cpu in " + SOURCE,
)
def sparse_sum(op: Any, self: Any, other: Any, *, alpha: Any = 1) -> torch.Tensor:
    in_place = op._schema.is_mutable
    if not is_sparse(self):
        return self if in_place else torch.empty_like(self)
    dtype = torch.result_type(self, other)
    indices = torch.cat([self._indices(), other._indices()], 1)
    values = torch.cat([self._values().to(dtype), other._values().to(dtype)])
    coalesced = self.is_coalesced() and other.is_coalesced()
    return (set_parts if in_place else made_of)(indices, values, self, coalesced)


@rule(
    Kind.SPARSE_KERNEL,
    "aten::mul.Tensor",
    "aten::mul_.Tensor",
    "aten::div.Tensor",
    "aten::div_.Tensor",
    on=("cpu", "cuda"),
    when="a tensor of layout COO by a number",
    source="mul_out_sparse_zerodim in " + SOURCE,
)
def sparse_product(op: Any, self: Any, other: Any) -> Any:
    if not is_sparse(self) or (isinstance(other, torch.Tensor) and other.dim()):
        return NotImplemented
    made = set_parts if op._schema.is_mutable else made_of
    return made(*_clone(self), self, self.is_coalesced())


@rule(
    Kind.SPARSE_KERNEL,
    "aten::sparse_mask",
    on=("cpu", "cuda"),
    when="a dense tensor at the places of one of layout COO, whose indices it shares",
    source="sparse_mask in aten/src/ATen/native/sparse/SparseTensor.cpp",
)
def sparse_mask(op: Any, self: Any, mask: Any) -> Any:
    if is_sparse(self):
        return NotImplemented
    return made_of(mask._indices(), torch.empty_like(mask._values(), dtype=self.dtype), mask, mask.is_coalesced())


@rule(
    Kind.SPARSE_KERNEL,
    "aten::_to_dense",
    on=("cpu", "cuda"),
    when="of layout COO",
    source="sparse_to_dense in aten/src/ATen/native/TensorConversions.cpp",
)
def sparse_to_dense(op: Any, self: Any, dtype: Any = None, masked_grad: Any = None) -> torch.Tensor:
    return torch.zeros(self.shape, dtype=dtype or self.dtype)


@rule(
    Kind.SPARSE_KERNEL,
    "aten::zero_",
    on=("cpu", "cuda"),
    when="of layout COO: no elements are left",
    source="zero_sparse_ in " + SOURCE,
)
def sparse_zero(op: Any, self: Any) -> torch.Tensor:
    return set_parts(self._indices()[:, :0].clone(), self._values()[:0].clone(), self, True)


@rule(
    Kind.NOTE,
    READS,
    on=("cpu", "cuda"),
    when="something looks into a sparse tensor, as autograd does that adds up gradients",
    source="the kernels above: coalescing leaves one element of each place, and sums merge those of the same place",
)
def sparse_elements(trace: Trace, target: Target) -> str | None:
    return "that sparse tensors are smaller where indices repeat: none are taken to" if READS in trace.strings else None

"""Collectives: what gloo needs while it runs them, and what waiting for one returns."""

from __future__ import annotations

from typing import Any

import torch

from torchprof.estimation.rules.registry import Kind, Workspaces, rule
from torchprof.record.nested import find_tensors

__all__: list[str] = []


@rule(
    Kind.WORKSPACE,
    "c10d::_allgather_base_",
    "c10d::allgather_",
    "c10d::gather_",
    "c10d::scatter_",
    "c10d::_reduce_scatter_base_",
    "_c10d_functional::all_gather_into_tensor",
    "_c10d_functional::reduce_scatter_tensor",
    on="cpu",
    when="always: NCCL needs none that PyTorch's allocator knows of, but for lists",
    source="ProcessGroupGloo::allgather, ::gather, ::scatter and ::_reduce_scatter_base in "
    "torch/csrc/distributed/c10d/ProcessGroupGloo.cpp: the first three send and receive one tensor in place of a list, as "
    "all_gather_into_tensor does for its parts; the last reduces a copy",
)
class GlooWorkspaces(Workspaces):
    """The larger side of what is sent and received once more. What is reduced to be scattered is a block of its own, which
    the `Work` holds (`torchprof.estimation.sharding.works`)."""

    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int | tuple[int, ...]:
        # Of allgather_, gather_ and scatter_ what is filled and what is given are the first two; functional ones return it.
        sides = [find_tensors(side) for side in args[:2]] if op.namespace == "c10d" else [results, find_tensors(args[0])]
        size = max(sum(tensor.nbytes for tensor in side) for side in sides)
        return (size,) if "reduce_scatter" in op.name() else size


@rule(
    Kind.FAKE_KERNEL,
    "_c10d_functional::wait_tensor",
    on=("cpu", "cuda"),
    when="always",
    source="wait_tensor in torch/csrc/distributed/c10d/Functional.cpp returns what it is given; its fake kernel makes another",
)
def waited_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@rule(
    Kind.WORKSPACE,
    "c10d::allreduce_coalesced_",
    on="cpu",
    when="always: NCCL reduces each tensor where it is",
    source="AsyncAllreduceCoalescedWork in torch/csrc/distributed/c10d/ProcessGroupGloo.cpp reduces one flat copy of all",
)
class GlooFlatCopy(Workspaces):
    """The tensors once more."""

    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        return sum(int(tensor.nbytes) for tensor in args[0])

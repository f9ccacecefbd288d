"""Collectives: what gloo needs while it runs them, and what waiting for one returns."""

from __future__ import annotations

from typing import Any

import torch

from torchprof.estimation.rules.registry import Kind, Workspaces, rule

__all__: list[str] = []


@rule(
    Kind.WORKSPACE,
    "c10d::_allgather_base_",
    "c10d::_reduce_scatter_base_",
    on="cpu",
    when="always: NCCL needs none that PyTorch's allocator knows of",
    source="ProcessGroupGloo::_allgather_base and ::_reduce_scatter_base in torch/csrc/distributed/c10d/ProcessGroupGloo.cpp: "
    "the first gathers into lists that it copies from, the second reduces a copy",
)
class GlooWorkspaces(Workspaces):
    """The larger of both tensors once more."""

    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        output, given = args[:2]
        return max(int(output.nbytes), int(given.nbytes))


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

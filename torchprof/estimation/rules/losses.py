"""What is computed element by element before it is reduced, inside of one op: losses, counts and sums of exponentials."""

from __future__ import annotations

from typing import Any, Final

import torch

from torchprof.estimation.rules.op_arguments import argument
from torchprof.estimation.rules.registry import Kind, Workspaces, rule

LOSSES: Final = ("mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy")
WITH_LOGITS: Final = "binary_cross_entropy_with_logits"
COUNTS: Final = ("count_nonzero", "count_nonzero.dim_IntList")
COUNT: Final = 8


@rule(
    Kind.WORKSPACE,
    *(f"aten::{name}" for name in (*LOSSES, WITH_LOGITS)),
    on="cuda",
    when="the loss is reduced: that of every element is a tensor; with logits, their logarithmic sigmoid is one too, always",
    source="mse_loss_out, smooth_l1_loss_out, huber_loss and binary_cross_entropy_with_logits in "
    "aten/src/ATen/native/Loss.cpp; binary_cross_entropy_cuda in aten/src/ATen/native/cuda/Loss.cu",
)
class losses_of_elements(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        is_reduced = argument(op, args, kwargs, "reduction") != 0
        copies: int = is_reduced + op._schema.name.endswith("_with_logits")
        shapes = (args[0].shape, args[1].shape)
        count: int = torch.broadcast_shapes(*shapes).numel()  # type: ignore[no-untyped-call]
        return copies * count * int(results[0].itemsize)


@rule(
    Kind.WORKSPACE,
    "aten::logsumexp",
    *(f"aten::{name}" for name in COUNTS),
    on="cuda",
    when="always: differences to the largest, whose exponentials are added up; or which are not 0, and the same in 64 bits",
    source="logsumexp_out_impl in aten/src/ATen/native/ReduceOps.cpp; count_nonzero_cuda in "
    "aten/src/ATen/native/TensorAdvancedIndexing.cpp, which sums booleans",
)
class reduced_elements(Workspaces):
    def bytes(self, op: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> int:
        size = results[0].itemsize if op is torch.ops.aten.logsumexp.default else 1 + COUNT
        return int(args[0].numel()) * size

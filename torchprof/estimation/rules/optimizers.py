"""Optimizers: how they update parameters on CUDA, and which of them may read values of tensors."""

from __future__ import annotations

import torch

from torchprof.estimation.fake.real_ops import RealOps
from torchprof.estimation.rules.registry import Kind, rule


@rule(
    Kind.OPTIMIZER,
    "torch.optim.Optimizer",
    on="cuda",
    when="neither foreach nor fused was chosen",
    source="_default_to_fused_or_foreach in torch/optim/optimizer.py",
)
def foreach_optimizer(optimizer: torch.optim.Optimizer, real_ops: RealOps) -> None:
    """All parameters are updated at once, which needs temporaries for all."""
    for group in (optimizer.defaults, *optimizer.param_groups):
        if "foreach" in group and group["foreach"] is None and not group.get("fused"):
            group["foreach"] = True


@rule(
    Kind.OPTIMIZER,
    "torch.optim.Adafactor",
    "torch.optim.ASGD",
    on=("cpu", "cuda"),
    when="always: what they read changes neither what they do nor what they need",
    source="_single_tensor_adafactor in torch/optim/_adafactor.py and _single_tensor_asgd in torch/optim/asgd.py call item()",
)
def value_independent_optimizer(optimizer: torch.optim.Optimizer, real_ops: RealOps) -> None:
    if isinstance(optimizer, (torch.optim.Adafactor, torch.optim.ASGD)):
        optimizer.step = real_ops.allowing_value_reads()(optimizer.step)  # type: ignore[method-assign]

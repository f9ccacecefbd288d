"""Optimizers: how they update parameters on CUDA, and which of them may read values of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from torchprof.estimation.fake.real_ops import RealOps
from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target
from torchprof.record.torch_private import is_fake_mode_active

NEVER: Final = -2
"""A tolerance below which nothing gets."""


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
    "torch.optim.Optimizer",
    on="cuda",
    when="capturable was chosen, which optimizers refuse for tensors that say they are on the CPU",
    source="_get_capturable_supported_devices in torch/optim/optimizer.py",
)
def capturable_optimizer(optimizer: torch.optim.Optimizer, real_ops: RealOps) -> None:
    """Without it, the same is computed with numbers of Python."""
    for group in (optimizer.defaults, *optimizer.param_groups):
        if group.get("capturable"):
            group["capturable"] = False


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


@rule(
    Kind.OPTIMIZER,
    "torch.optim.LBFGS",
    on=("cpu", "cuda"),
    when="always: a step is taken to need all of its iterations, which fill the history",
    source="LBFGS.step in torch/optim/lbfgs.py reads values to see whether it may end, and gets those of stand-ins: ones",
)
def all_iterations(optimizer: torch.optim.Optimizer, real_ops: RealOps) -> None:
    if isinstance(optimizer, torch.optim.LBFGS):
        for group in optimizer.param_groups:
            group["tolerance_change"] = group["tolerance_grad"] = NEVER
        optimizer.step = real_ops.allowing_value_reads()(optimizer.step)  # type: ignore[method-assign]


@rule(
    Kind.PATCH,
    "torch.amp.GradScaler",
    on=("cpu", "cuda"),
    when="always: gradients are taken to be finite, so that the optimizer makes its step",
    source="GradScaler._maybe_opt_step in torch/amp/grad_scaler.py reads whether a gradient is infinite",
)
@contextmanager
def finite_gradients(target: Target) -> Iterator[None]:
    scaler: Any = torch.amp.GradScaler
    original = getattr(scaler, "_maybe_opt_step", None)
    if original is None:
        yield
        return

    def step(self: Any, optimizer: Any, state: Any, *args: Any, **options: Any) -> Any:
        if is_fake_mode_active():
            return optimizer.step(*args, **options)
        return original(self, optimizer, state, *args, **options)

    scaler._maybe_opt_step = step
    try:
        yield
    finally:
        scaler._maybe_opt_step = original

"""A training step on fake tensors: forward, loss, backward, optimizer; or whatever the user says it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from torchprof.errors import ArgumentError
from torchprof.estimation.fake.mode import EstimateMode, Faking
from torchprof.estimation.rules.cuda_dispatch import use_foreach
from torchprof.record.inputs import Inputs, make_inputs
from torchprof.record.nested import find_tensors

__all__ = ["TrainingStep", "fake_inputs"]

VALUE_INDEPENDENT: Final = (torch.optim.Adafactor, torch.optim.ASGD)
"""Optimizers that ask for values of tensors, and do and need the same whatever they are."""


class TrainingStep:
    """A training step, ready to be repeated."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        optimizer: Callable[..., torch.optim.Optimizer] | None,
        loss: Callable[[Any], torch.Tensor] | None,
        step: Callable[..., object] | None,
        amp: torch.dtype | None,
        device: str,
        mode: EstimateMode,
    ) -> None:
        self.model, self.inputs, self.loss, self.own_step, self.amp = model, inputs, loss or _default_loss, step, amp
        self.optimizer = optimizer(model.parameters()) if optimizer is not None else None
        if self.optimizer is not None and device == "cuda":
            use_foreach(self.optimizer)
        if isinstance(self.optimizer, VALUE_INDEPENDENT):
            self.optimizer.step = mode.real_ops.allowing_value_reads()(self.optimizer.step)  # type: ignore[method-assign]

    def run(self) -> None:
        if self.own_step is not None:
            self.own_step(self.model, self.optimizer, *self.inputs.args, **self.inputs.kwargs)
            return
        with torch.autocast("cpu", dtype=self.amp) if self.amp is not None else nullcontext():
            returned = self.model(*self.inputs.args, **self.inputs.kwargs)
            value = self.loss(returned)
        value.backward()  # type: ignore[no-untyped-call]
        if self.optimizer is not None:
            self.optimizer.step()
        self.model.zero_grad()


def _default_loss(returned: Any) -> torch.Tensor:
    value = returned.get("loss") if isinstance(returned, Mapping) else getattr(returned, "loss", None)
    if isinstance(value, torch.Tensor):
        return value
    parts = [tensor.float().sum() for tensor in find_tensors(returned) if tensor.requires_grad]
    if not parts:
        raise ArgumentError("the model returned nothing to differentiate: pass loss=..., or step=... for a step of your own")
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def fake_inputs(model: nn.Module, inputs: Any, batch_size: Any, dtypes: Any, mode: FakeTensorMode) -> Inputs:
    if inputs is None:
        raise ArgumentError("inputs are needed: sizes such as (8, 3, 224, 224), tensors, or a dict of keyword arguments")
    if isinstance(inputs, Mapping) or any(True for _ in find_tensors(inputs)):
        made = make_inputs(model, None, batch_size=batch_size, input_data=inputs, dtypes=dtypes, device=None)
    else:
        with mode:
            made = make_inputs(model, inputs, batch_size=batch_size, input_data=None, dtypes=dtypes, device="cpu")
    assert made is not None
    faking = Faking(mode)
    return Inputs(faking.values(made.args), faking.values(made.kwargs))

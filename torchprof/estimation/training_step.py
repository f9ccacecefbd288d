"""A training step on fake tensors: forward, loss, backward, optimizer; or whatever the user says it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import nn

from torchprof.errors import ArgumentError, TorchprofError
from torchprof.estimation.fake.model import Faking
from torchprof.estimation.sharding.context_parallel import lengths_put_back
from torchprof.estimation.sharding.pipelines import pipeline_of, stages_in
from torchprof.record.inputs import Inputs, make_inputs
from torchprof.record.nested import find_tensors

__all__ = ["TrainingStep", "fake_inputs", "loss_of"]


class TrainingStep:
    """A training step, ready to be repeated.

    Args:
        model, inputs: fake ones.
        optimizer, loss, step, amp: as for `torchprof.estimate`.
        adjust: called with the optimizer, once made.

    Raises:
        ArgumentError: there is no such optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        optimizer: Callable[..., torch.optim.Optimizer] | None,
        loss: Callable[[Any], torch.Tensor] | None,
        step: Callable[..., object] | None,
        amp: torch.dtype | None,
        adjust: Callable[[torch.optim.Optimizer], None],
    ) -> None:
        self.model, self.inputs, self.loss, self.own_step, self.amp = model, inputs, loss, step, amp
        self.pipeline = pipeline_of(model)
        if self.pipeline is not None and loss is not None:
            raise ArgumentError("the loss of a pipeline is that of its schedule: make it with loss_fn=..., without loss=")
        if self.pipeline is None and step is None and stages_in(model):
            raise ArgumentError(
                "the function made a stage of a pipeline, and returned no schedule: return the schedule, or pass step=... that "
                "runs it"
            )
        self.optimizer = _made(optimizer, model) if optimizer is not None else None
        if self.pipeline is not None and self.optimizer is not None and _needs_closure(self.optimizer):
            raise ArgumentError(
                f"optimizer={type(self.optimizer).__name__} computes the loss itself, and in a pipeline only the last stage "
                "has one: pass step=... for a step of your own"
            )
        if isinstance(self.optimizer, torch.optim.Optimizer):
            adjust(self.optimizer)

    def run(self) -> None:
        with lengths_put_back(self.inputs.tensors()):
            self._run()

    def _run(self) -> None:
        if self.own_step is not None:
            self.own_step(
                self.pipeline.schedule if self.pipeline else self.model, self.optimizer, *self.inputs.args, **self.inputs.kwargs
            )
            return
        if self.optimizer is not None and _needs_closure(self.optimizer):
            self.optimizer.step(cast(Callable[[], float], self._closure))
        else:
            held = self._forward_and_backward()  # what was returned is there until the step ends, as in most programs
            if self.optimizer is not None:
                self.optimizer.step()
            del held
        self.model.zero_grad()

    def _closure(self) -> torch.Tensor:
        self.model.zero_grad()
        value: torch.Tensor = self._forward_and_backward()[1]
        return value

    def _forward_and_backward(self) -> Any:
        """What is there until the step ends: of a model, what it returned, and what of that was differentiated."""
        with torch.autocast("cpu", dtype=self.amp) if self.amp is not None else nullcontext():
            if self.pipeline is not None:
                return self.pipeline.step(self.inputs.args, self.inputs.kwargs)
            returned = self.model(*self.inputs.args, **self.inputs.kwargs)
            value = loss_of(returned, self.loss)
        value.backward()  # type: ignore[no-untyped-call]
        return returned, value


def _made(optimizer: Callable[..., torch.optim.Optimizer], model: nn.Module) -> torch.optim.Optimizer:
    try:
        made = optimizer(model.parameters())
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"optimizer={optimizer!r:.80} cannot be made of the model's parameters: {error}") from error
    if not callable(getattr(made, "step", None)):
        raise ArgumentError(f"optimizer must return an optimizer such as torch.optim.AdamW, not {type(made).__name__}")
    return made


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``step`` wants a function that computes the loss, as that of LBFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def loss_of(returned: Any, loss: Callable[[Any], torch.Tensor] | None) -> torch.Tensor:
    """What is differentiated of what the model returned.

    Args:
        loss: as for `torchprof.estimate`.

    Raises:
        ArgumentError: it is not one number that requires a gradient.
    """
    value = (loss or _default_loss)(returned)
    if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad:
        what = f"{type(value).__name__} {value!s:.80}"
        raise ArgumentError(f"loss must return one number to differentiate, a tensor that requires a gradient, not {what}")
    return value


def _default_loss(returned: Any) -> torch.Tensor:
    value = returned.get("loss") if isinstance(returned, Mapping) else getattr(returned, "loss", None)
    if isinstance(value, torch.Tensor):
        return value
    parts = [tensor.float().sum() for tensor in find_tensors(returned) if tensor.requires_grad]
    if not parts:
        raise ArgumentError("the model returned nothing to differentiate: pass loss=..., or step=... for a step of your own")
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def fake_inputs(model: nn.Module, inputs: Any, batch_size: Any, dtypes: Any, mode: Any) -> Inputs:
    """The inputs that `torchprof.estimate` was given, as fake tensors.

    Raises:
        ArgumentError, ModuleTypeError: they are no inputs.
    """
    if inputs is None:
        raise ArgumentError("inputs are needed: sizes such as (8, 3, 224, 224), tensors, or a dict of keyword arguments")
    try:
        if isinstance(inputs, Mapping) or find_tensors(inputs):
            made = make_inputs(model, None, batch_size=batch_size, input_data=inputs, dtypes=dtypes, device=None)
        else:
            with mode:
                made = make_inputs(model, inputs, batch_size=batch_size, input_data=None, dtypes=dtypes, device="cpu")
    except TorchprofError as error:  # those of summary() have names of their own there
        raise type(error)(re.sub("input_size|input_data", "inputs", str(error))) from None
    assert made is not None
    faking = Faking(mode)
    return Inputs(faking.values(made.args), faking.values(made.kwargs))

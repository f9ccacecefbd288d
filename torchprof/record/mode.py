"""Train or eval mode for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["in_mode"]


@contextmanager
def in_mode(model: nn.Module, training: bool | None) -> Iterator[None]:
    """The model is in train or eval mode; afterwards every module is in its own again. None changes nothing."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        if training is not None:
            model.train(training)
        yield
    finally:
        # Not by train(), which models override: to keep parts of them in eval mode, or frozen.
        for module, mode in modes:
            module.training = mode
        for parameter, requires_grad in gradients:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)

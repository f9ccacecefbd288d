"""A step of the optimizer after several passes, whose gradients are added up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from torchprof.estimation.training_step import loss_of

__all__ = ["AT_MOST", "Accumulated"]

AT_MOST: Final = 2
"""Passes that are run: from the second on, gradients are there already, and each needs and sends what the second does."""


@dataclass(frozen=True, slots=True)
class Accumulated:
    """A training step, as `torchprof.estimate` takes it, of some passes.

    Attributes:
        passes: how many.
        loss, amp: as for `torchprof.estimate`.
    """

    passes: int
    loss: Callable[[Any], torch.Tensor] | None
    amp: torch.dtype | None

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, *args: Any, **kwargs: Any) -> None:
        held: Any = None
        for _ in range(self.passes):
            del held  # what was returned is there until it is made anew, as in most programs
            with torch.autocast("cuda", dtype=self.amp) if self.amp is not None else nullcontext():
                held = model(*args, **kwargs)
                value = loss_of(held, self.loss)
            value.backward()  # type: ignore[no-untyped-call]
        if optimizer is not None:
            optimizer.step()
        del held, value
        model.zero_grad()

"""A model whose forward, or whose build, calls collectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

import torchprof
from torchprof import Estimate

__all__ = ["ROWS", "WIDTH", "Talk", "Talks", "in_build", "in_step"]

ROWS: Final = 8
WIDTH: Final = 64

Talk = Callable[[Tensor], object]


class Talks(nn.Module):
    """Calls it in forward, with what a layer returns."""

    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.talk = talk

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        self.talk(y.detach())
        return y


def in_step(talk: Talk, **options: Any) -> Estimate:
    """Of ranks that call it in a step."""
    return torchprof.estimate(lambda: Talks(talk), (ROWS, WIDTH), **{"device": "cpu", **options})


def in_build(talk: Talk, **options: Any) -> Estimate:
    """Of ranks that call it while they build the model."""

    def build() -> nn.Module:
        talk(torch.empty(ROWS, WIDTH))
        return nn.Linear(WIDTH, WIDTH)

    return torchprof.estimate(build, (ROWS, WIDTH), **options)

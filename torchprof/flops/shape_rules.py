"""What a rule for the shapes of outputs is: see `torchprof.flops.outputs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Rule", "Sizes"]

Sizes = tuple[int, ...]
Rule = Callable[[list[Sizes], list[Any]], tuple[Sizes, ...]]
"""Gives the shapes of what an op returns from those of its tensors, and all its arguments, which are empty if unknown."""

"""What the mode does otherwise than PyTorch's fake kernels say, op by op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["OpRules"]


@dataclass(frozen=True, slots=True)
class OpRules:
    """Functions by op, or by name of a node of the autograd graph: those of `torchprof.estimation.rules`.

    What each is given and returns is said in `torchprof.estimation.rules.registry.Kind`.

    Attributes:
        in_place: the op that runs instead.
        fake_kernels: what the op returns.
        results: what becomes of what PyTorch's fake kernel returned.
        workspaces: bytes that the kernel needs beside its results; ``other_workspace`` where an op is not among them, if any.
        backward_nodes: bytes that a node needs beside its results.
    """

    in_place: Mapping[Any, Callable[..., Any]]
    fake_kernels: Mapping[Any, Callable[..., Any]]
    results: Mapping[Any, Callable[..., Any]]
    workspaces: Mapping[Any, Callable[..., int]]
    other_workspace: Callable[..., int] | None
    backward_nodes: Mapping[str, Callable[[Any], int]]

"""What the mode does otherwise than PyTorch's fake kernels say, op by op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["OpRule", "Overrides"]


@dataclass(frozen=True, slots=True)
class OpRule:
    """What is done for one op: functions of `torchprof.estimation.rules`, or None.

    What each is given and returns is said in `torchprof.estimation.rules.registry.Kind`.

    Attributes:
        in_place: chooses another op to run.
        fake_kernel: what the op returns.
        sparse_kernel: what the op returns where an argument is sparse.
        result: changes what PyTorch's fake kernel returned.
        order: in which order results are allocated.
        workspace: bytes that the kernel needs beside its results, in one block or several.
    """

    in_place: Callable[..., Any] | None = None
    fake_kernel: Callable[..., Any] | None = None
    sparse_kernel: Callable[..., Any] | None = None
    result: Callable[..., Any] | None = None
    order: Callable[..., Any] | None = None
    workspace: Callable[..., int | tuple[int, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """The rules for every op.

    Attributes:
        by_op: those of ops that have any of their own.
        others: that of all other ops.
        backward_nodes: by name of a node of the autograd graph, bytes that it needs beside its results.
    """

    by_op: Mapping[Any, OpRule]
    others: OpRule
    backward_nodes: Mapping[str, Callable[[Any], int]]

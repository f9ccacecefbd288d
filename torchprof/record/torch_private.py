"""The private names of PyTorch that recording uses, by feature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from torchprof._torch_private import private

__all__ = ["evaluator_switch", "is_in_bad_fork", "is_torch_profiler_active", "run_backward", "without_modes"]

FLOPS = "counting FLOPs"
BACKWARD = "a backward pass from an output that is nested"
CALLS = "recording calls by module.__call__"
CUPTI = "recording GPUs with CUPTI"


@contextmanager
def without_modes() -> Iterator[None]:
    """Inside the block, no dispatch mode, function mode or tensor subclass takes part in what is called.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    disabled = private("torch._C._DisableTorchDispatch", FLOPS)()
    try:
        with torch._C.DisableTorchFunction():
            yield
    finally:
        del disabled  # the guard ends with the object


def run_backward(
    edges: Sequence[torch.autograd.graph.GradientEdge], seeds: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]
) -> tuple[torch.Tensor | None, ...]:
    """As ``torch.autograd.grad(edges, leaves, seeds, allow_unused=True)``, which takes no edge of a nested tensor.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    run = private("torch.autograd.graph._engine_run_backward", BACKWARD)
    gradients: tuple[torch.Tensor | None, ...] = run(
        tuple(edges), tuple(seeds), False, False, tuple(leaves), True, accumulate_grad=False
    )
    return gradients


def is_in_bad_fork() -> bool:
    """Whether this process was forked from one that uses CUDA.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    return bool(private("torch.cuda._is_in_bad_fork", CUPTI)())


def is_torch_profiler_active() -> bool:
    """Whether torch.profiler is recording.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    return bool(private("torch.autograd.profiler._is_profiler_enabled", CUPTI))


def evaluator_switch() -> Any:
    """The function by which Dynamo installs and removes its own evaluator of frames (PEP 523). Used with Python 3.11 only.

    Raises:
        UnsupportedTorchError: a name is missing.
    """
    return private("torch._C._dynamo.eval_frame.set_eval_frame", CALLS)

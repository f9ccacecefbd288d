"""The private names of PyTorch by which ranges of backward are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torchprof._torch_private import private

__all__ = ["LAST", "next_sequence_number", "queue_at_end", "running_backward"]

RANGES: Final = "ranges of backward"
LAST: Final = 2**63
"""From here on, numbers are of what accumulates gradients, which runs as soon as it can."""


def next_sequence_number() -> Callable[[], int]:
    """What tells the number that the next node of autograd made on this thread gets. Later nodes run earlier in backward.

    Raises:
        UnsupportedTorchError: the name is missing.
    """
    found: Callable[[], int] = private("torch._C._autograd._get_sequence_nr", RANGES)
    return found


def running_backward() -> Callable[[], int]:
    """What tells the number of the backward pass that runs on this thread; -1 where none does.

    Raises:
        UnsupportedTorchError: the name is missing.
    """
    found: Callable[[], int] = private("torch._C._current_graph_task_id", RANGES)
    return found


def queue_at_end() -> Callable[[Callable[[], None]], Any]:
    """What has a function called at the end of the backward pass that runs.

    Raises:
        UnsupportedTorchError: the name is missing.
    """
    found: Callable[[Callable[[], None]], Any] = private(
        "torch.autograd.variable.Variable._execution_engine.queue_callback", RANGES
    )
    return found

"""What a program does that its recording does not have: said at its end, and below every table."""

from __future__ import annotations

import sys

__all__ = ["not_recorded", "starts_processes"]


def starts_processes() -> bool:
    """Whether the program started processes of ``multiprocessing``, as ``torch.multiprocessing.spawn`` does."""
    return any(f"multiprocessing.popen_{how}" in sys.modules for how in ("fork", "spawn_posix", "forkserver"))


def not_recorded(steps: int, models: int, *, is_elsewhere: bool) -> list[str]:
    """What it is, in words.

    Args:
        steps: that were recorded.
        models: that were called in this process.
        is_elsewhere: whether one was called on another thread than the one that imported PyTorch.
    """
    notes = []
    if is_elsewhere and not steps:
        notes += ["steps: the model is called on another thread than the one that imports torch; import it there first"]
    if starts_processes() and not models:
        notes += ["the processes that the program starts, as torch.multiprocessing.spawn does: torchprof run -- torchrun does"]
    return notes

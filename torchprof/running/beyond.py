"""What a program does that its recording does not have: said at its end, and below every table."""

from __future__ import annotations

import sys

from torchprof.running.spawned import Spawned
from torchprof.wording import counted

__all__ = ["not_recorded", "starts_processes"]


def starts_processes(spawned: Spawned | None) -> bool:
    """Whether the program started processes of ``multiprocessing`` that are not recorded. Those of PyTorch's ``spawn`` are."""
    if spawned is not None:
        return bool(spawned.others or spawned.forked)
    return any(f"multiprocessing.popen_{how}" in sys.modules for how in ("fork", "spawn_posix", "forkserver"))


def not_recorded(steps: int, models: int, spawned: Spawned | None, *, is_elsewhere: bool) -> list[str]:
    """What it is, in words.

    Args:
        steps: that were recorded.
        models: that were called in this process.
        spawned: the processes that it started, where they are known.
        is_elsewhere: whether one was called on another thread than the one that imported PyTorch.
    """
    notes = []
    if is_elsewhere and not steps:
        notes += ["steps: the model is called on another thread than the one that imports torch; import it there first"]
    if spawned is not None and spawned.forked:
        which = counted(spawned.forked, "process", "processes")
        notes += [
            f"the {which} that torch.multiprocessing starts as forks: its spawn starts such that are, and so does torchrun"
        ]
    elif starts_processes(spawned) and not models:
        notes += ["the processes that the program starts, as multiprocessing.Process does: torchprof run -- torchrun does"]
    return notes

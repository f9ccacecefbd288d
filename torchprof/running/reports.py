"""What the processes that a command starts say of themselves, each in a file of its own: why nothing was recorded, if so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from torchprof.wording import counted

__all__ = ["report", "why_silent"]

Stage = Literal["python", "torch", "nothing", "recorded"]
"""How far a process came: it is watched; it imported PyTorch; it ended, and nothing was recorded; it wrote a file."""

OTHERWISE: Final = "as those with -c, -I, -E or -S, and in a container, cannot be"


def report(folder: str | None, stage: Stage, why: str = "") -> None:
    """Say how far this process came.

    Args:
        folder: where; None: nobody asks.
        why: nothing was recorded.
    """
    if folder is not None:
        with suppress(OSError):  # on another machine the folder is not there
            Path(folder, str(os.getpid())).write_text(f"{stage}\n{why}", errors="backslashreplace")


def why_silent(folder: str, command: Sequence[str]) -> str | None:
    """Why none of the processes of a command wrote a file, and what to do; None where one did."""
    told = [text.split("\n", 1) for path in Path(folder).iterdir() if (text := path.read_text(errors="replace"))]
    stages = [stage for stage, _ in told]
    name = os.path.basename(command[0])
    if "recorded" in stages:
        return None
    if not stages:
        script = next((each for each in command if each.endswith(".py")), "train.py")
        return f"{name} started no Python that is watched, {OTHERWISE}: give the script itself, as in torchprof run {script}"
    if "torch" in stages:
        which = counted(stages.count("torch"), "process that imports PyTorch was", "processes that import PyTorch were")
        return f"{which} killed before the end: give fewer steps, as in --steps 5, of which the file is written at once"
    whys = dict.fromkeys(why for stage, why in told if stage == "nothing" and why)
    if not whys:
        which = f"none of the {len(told):,} Python processes" if len(told) > 1 else "no Python process"
        return f"{which} of {name} imported PyTorch"
    return "; ".join(whys)

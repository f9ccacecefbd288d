"""The line on standard error that says how far a recording is."""

from __future__ import annotations

import sys
import time
from typing import Final

from torchprof.record.schedule import State
from torchprof.terminal import is_terminal

__all__ = ["Progress"]

PATIENCE: Final = 2.0
"""Seconds after which the line is shown, unless it was asked for."""
INTERVAL: Final = 0.5
"""Seconds between two updates."""

CLEAR_LINE: Final = "\r\x1b[K"


class Progress:
    """One line, rewritten in place.

    Args:
        wanted: whether to show it; None: if standard error is a terminal and the recording takes longer than two seconds.
    """

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._began = self._shown = 0.0

    def start(self) -> None:
        """The recording begins."""
        self._began = time.monotonic()
        self._shown = 0.0

    def show(self, step: int, state: State, recorded: int, budget: int) -> None:
        """Show the number of the step, what happens to it, and how many bytes of the budget are used; not too often."""
        now = time.monotonic()
        wanted = self._wanted if self._wanted is not None else now - self._began >= PATIENCE and is_terminal(sys.stderr)
        if wanted and now - self._shown >= INTERVAL:
            self._shown = now
            used = f"{recorded / 2**20:,.0f} of {budget / 2**20:,.0f} MiB"
            print(f"{CLEAR_LINE}torchprof: step {step:,}, {state.value}, {used}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)

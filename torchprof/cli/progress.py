"""Says on a terminal what takes longer than a second."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from torchprof.terminal import is_terminal, printable

__all__ = ["working"]

PATIENCE: Final = 1.0
"""Seconds before anything is shown."""


@contextmanager
def working(doing: str) -> Iterator[None]:
    """Meanwhile, a line on standard error says what is being done, if that is a terminal and it takes its time.

    Args:
        doing: such as ``"writing report.html"``.
    """
    if not is_terminal(sys.stderr):
        yield
        return
    with ExitStack() as shown:
        lock = threading.Lock()
        done = False

        def show() -> None:
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            with lock:
                if not done:
                    bar = shown.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
                    bar.add_task(printable(doing), total=None)

        timer = threading.Timer(PATIENCE, show)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                done = True

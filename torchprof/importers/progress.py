"""A progress bar for what takes longer than a second to read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Final

from torchprof.terminal import is_terminal

__all__ = ["reading"]

PATIENCE: Final = 1.0
"""Seconds before anything is shown."""


@contextmanager
def reading(size: int, *, of_profiler: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal, as soon as reading has taken a second.

    Args:
        size: bytes to read.
        of_profiler: whether it is a file of torch.profiler, which is read faster where msgspec is installed.

    Yields:
        What is called with the number of bytes that were read since.
    """
    if not is_terminal(sys.stderr):
        yield lambda read: None
        return
    began, done = time.monotonic(), 0
    show: Callable[[int], None] | None = None
    with ExitStack() as shown:

        def advance(read: int) -> None:
            nonlocal done, show
            done += read
            if show is None and time.monotonic() - began >= PATIENCE:
                show = _bar(shown, size, of_profiler=of_profiler)
                show(done)
            elif show is not None:
                show(read)

        yield advance


def _bar(shown: ExitStack, size: int, *, of_profiler: bool) -> Callable[[int], None]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    hint = of_profiler and find_spec("msgspec") is None
    text = "reading (faster with msgspec: pip install msgspec)" if hint else "reading"
    columns = (TextColumn(text), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = shown.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = bar.add_task("reading", total=size)
    return lambda read: bar.advance(task, read)

"""What is said while configurations are estimated, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torchprof.estimation.planner.configuration import Configuration
from torchprof.terminal import is_terminal, printable

__all__ = ["Progress", "told"]

Progress = Callable[[int, int, Configuration], object]
"""Called with how many are done, of how many, and the last of them."""


@contextmanager
def told(progress: Progress | None) -> Iterator[Progress]:
    """What to call after each configuration: the user's own, or a bar on standard error where that is a terminal."""
    if progress is not None:
        yield progress
        return
    if not is_terminal(sys.stderr):
        yield lambda done, count, last: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("estimating the first configuration", total=None)

        def say(done: int, count: int, last: Configuration) -> None:
            bar.update(task, completed=done, total=count, description=printable(f"{last.choice}: {last.verdict}"))

        yield say

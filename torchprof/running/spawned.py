"""The processes that the program starts by ``multiprocessing``. Those of ``torch.multiprocessing.spawn`` are recorded, too."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from torchprof.running.launch import variables
from torchprof.running.options import RunOptions
from torchprof.running.reports import why_silent

__all__ = ["BASE_OF_ALL", "Spawned", "is_of_multiprocessing"]

BASE_OF_ALL: Final = "multiprocessing.popen_fork"
"""Its class starts processes in all ways. It is imported when the first one starts."""


def is_of_multiprocessing() -> bool:
    """Whether this Python was started to run a function of another."""
    return "--multiprocessing-fork" in sys.orig_argv


class Spawned:
    """Tells of the run to every process that ``torch.multiprocessing.spawn`` starts, and counts the others.

    Attributes:
        told: how many were told.
        forked: how many ranks PyTorch started as forks, which are not recorded.
        others: how many were started otherwise, as the workers of a ``DataLoader`` are.
    """

    def __init__(self, options: RunOptions) -> None:
        self.told = self.forked = self.others = 0
        self._options = options
        self._folder: str | None = None
        self._process = os.getpid()

    def watch(self) -> None:
        """``BASE_OF_ALL`` was imported."""
        kind: Any = sys.modules[BASE_OF_ALL].Popen
        start = kind.__init__

        def started(popen: Any, process: Any) -> None:
            if os.getpid() == self._process:
                self._start(start, popen, process)
            else:
                start(popen, process)

        kind.__init__ = started

    def why_silent(self) -> str | None:
        """Why none of those that were told wrote a file; None where one did. To be asked once, at the end."""
        if self._folder is None:
            return None
        import shutil

        try:
            return why_silent(self._folder, ["torch.multiprocessing.spawn"])
        except OSError:
            return None
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, start: Callable[[Any, Any], None], popen: Any, process: Any) -> None:
        of_torch = sys.modules.get("torch.multiprocessing.spawn")
        if of_torch is None or getattr(process, "_target", None) is not getattr(of_torch, "_wrap", of_torch):
            self.others += 1
            start(popen, process)
        elif popen.method != "spawn":
            self.forked += 1
            start(popen, process)
        else:
            from multiprocessing import resource_tracker

            resource_tracker.ensure_running()  # a process of its own, which is not told
            with self._in_environment(process):
                start(popen, process)
            self.told += 1

    @contextmanager
    def _in_environment(self, process: Any) -> Iterator[None]:
        if self._folder is None and self._options.reports is None:
            import tempfile

            with suppress(OSError):  # then nothing is said
                self._folder = tempfile.mkdtemp(prefix="torchprof-")
        number = process._args[1] if len(process._args) > 1 and isinstance(process._args[1], int) else self.told
        told = replace(self._options, spawned=number, is_command=False, reports=self._options.reports or self._folder)
        names = variables(told)
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

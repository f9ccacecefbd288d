"""Watches the program of this process: records from where it imports PyTorch, and ends the recording whichever way it ends."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torchprof.record.rank import own_rank
from torchprof.running.ending import Ending
from torchprof.running.options import VARIABLE, RunOptions
from torchprof.running.rank import file_of
from torchprof.running.reports import report
from torchprof.running.spawned import BASE_OF_ALL, Spawned, is_of_multiprocessing
from torchprof.trace.rank import Rank

if TYPE_CHECKING:
    from torchprof.running.recording import Recording

__all__ = ["watch"]


def watch() -> None:
    """Watch the program that begins, if this process is one to record: not a helper of another (``python -c``)."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return
    options, rank = RunOptions.from_text(text), own_rank()
    if options.spawned is not None:
        if not is_of_multiprocessing():
            return
    elif options.is_command and "-c" in sys.orig_argv[1:2]:  # a process of multiprocessing's
        return
    report(options.reports, "python")
    if rank is not None or not options.is_command:
        _leave_environment(options)
    program = Program(options, rank)
    program.ending = Ending(program.end)
    program.spawned = Spawned(options)
    if BASE_OF_ALL in sys.modules:
        program.spawned.watch()
    else:
        sys.meta_path.insert(0, AfterImport(BASE_OF_ALL, program.spawned.watch))
    if "torch" in sys.modules:
        program.begin()
    else:
        sys.meta_path.insert(0, AfterImport("torch", program.begin))


def _leave_environment(options: RunOptions) -> None:
    """What the program starts is not recorded."""
    del os.environ[VARIABLE]
    if options.pythonpath is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = options.pythonpath


class Program:
    """What happens from the start of the program to its end.

    Attributes:
        ending: tells when the program ends.
        spawned: the processes that it starts.
    """

    ending: Ending
    spawned: Spawned

    def __init__(self, options: RunOptions, rank: Rank | None) -> None:
        self._options = options
        self._rank = rank
        self._recording: Recording | None = None
        self._failure = ""

    def begin(self) -> None:
        """PyTorch was imported. What goes wrong here is said at the end, and the program goes on."""
        try:
            from torchprof.running.recording import Recording

            importlib.import_module(BASE_OF_ALL)  # it is small, and nothing then waits for it in sys.meta_path
            self._recording = Recording(self._options, file_of(self._options.output, self._rank), self._rank, self.spawned)
            report(self._options.reports, "torch")
            self._recording.begin()
        except Exception as error:
            self._failure = str(error) or type(error).__name__
            self._recording = None

    def end(self, ended_by: str) -> None:
        """The program ends: write what was recorded, and say what it is."""
        if self._recording is not None:
            self._recording.end(ended_by)
        self._say()

    def _say(self) -> None:
        stream, options = sys.__stderr__, self._options
        self._report()
        of_spawned = self.spawned.why_silent()
        is_silent = options.quiet or (self._rank is not None and self._rank.number) or options.spawned
        if stream is None or is_silent or (options.is_command and self._rank is None and not self._has_file()):
            return
        if self.spawned.told and not self._has_file():
            if of_spawned is None:  # the first of them speaks
                return
            lines = [f"nothing was recorded: {of_spawned}"]
        elif self._recording is None:
            why = self._failure or "the program did not import PyTorch"
            lines = [f"nothing was recorded: {why}"]
        else:
            from torchprof.running.verdict import verdict

            lines = verdict(self._recording.outcome(), options, self._recording.rank, self.spawned)
            if of_spawned is not None:
                lines.insert(-1, f"  {'Missing':<9}the processes that it starts: {of_spawned}")
        for stale in (sys.stdout, sys.stderr):
            try:
                stale.flush()
            except Exception:  # closed, or replaced by the program: it is not ours to report
                continue
        print("torchprof:", "\n".join(lines), file=stream, flush=True)

    def _report(self) -> None:
        """Say to who waits for the command what came of this process."""
        if self._options.reports is None or (self._recording is None and not self._failure):
            return
        why = self._failure
        if self._recording is not None:
            from torchprof.running.verdict import why_nothing

            why = why_nothing(self._recording.outcome(), self._options)
        report(self._options.reports, "recorded" if self._has_file() else "nothing", why)

    def _has_file(self) -> bool:
        return self._recording is not None and self._recording.outcome().is_written


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function once, after a module was imported. It and its spec have the loader that they have without this."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        for finder in [each for each in sys.meta_path if each is not self]:
            spec = finder.find_spec(fullname, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = Loader(spec.loader, self)
                return spec
        return None

    def imported(self) -> None:
        """The module is there."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self._then()


class Loader(importlib.abc.Loader):
    """Loads as another loader does, and tells."""

    def __init__(self, loader: Any, finder: AfterImport) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        made: types.ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._finder.imported()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

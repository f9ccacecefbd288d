"""Starts the program: this process becomes ``python SCRIPT ARGS``, in which a ``sitecustomize`` of torchprof's watches.

Python itself runs the script, so all is as it is without torchprof: ``__main__``, arguments, paths, tracebacks, exit codes,
what ``pickle`` and ``multiprocessing`` know of it. Nothing of torchprof is on the stack.

    torchprof run SCRIPT ──exec──► python SCRIPT          PYTHONPATH begins with startup/, and TORCHPROF_RUN has the options
                                     │ site
                                     ├─ startup/sitecustomize.py ──► program.watch()    takes both out of the environment again
                                     └─ SCRIPT

A command that starts Pythons, such as ``torchrun``, is a child of this process, which says at its end whether any of them
recorded: each of these watches as above, and writes into a diary what came of it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from torchprof.errors import ArgumentError
from torchprof.running.command import can_wait, end_as, run_command
from torchprof.running.diary import Diary
from torchprof.running.options import VARIABLE, RunOptions
from torchprof.terminal import printable

__all__ = ["free_name", "start_command", "start_python"]

STARTUP = Path(__file__).resolve().parent / "startup"


def start_python(arguments: Sequence[str], options: RunOptions) -> NoReturn:
    """Become ``python ARGUMENTS``, with the flags that this Python has.

    Raises:
        ArgumentError: this Python was told not to look at its environment.
    """
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise ArgumentError("`torchprof run` needs PYTHONPATH and the module site: start it without -I, -E and -S of Python")
    import subprocess  # which no other subcommand needs

    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    _become(sys.executable, [sys.executable, *flags, *arguments], options)


def start_command(command: Sequence[str], options: RunOptions) -> int:
    """Run a command, such as ``torchrun``, that starts Python, and return its exit code: it says where nothing was recorded.

    Raises:
        ArgumentError: there is no such command.
    """
    path = shutil.which(command[0])
    if path is None:
        raise ArgumentError(f"there is no command {command[0]!r}: after -- comes one that starts Python, such as torchrun")
    if options.quiet or not can_wait():
        _become(path, command, replace(options, is_command=True))
    with _file() as file:
        diary = Diary(file, options.output)
        code = run_command(path, command, _environment(replace(options, is_command=True, diary=file)))
        if why := diary.why_nothing():
            said = f"torchprof: nothing was recorded: no Python of the command recorded anything ({printable(why)})"
            with suppress(OSError, AttributeError):  # standard error is closed, or there is none
                print(said, file=sys.stderr, flush=True)
    return end_as(code)


@contextmanager
def _file() -> Iterator[str | None]:
    """An empty file; None where there is no place for one."""
    try:
        number, path = tempfile.mkstemp(prefix="torchprof-")
    except OSError:
        yield None
        return
    os.close(number)
    try:
        yield path
    finally:
        with suppress(OSError):
            os.unlink(path)


def _become(path: str, arguments: Sequence[str], options: RunOptions) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as of a program that was started without one
            stream.flush()
    os.execve(path, [*arguments], _environment(options))


def _environment(options: RunOptions) -> dict[str, str]:
    before = os.environ.get("PYTHONPATH")
    startup = f"{STARTUP}{os.pathsep}{before}" if before else str(STARTUP)
    told = replace(options, pythonpath=before).to_text()
    return {**os.environ, "PYTHONPATH": startup, VARIABLE: told}


def free_name(stem: str) -> str:
    """``train.torchprof``, or the first of ``train-2.torchprof``, ... that neither is there nor is that of ranks."""
    number, name = 1, stem
    while Path(f"{name}.torchprof").exists() or any(Path().glob(f"{name}.rank*.torchprof")):
        number += 1
        name = f"{stem}-{number}"
    return f"{name}.torchprof"

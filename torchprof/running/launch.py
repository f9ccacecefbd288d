"""Starts the program: this process becomes ``python SCRIPT ARGS``, in which a ``sitecustomize`` of torchprof's watches.

Python itself runs the script, so all is as it is without torchprof: ``__main__``, arguments, paths, tracebacks, exit codes,
what ``pickle`` and ``multiprocessing`` know of it. Nothing of torchprof is on the stack.

    torchprof run SCRIPT ──exec──► python SCRIPT          PYTHONPATH begins with startup/, and TORCHPROF_RUN has the options
                                     │ site
                                     ├─ startup/sitecustomize.py ──► program.watch()    takes both out of the environment again
                                     └─ SCRIPT

A command, as ``torchrun`` is, is started and waited for instead (``waited_for.py``): it may start Python in ways that are not
watched, which is said when it has ended.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from torchprof.errors import ArgumentError
from torchprof.running.options import VARIABLE, RunOptions

__all__ = ["free_name", "start_command", "start_python", "variables"]

STARTUP = Path(__file__).resolve().parent / "startup"
WAITED_FOR = Path(__file__).resolve().parent / "waited_for.py"


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


def start_command(command: Sequence[str], options: RunOptions) -> NoReturn:
    """Run a command, such as ``torchrun``, that starts Python, and end as it does. Where nothing of it was recorded, say why.

    Raises:
        ArgumentError: there is no such command.
    """
    import shutil
    import tempfile

    path = shutil.which(command[0])
    if path is None:
        raise ArgumentError(f"there is no command {command[0]!r}: after -- comes one that starts Python, such as torchrun")
    told = replace(options, is_command=True)
    try:
        folder = tempfile.mkdtemp(prefix="torchprof-")
    except OSError:  # then nothing is said
        _become(path, command, told)
    waits = [sys.executable, "-I", "-S", str(WAITED_FOR), path, folder, "quiet" if options.quiet else "", *command]
    _become(sys.executable, waits, replace(told, reports=folder))


def _become(path: str, arguments: Sequence[str], options: RunOptions) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as of a program that was started without one
            stream.flush()
    os.execve(path, [*arguments], {**os.environ, **variables(options)})


def variables(options: RunOptions) -> dict[str, str]:
    """The environment in which Python watches its program."""
    before = options.pythonpath if VARIABLE in os.environ else os.environ.get("PYTHONPATH")  # in which it may be already
    startup = f"{STARTUP}{os.pathsep}{before}" if before else str(STARTUP)
    return {"PYTHONPATH": startup, VARIABLE: replace(options, pythonpath=before).to_text()}


def free_name(stem: str) -> str:
    """``train.torchprof``, or the first of ``train-2.torchprof``, ... that neither is there nor is that of ranks."""
    number, name = 1, stem
    while Path(f"{name}.torchprof").exists() or any(
        any(Path().glob(f"{name}.{one}*.torchprof")) for one in ("rank", "process")
    ):
        number += 1
        name = f"{stem}-{number}"
    return f"{name}.torchprof"

"""Tells once that the program ends: at its exit, by ``os._exit``, by becoming another, or by a signal that ends it."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import types
from collections.abc import Callable
from typing import Any, Final

from torchprof.terminal import printable

__all__ = ["Ending"]

SIGNALS: Final = ("SIGTERM", "SIGHUP")
"""Which end a process that has no handler for them: of schedulers, of launchers of ranks, of a terminal that is closed."""


class Ending:
    """Calls a function when the program ends: with the class of the exception that ended it, the name of the signal, or "".

    It comes after all that the program itself does at its exit, as what was registered first is called last. A signal that
    the program handles is its own. A fork ends as it would without this.
    """

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self._process = os.getpid()
        self._has_ended = False
        self._exit = os._exit
        self._becomes = os.execv, os.execve  # by which all other functions of os become another program
        self._mask: set[signal.Signals] | set[int] = set()
        self._signals = [number for name in SIGNALS if (number := getattr(signal, name, None)) is not None]
        atexit.register(self._at_exit)
        os._exit = self._exit_now  # type: ignore[assignment]
        os.execv, os.execve = self._execv, self._execve  # type: ignore[assignment]
        for number in self._signals:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, Handler(self._die))
        os.register_at_fork(before=self._forks, after_in_parent=self._forked, after_in_child=self._is_fork)

    def _tell(self, ended_by: str) -> None:
        if self._has_ended or os.getpid() != self._process:
            return
        self._has_ended = True
        try:
            self._end(ended_by)
        except Exception as error:
            with contextlib.suppress(Exception):
                told = f"{type(error).__name__}: {error}"
                if isinstance(error, OSError) and error.filename is not None:
                    told = f"{error.filename}: {error.strerror}"
                what = printable(told)
                print(f"torchprof: the recording could not be ended: {what}", file=sys.__stderr__, flush=True)
        except KeyboardInterrupt:
            print("torchprof: interrupted while the recording ended", file=sys.__stderr__, flush=True)

    def _at_exit(self) -> None:
        raised = getattr(sys, "last_type", None)
        self._tell(raised.__name__ if isinstance(raised, type) else "")
        if raised is KeyboardInterrupt:
            # Python dies of SIGINT then, unless an exec() has run since: one that is interrupted itself has it remember.
            with contextlib.suppress(KeyboardInterrupt):
                exec("raise KeyboardInterrupt")

    def _exit_now(self, status: int) -> None:
        self._tell("")
        self._exit(status)

    def _execv(self, path: Any, argv: Any) -> None:
        self._tell_before(path)
        self._becomes[0](path, argv)

    def _execve(self, path: Any, argv: Any, env: Any) -> None:
        self._tell_before(path)
        self._becomes[1](path, argv, env)

    def _tell_before(self, path: Any) -> None:
        """The program becomes another, unless that is not there: then it goes on."""
        with contextlib.suppress(Exception):  # of a path that is none, which the function itself says
            if os.access(path, os.X_OK) and not os.path.isdir(path):
                self._tell("")

    def _die(self, number: int, frame: types.FrameType | None) -> None:
        self._tell(signal.Signals(number).name)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    # A signal that comes to a fork before it has its own handlers would be forgotten there, and it would live on. So it waits.

    def _forks(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)

    def _forked(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _is_fork(self) -> None:
        if os._exit == self._exit_now:
            os._exit = self._exit
        if os.execv == self._execv:
            os.execv = self._becomes[0]
        if os.execve == self._execve:
            os.execve = self._becomes[1]
        for number in self._signals:
            if signal.getsignal(number) is signal.SIG_DFL:  # or it is ours
                signal.signal(number, signal.SIG_DFL)
        self._forked()


class Handler:
    """A handler that the program takes for ``SIG_DFL``, as ``signal`` looks handlers up by their value: trainers call those
    that they find after their own."""

    def __init__(self, function: Callable[[int, types.FrameType | None], None]) -> None:
        self._function = function

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        self._function(number, frame)

    def __eq__(self, other: object) -> bool:
        return other == signal.SIG_DFL.value

    def __hash__(self) -> int:
        return hash(signal.SIG_DFL.value)

"""Runs a command as a shell does: what it is sent, it gets, and it ends as the command ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

__all__ = ["can_wait", "end_as", "run_command"]

PASSED_ON: Final = ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALED: Final = 128
"""Added to the number of a signal, as shells do, by a process that no signal ends."""
PR_SET_PDEATHSIG: Final = 1


def can_wait() -> bool:
    """Whether this system tells who sent a signal."""
    return hasattr(signal, "sigwaitinfo")


def run_command(path: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it and return its exit code; below 0, the signal that it died of.

    A signal that is sent to this process is the command's. Those of a terminal (Ctrl-C) reach all processes in the foreground
    by themselves, and so the command too. Where this process is killed, the command gets SIGTERM.

    Raises:
        OSError: it cannot be started.
    """
    signals = {number for name in PASSED_ON if (number := getattr(signal, name, None)) is not None}
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # nothing would tell of its end
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*signals, signal.SIGCHLD})
    parent = os.getpid()

    def prepare() -> None:
        _ends_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        child = subprocess.Popen([*arguments], executable=path, env={**environment}, close_fds=False, preexec_fn=prepare)
        while child.poll() is None:
            told = signal.sigwaitinfo({*signals, signal.SIGCHLD})
            if told.si_signo != signal.SIGCHLD and told.si_code <= 0 and told.si_pid != child.pid:  # above: of the kernel
                with suppress(ProcessLookupError):
                    child.send_signal(told.si_signo)
        return child.returncode
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_as(code: int) -> int:
    """The exit code to end with. Where a signal ended the command, it ends this process too."""
    if code >= 0:
        return code
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # it has left its own
    with suppress(OSError, ValueError):  # SIGKILL has no handler
        signal.signal(-code, signal.SIG_DFL)
    with suppress(OSError):
        os.kill(os.getpid(), -code)
    return SIGNALED - code


def _ends_with(parent: int) -> None:
    """In the command, before it begins: have Linux end it where its parent is killed."""
    with suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

"""Runs a command as if this process had become it: signals are passed on, and its end is that of this process.

A program of its own, which `torchprof run` becomes: signals are waited for, so no other thread may take them, as those of numpy
would. Where nothing of the command was recorded, it says why.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["main"]

PASSED_ON: Final = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH")
)
OF_THE_KERNEL: Final = 0x80
"""Why a signal came (``si_code``): from the terminal, which sends it to the command too."""
OF_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""Which Python ignores, and a command would inherit so."""


def main(path: str, folder: str, is_quiet: bool, command: Sequence[str]) -> None:
    """Run a command, say why nothing was recorded of it, if so, and end as it did.

    Args:
        path: of its file.
        folder: in which its processes say what came of them: see ``reports.py``. It is removed.
        command: its arguments, of which the first is its name.
    """
    from torchprof.running.reports import why_silent
    from torchprof.terminal import printable

    try:
        code = _wait_for(path, command)
        why = why_silent(folder, command)
    except OSError as error:
        sys.exit(f"torchprof: {printable(path)}: {error.strerror}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if why is not None and not is_quiet and sys.stderr is not None:
        print(f"torchprof: nothing was recorded: {printable(why)}", file=sys.stderr, flush=True)
    if code < 0:
        with suppress(OSError):  # what cannot be handled, as SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _wait_for(path: str, command: Sequence[str]) -> int:
    """Run it to its end: its exit code, or below 0 the signal that it died of."""
    watched = {*PASSED_ON, signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, how a command ended is forgotten
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        process = os.posix_spawn(path, [*command], os.environ, setsigmask=before, setsigdef=OF_PYTHON)
        while True:
            came = signal.sigwaitinfo(watched)
            if came.si_signo != signal.SIGCHLD:
                if came.si_code != OF_THE_KERNEL:
                    os.kill(process, came.si_signo)
                continue
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended == process:
                return os.waitstatus_to_exitcode(status)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "quiet", sys.argv[4:])

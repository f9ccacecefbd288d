"""Programs as a shell runs them: in a process of their own, with pipes, or on a terminal of a given size."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

DEADLINE = 60.0
"""Seconds after which a program hangs."""


def torchprof_in_a_shell(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    """``torchprof ARGUMENTS``, with what it wrote to pipes."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=DEADLINE, **more)  # type: ignore[call-overload,no-any-return]


def command(*arguments: object) -> list[str]:
    """The command line of torchprof."""
    return [sys.executable, "-m", "torchprof", *map(str, arguments)]


class OnTerminal(NamedTuple):
    """What a program did on a terminal.

    Attributes:
        code: that it exited with.
        text: what was to be seen, with escapes; lines end in a line feed.
    """

    code: int
    text: str


def on_a_terminal(
    arguments: Sequence[str],
    *,
    rows: int = 50,
    columns: int = 120,
    environment: Mapping[str, str] | None = None,
    keys: Sequence[tuple[str, bytes]] = (),
    folder: Path | None = None,
) -> OnTerminal:
    """Run a program whose standard streams are a terminal.

    Args:
        keys: what is typed, each as soon as a text is to be seen after the last.
    """
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    variables = {
        name: value for name, value in os.environ.items() if name not in ("PAGER", "LESS", "NO_COLOR", "COLUMNS", "LINES")
    }
    running = subprocess.Popen(
        arguments,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env={**variables, "TERM": "xterm-256color", **(environment or {})},
        start_new_session=True,
        preexec_fn=_own_terminal,
        cwd=folder,
    )
    os.close(inside)
    text, typed, waiting, deadline = b"", 0, list(keys), time.monotonic() + DEADLINE
    try:
        while time.monotonic() < deadline:
            if select.select([outside], [], [], 0.05)[0]:
                try:
                    read = os.read(outside, 2**16)
                except OSError:  # the other end was closed
                    break
                if not read:
                    break
                text += read
            if waiting and waiting[0][0].encode() in text[typed:]:
                os.write(outside, waiting.pop(0)[1])
                typed = len(text)
        else:
            running.kill()
            raise TimeoutError(f"{arguments} hangs: {text!r}")
        return OnTerminal(running.wait(DEADLINE), text.decode(errors="replace").replace("\r\n", "\n"))
    finally:
        os.close(outside)


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

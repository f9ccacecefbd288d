"""What came of the Pythons that a command started, as each of them writes it into one file: for the one line at its end."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["BEGAN", "RECORDED", "Diary", "write"]

BEGAN: Final = "began"
"""A Python started, and looked at its PYTHONPATH."""
RECORDED: Final = "recorded"
"""It wrote a file, or said itself why it did not. Any other line says why it, which imported PyTorch, recorded nothing."""
NO_PYTHON: Final = "on this machine it started none, or one with -I, -E or -S, which cannot be recorded"
NO_TORCH: Final = "what it started did not import PyTorch"


def write(path: str | None, line: str) -> None:
    """Add a line, if there is such a file: the command may have ended."""
    if path is None:
        return
    with suppress(OSError):
        number = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(number, f"{' '.join(line.split())}\n".encode())  # at once: others write too
        finally:
            os.close(number)


class Diary:
    """The file, and what is found beside it.

    Args:
        path: of the diary; None: it could not be made.
        output: the file of the recording. Ranks on other machines write theirs beside it, and nothing into the diary.
    """

    def __init__(self, path: str | None, output: str) -> None:
        self._path = path
        self._output = Path(output)
        self._before = self._files()

    def why_nothing(self) -> str:
        """Why nothing was recorded; empty where something was, or where one has said it."""
        told: list[str] = []
        with suppress(OSError):
            if self._path is not None:
                told = Path(self._path).read_text(errors="replace").splitlines()
        if RECORDED in told or self._files() != self._before or self._path is None:
            return ""
        reasons = Counter(line for line in told if line != BEGAN)
        if not reasons:
            return NO_TORCH if told else NO_PYTHON
        return reasons.most_common(1)[0][0]

    def _files(self) -> dict[str, int]:
        """Of the recording and its ranks, with the times at which they were written."""
        name, found = self._output, {}
        with suppress(OSError):
            for path in name.parent.iterdir():
                if path == name or (path.suffix == name.suffix and path.name.startswith(f"{name.stem}.rank")):
                    found[path.name] = path.stat().st_mtime_ns
        return found

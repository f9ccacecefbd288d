"""A second process that estimates configurations. It is a fresh Python: nothing of the caller's process is copied or changed.

It reads what is asked and then choices from its standard input, and writes what it finds to its standard output, both pickled.
Functions go by their names, so those of a script or a notebook, which only the caller's process has, are not sent.
"""

from __future__ import annotations

import io
import os
import pickle
import select
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final

from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.found import Found
from torchprof.estimation.planner.one_choice import Asked, found_of

__all__ = ["Helper", "can_be_sent", "main"]

AHEAD: Final = 2
"""Choices that it is given at once, so that it need not wait while this process estimates."""
SIZE: Final = struct.Struct("!Q")
PROGRAM: Final = "from torchprof.estimation.planner.helper import main; main()"


class Named(pickle.Pickler):
    """Pickles what another process can find, too."""

    def reducer_override(self, value: Any) -> Any:
        if getattr(value, "__module__", None) == "__main__" or getattr(type(value), "__module__", None) == "__main__":
            raise pickle.PicklingError("it is in __main__")
        return NotImplemented


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    Named(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def can_be_sent(value: Any) -> bool:
    """Whether another process can be given it."""
    try:
        _pickled(value)
    except Exception:  # objects of the user's own may raise anything
        return False
    return True


class Helper:
    """A second process, until the block ends. What is asked of it can be sent."""

    def __init__(self, asked: Asked) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for this process
        )
        self._given: deque[str] = deque()
        self._read = bytearray()
        self._ended = False
        self._send(_pickled(asked))

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()

    @property
    def has_work(self) -> bool:
        """Whether it was given something that it has not answered."""
        return bool(self._given)

    @property
    def wants_more(self) -> bool:
        """Whether it would soon have nothing to do."""
        return not self._ended and len(self._given) < AHEAD

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, as where there is not enough memory for two: `left` has what it was given."""
        return self._ended

    def give(self, name: str, choice: Choice) -> None:
        """Have it estimate a choice, whose result has this name."""
        try:
            data = _pickled((name, choice))
        except Exception:
            data = b""
        self._given.append(name)
        if not data:
            self._ended = True
        else:
            self._send(data)

    def left(self) -> list[str]:
        """The names of what it was given and has not answered."""
        return list(self._given)

    def results(self) -> Iterator[tuple[str, Found]]:
        """What it has found meanwhile."""
        assert self._process.stdout is not None
        number = self._process.stdout.fileno()
        while not self._ended and select.select([number], [], [], 0)[0]:
            data = os.read(number, 1 << 16)
            self._ended = not data
            self._read += data
        while len(self._read) >= SIZE.size:
            (size,) = SIZE.unpack_from(self._read)
            if len(self._read) < SIZE.size + size:
                return
            name, found = pickle.loads(bytes(self._read[SIZE.size : SIZE.size + size]))
            del self._read[: SIZE.size + size]
            self._given.remove(name)
            yield name, found

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            _write(self._process.stdin, data)
        except OSError:
            self._ended = True


def _write(file: BinaryIO | Any, data: bytes) -> None:
    file.write(SIZE.pack(len(data)) + data)
    file.flush()


def main() -> None:
    """What the second process does: it answers until nothing more is asked."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the program prints is no answer
    asked = _next()
    while (given := _next()) is not None:
        name, choice = given
        try:
            _write(answers, pickle.dumps((name, found_of(asked, choice)), pickle.HIGHEST_PROTOCOL))
        except BrokenPipeError:  # whoever asked was killed
            os._exit(1)  # without another try to write what is left


def _next() -> Any:
    header = sys.stdin.buffer.read(SIZE.size)
    if len(header) < SIZE.size:
        return None
    return pickle.loads(sys.stdin.buffer.read(SIZE.unpack(header)[0]))

"""A second process that estimates configurations. It is a fresh Python: nothing of the caller's process is copied or changed.

It reads what is asked and then choices from its standard input, and writes what it finds to its standard output, both pickled.
Functions go by their names, so those of a script or a notebook, which only the caller's process has, are not sent. A thread of
the caller's process gives it one after the other, as that process estimates, too.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, BinaryIO, Final

from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.found import Found
from torchprof.estimation.planner.one_choice import Asked, found_of

__all__ = ["Answers", "Helper", "main", "sendable"]

SIZE: Final = struct.Struct("!Q")
LARGEST: Final = 2**30
"""Bytes of one value, at most."""
PROGRAM: Final = "from torchprof.estimation.planner.helper import main; main()"
OFTEN: Final = 0.25
"""Seconds after which it looks again whether a second process is worth it."""

Answers = SimpleQueue[tuple[str, Found] | None]
"""What helpers have found, by name; None where one has ended."""


class Named(pickle.Pickler):
    """Pickles what another process can find, too."""

    def reducer_override(self, value: Any) -> Any:
        if getattr(value, "__module__", None) == "__main__" or getattr(type(value), "__module__", None) == "__main__":
            raise pickle.PicklingError("it is in __main__")
        return NotImplemented


def sendable(asked: Asked, choices: Mapping[str, Choice]) -> tuple[bytes, dict[str, bytes]] | None:
    """What is asked, and each choice by its name, as they are sent to another process; None where they cannot be."""
    try:
        return _pickled(asked), {name: _pickled((name, choice)) for name, choice in choices.items()}
    except Exception:  # objects of the user's own may raise anything
        return None


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    Named(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class Helper:
    """A second process, until the block ends: it takes names that wait, and puts what it finds into the answers.

    Args:
        asked, choices: as `sendable` gives them.
        waiting: names of choices that nobody has begun. That of one whose process ended, as where there is not enough memory
            for two, is put back.
        answers: where what is found is put.
        worth: whether it is worth to begin, asked again and again until it is.
    """

    def __init__(
        self, asked: bytes, choices: Mapping[str, bytes], waiting: deque[str], answers: Answers, worth: Callable[[], bool]
    ) -> None:
        self._asked, self._choices, self._waiting, self._answers, self._worth = asked, choices, waiting, answers, worth
        # As they are now: an estimate that is running when the process begins may have set some for itself.
        self._variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="torchprof-plan", daemon=True)

    def __enter__(self) -> Helper:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._worth():
                if self._ended.wait(OFTEN):
                    return
            self._start()
            if self._process is not None:
                self._work(self._process)
        finally:
            self._answers.put(None)

    def _start(self) -> None:
        with self._lock, suppress(OSError):  # without a process, the others do its work
            if self._ended.is_set() or not self._waiting:
                return
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._variables,
                start_new_session=True,  # Ctrl-C is for this process
            )

    def _work(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        given: list[str] = []  # what it has not answered
        try:
            _write(process.stdin, self._asked)
            while self._waiting and not self._ended.is_set():
                given.append(self._waiting.popleft())
                _write(process.stdin, self._choices[given[0]])
                name, found = _read(process.stdout)
                given.remove(name)
                self._answers.put((name, found))
        except Exception:  # it has ended, or what it wrote is no answer; or another took the last one that waited
            self._waiting.extendleft(given)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()


def _write(file: BinaryIO | Any, data: bytes) -> None:
    file.write(SIZE.pack(len(data)) + data)
    file.flush()


def _read(file: BinaryIO | Any) -> Any:
    """The next value.

    Raises:
        EOFError: there is none, or it is no value.
    """
    header = file.read(SIZE.size)
    if len(header) < SIZE.size:
        raise EOFError
    (size,) = SIZE.unpack(header)
    data = file.read(size) if size <= LARGEST else b""
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


def main() -> None:
    """What the second process does: it answers until nothing more is asked."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the program prints is no answer
    with suppress(EOFError):
        asked = _read(sys.stdin.buffer)
        while True:
            name, choice = _read(sys.stdin.buffer)
            try:
                _write(answers, pickle.dumps((name, found_of(asked, choice)), pickle.HIGHEST_PROTOCOL))
            except BrokenPipeError:  # whoever asked was killed
                os._exit(1)  # without another try to write what is left

"""Estimates of several threads: they run one after another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Final
from weakref import WeakSet

from torchprof.errors import EstimateError
from torchprof.estimation.fake.callers import replaced

__all__ = ["one_at_a_time"]

WAITS: Final = (
    "a thread that the program has started while it is estimated asks for another estimate, or a summary on fake tensors: it "
    "would wait until the program has ended, and for ever where that waits for the thread. Ask before or after"
)
_LOCK: Final = threading.Lock()


class _Program:
    """The program that runs now, by its threads."""

    def __init__(self) -> None:
        self.own: threading.Thread | None = None
        self.started: WeakSet[threading.Thread] = WeakSet()

    def start(self, original: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
        """Start a thread, and remember it where one of the program's does so."""

        @wraps(original)
        def start(thread: threading.Thread) -> None:
            starter = threading.current_thread()
            if starter is self.own or starter in self.started:
                self.started.add(thread)
            original(thread)

        return start


_now: Final = _Program()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Held while a program runs on fake tensors: functions of PyTorch, its process groups and variables of the environment,
    which all threads share, are others by then, and are put back as they were found.

    Raises:
        EstimateError: this is a thread that the program has started, and for which it may wait.
    """
    own = threading.current_thread()
    if own is _now.own:  # the program calls it itself
        yield
        return
    if own in _now.started:
        raise EstimateError(WAITS)
    with _LOCK:
        try:
            _now.own = own
            with replaced(threading.Thread, "start", _now.start(threading.Thread.start)):
                yield
        finally:
            _now.own = None
            _now.started.clear()

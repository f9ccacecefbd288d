"""Ctrl-C in an estimate: it is raised before the next op, where it can be.

Python raises `KeyboardInterrupt` wherever it happens to be. On fake tensors that is often in a callback of a weak reference,
where it is lost, or below C++ of PyTorch that lets no exception through, where Python aborts.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["INTERRUPTS", "Interrupts"]

SOON: Final = 0.5
"""Seconds after which it is raised wherever Python is: where no op runs."""


class Interrupts:
    """Those of the process: Python gives signals to its main thread.

    Attributes:
        pending: whether there was one that was not raised yet.
    """

    def __init__(self) -> None:
        self.pending = False
        self._timer: threading.Timer | None = None

    @contextmanager
    def before_ops(self) -> Iterator[None]:
        """Until the block ends, Ctrl-C is raised by `check`; the second one at once. A handler of the program's own is left."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handler = signal.getsignal(signal.SIGINT)
        if handler is not signal.default_int_handler:
            yield
            return
        try:
            signal.signal(signal.SIGINT, self._noticed)
            yield
        finally:
            if signal.getsignal(signal.SIGINT) == self._noticed:
                signal.signal(signal.SIGINT, handler)
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt where one is pending."""
        if self.pending and threading.current_thread() is threading.main_thread():
            self.pending = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            raise KeyboardInterrupt

    def _noticed(self, number: int, frame: Any) -> None:
        if self.pending:
            self.check()
        self.pending = True
        self._timer = threading.Timer(SOON, self._again)
        self._timer.daemon = True
        self._timer.start()

    def _again(self) -> None:
        if self.pending:
            _thread.interrupt_main()


INTERRUPTS: Final = Interrupts()

"""What compiled functions do while a program is estimated.

A kernel that ``torch.compile`` has made reads the data of the tensors that it is given, and fake ones have none: the process
would die. So these functions are run as they were written, or compiled without kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchprof.estimation.torch_private import STANCE

__all__ = ["compiling_with", "never_compiling"]


@contextmanager
def never_compiling() -> Iterator[None]:
    """Compiled functions run as they were written, on this thread, until the block ends."""
    with _stance_of_this_thread(STANCE.DynamoStance("force_eager")):
        yield


@contextmanager
def compiling_with(backend: Any = None) -> Iterator[None]:
    """Compiled functions are compiled by this backend, or by their own, on this thread, until the block ends."""
    with _stance_of_this_thread(STANCE.DynamoStance("default", backend=backend)):
        yield


@contextmanager
def _stance_of_this_thread(own: Any) -> Iterator[None]:
    """As ``torch.compiler.set_stance``, which is for all threads."""
    eval_frame = STANCE.eval_frame
    before = eval_frame._stance
    stance = _StanceByThread(own, before)
    try:
        eval_frame._stance = stance
        yield
    finally:
        eval_frame._stance = before
        stance.end()


class _StanceByThread:
    """In place of Dynamo's stance: one for the thread that makes it, another for all others."""

    def __init__(self, own: Any, others: Any) -> None:
        self._own, self._others, self._thread = own, others, threading.get_ident()

    def end(self) -> None:
        """Be that of the others everywhere. A thread that has set a stance meanwhile will put this one back."""
        self._own = self._others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own if threading.get_ident() == self._thread else self._others, name)

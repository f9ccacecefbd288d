"""Arrays of numpy and of Python's own, which a program may write to unseen: they are copied beforehand."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable
from typing import Any, Final
from zlib import crc32

__all__ = ["ArrayState", "array_kinds"]

MOST_COPIED: Final = 64 * 2**20
"""Bytes. Of a larger array only a checksum is taken, which tells whether it was written to."""


class ArrayState:
    """What is in an array.

    Args:
        held: a ``numpy.ndarray``, ``bytearray`` or ``array.array``.
        elements: a view of all of it, to which it can be written.
        size: its bytes.
        copied: makes a copy of the elements, which can be assigned to them.
    """

    def __init__(self, held: Any, elements: Any, size: int, copied: Callable[[], Any]) -> None:
        self._held = held
        self._elements = elements
        self._copy = copied() if size <= MOST_COPIED else None
        self._checksum = None if self._copy is not None else _checksum(elements)

    def restore(self) -> str:
        """Put it back. Returns a name for it where that is not possible, otherwise nothing."""
        try:
            if self._copy is not None:
                self._elements[...] = self._copy
                return ""
            if self._checksum is None or _checksum(self._elements) == self._checksum:
                return ""
        except (ValueError, TypeError):  # it was made read-only, or has another size
            pass
        return f"{type(self._held).__name__} of {len(self._held):,} elements"


class _Bytes:
    """All of a ``bytearray`` or ``array.array``, assigned to as an array of numpy is."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __setitem__(self, _: Any, elements: Any) -> None:
        if self.held != elements:
            self.held[:] = elements


def array_kinds() -> dict[type, Callable[[Any], ArrayState]]:
    """The types of arrays, and what makes the state of one."""
    known: dict[type, Callable[[Any], ArrayState]] = {
        bytearray: lambda held: ArrayState(held, _Bytes(held), len(held), lambda: bytearray(held)),
        array.array: lambda held: ArrayState(held, _Bytes(held), len(held) * held.itemsize, lambda: held[:]),
    }
    if "numpy" in sys.modules:
        import numpy as np

        def of_numpy(held: Any) -> ArrayState:
            elements = np.asarray(held).view() if held.flags.writeable else np.empty(0)
            return ArrayState(held, elements, elements.nbytes, elements.copy)

        known[np.ndarray] = of_numpy
    return known


def _checksum(elements: Any) -> int | None:
    """None where it cannot be taken."""
    held = getattr(elements, "held", elements)
    try:
        return crc32(memoryview(held).cast("B"))
    except (TypeError, ValueError, BufferError):
        return None

"""Memory that is free, given back to the system: glibc keeps what was freed below what is in use."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["give_back"]


def give_back() -> None:
    """Give back what is free. Does nothing where the allocator is not glibc's."""
    _trim()(0)


@cache
def _trim() -> Callable[[int], Any]:
    try:
        found: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return lambda pad: 0
    return found

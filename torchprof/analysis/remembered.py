"""What several tables need of a trace: computed once, and kept for as long as the trace is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from torchprof.trace.trace import Trace

__all__ = ["remembered"]

Found = TypeVar("Found")


def remembered(compute: Callable[[Trace], Found]) -> Callable[[Trace], Found]:
    """The same function, which computes only once for a trace. What it returns must not refer to the trace, nor be changed."""
    kept: WeakKeyDictionary[Trace, Found] = WeakKeyDictionary()

    @wraps(compute)
    def once(trace: Trace) -> Found:
        if (found := kept.get(trace)) is None:
            found = kept[trace] = compute(trace)
        return found

    return once

"""What several tables need of a trace: computed once, and kept for as long as the trace is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace

__all__ = ["remembered"]

Further = ParamSpec("Further")
Found = TypeVar("Found")
Of = TypeVar("Of", Trace, Ranks)


def remembered(
    compute: Callable[Concatenate[Of, Further], Found],
) -> Callable[Concatenate[Of, Further], Found]:
    """The same function, which computes only once for a trace, or for `Ranks`, and further arguments.

    These are hashable and given by position. What it returns must not refer to the trace, which would never be freed then,
    nor be changed.
    """
    kept: WeakKeyDictionary[Of, dict[object, Found]] = WeakKeyDictionary()

    @wraps(compute)
    def once(trace: Of, /, *further: Further.args, **named: Further.kwargs) -> Found:
        of_trace = kept.setdefault(trace, {})
        if further not in of_trace:
            of_trace[further] = compute(trace, *further, **named)
        return of_trace[further]

    return once

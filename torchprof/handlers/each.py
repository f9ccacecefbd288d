"""Several handlers as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchprof.errors import ArgumentError
from torchprof.record.ready import needs_ops
from torchprof.wording import shown

__all__ = ["each"]

Handler = Callable[[Any], object]


def each(*handlers: Handler) -> Handler:
    """A handler that calls others, one after another. What one of them raises comes out when all have been called.

    Raises:
        ArgumentError: there are none, or one of them cannot be called.

    Example:
        >>> both = torchprof.handlers.each(torchprof.handlers.save("traces"), torchprof.handlers.chrome("traces"))
        >>> with torchprof.profile(model, on_trace_ready=both) as prof:
        ...     train_step(batches[0])
    """
    if not handlers:
        raise ArgumentError("each() takes handlers, such as each(torchprof.handlers.save(...), print), and was given none")
    for handler in handlers:
        if not callable(handler):
            raise ArgumentError(f"each() takes handlers, such as torchprof.handlers.save(...), not {shown(handler)}")

    def call_each(prof: Any) -> None:
        failure: Exception | None = None
        for handler in handlers:
            try:
                handler(prof)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    call_each.needs_ops = next(filter(None, map(needs_ops, handlers)), "")  # type: ignore[attr-defined]
    return call_each

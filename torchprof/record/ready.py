"""Handlers of traces that need single ops, which sums are not."""

from __future__ import annotations

from typing import Any

from torchprof.errors import ArgumentError

__all__ = ["check_ready", "needs_ops"]


def needs_ops(handler: Any) -> str:
    """What a handler that needs single ops is called, such as ``"handlers.chrome"``; of any other it is empty."""
    found = getattr(handler, "needs_ops", "")
    return found if isinstance(found, str) else ""


def check_ready(on_trace_ready: Any, aggregate: Any) -> None:
    """Raise ArgumentError where every trace that this handler is given would have sums only, and it needs single ops."""
    if aggregate is True and (name := needs_ops(on_trace_ready)):
        raise ArgumentError(
            f"on_trace_ready=torchprof.{name}(...) needs single ops, and aggregate=True keeps sums: say aggregate=False"
        )

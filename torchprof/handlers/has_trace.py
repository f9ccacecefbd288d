"""What handlers are called with."""

from __future__ import annotations

from typing import Protocol

from torchprof.trace.trace import Trace

__all__ = ["HasTrace"]


class HasTrace(Protocol):
    """`torchprof.profile`, and whatever else has a trace."""

    @property
    def trace(self) -> Trace:
        """The latest trace."""
        ...

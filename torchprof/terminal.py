"""Whether a stream is a terminal."""

from __future__ import annotations

from typing import Any

__all__ = ["is_terminal"]


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal. Standard streams may be replaced by any object, or be None."""
    return bool(getattr(stream, "isatty", lambda: False)())

"""Whether somebody watches what is printed."""

from __future__ import annotations

from typing import Any

__all__ = ["is_terminal"]


def is_terminal(stream: Any) -> bool:
    """Whether somebody watches; streams may be replaced by anything, or be None."""
    return bool(getattr(stream, "isatty", lambda: False)())

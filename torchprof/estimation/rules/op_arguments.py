"""Arguments of an op's call, by name."""

from __future__ import annotations

from typing import Any

__all__ = ["argument"]


def argument(op: Any, args: Any, kwargs: Any, name: str) -> Any:
    """What an op is called with, by position or name, or its default; None: it has no such argument."""
    for place, declared in enumerate(op._schema.arguments):
        if declared.name == name:
            return args[place] if place < len(args) else kwargs.get(name, declared.default_value)
    return None

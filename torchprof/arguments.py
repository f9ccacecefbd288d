"""Checks of arguments that several functions share."""

from __future__ import annotations

from typing import Any

from torchprof.errors import ArgumentError

__all__ = ["check_int"]


def check_int(name: str, value: Any, least: int) -> None:
    """Raise ArgumentError unless the argument of this name is an int (and no bool) of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ArgumentError(f"{name} must be an int of at least {least}, not {value!r}")

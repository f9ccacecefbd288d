"""Checks of arguments that several functions share."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from torchprof.errors import ArgumentError

__all__ = ["check_flag", "check_int", "is_int", "is_integral"]


def is_integral(value: Any) -> bool:
    """Whether this is an int or a whole number of another kind, such as numpy's, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_int(value: Any, least: int, most: int | None = None) -> bool:
    """Whether this is an int (and no bool) of at least ``least``, and at most ``most``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least and (most is None or value <= most)


def check_int(name: str, value: Any, least: int) -> None:
    """Raise ArgumentError unless the argument of this name is an int (and no bool) of at least ``least``."""
    if not is_int(value, least):
        raise ArgumentError(f"{name} must be an int of at least {least}, not {value!r}")


def check_flag(name: str, value: Any) -> bool:
    """The argument of this name, which must be True or False.

    Raises:
        ArgumentError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"{name}={value!r:.80} must be True or False")
    return bool(value)

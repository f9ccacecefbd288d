"""Numbers as the file has them: times in microseconds with their nanoseconds, numbers in quotes, what is no number."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any, Final

__all__ = ["NONE", "integer", "integers", "nanoseconds"]

NONE: Final = -1
"""Where the file has no number."""
_LARGEST: Final = 2**62


def nanoseconds(value: Any) -> int | None:
    """A time in us: an int, or text such as ``1712195495519761.132``, exactly. None of what is no time."""
    if type(value) is int:
        found = value * 1000
    elif type(value) is str:
        if value[-4:-3] == "." and value[:-4].isdecimal() and value[-3:].isdecimal():
            found = int(value[:-4] + value[-3:])
        else:
            try:
                found = int((Decimal(value) * 1000).to_integral_value())
            except (InvalidOperation, ValueError, OverflowError):
                return None
    else:
        return None
    return found if -_LARGEST < found < _LARGEST else None


def integer(value: Any, otherwise: int = NONE) -> int:
    """A whole number that fits in 64 bits, also one in quotes, or written with a fraction of 0 or in hexadecimal."""
    if type(value) is not int:
        if type(value) is not str:
            return otherwise
        try:
            value = int(value, 0) if value[:2] in ("0x", "0X") else int(value.removesuffix(".0"))
        except ValueError:
            return otherwise
    return value if -_LARGEST < value < _LARGEST else otherwise


def integers(values: Any, count: int, most: int) -> tuple[int, ...]:
    """So many whole numbers from 0 up to the most that there is room for; zeros where they are none."""
    if type(values) is list and len(values) == count:
        return tuple(min(max(integer(value, 0), 0), most) for value in values)
    return (0,) * count

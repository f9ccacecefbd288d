"""How messages write numbers with their nouns, and values that they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = ["counted", "nearest", "numbered", "shown"]

LONGEST: Final = 80
SHORTEST_BEGINNING: Final = 3
"""Letters by which a longer name is recognized."""


def counted(count: int, one: str, more: str = "") -> str:
    """A number with its noun, and with what else depends on it.

    Args:
        one: what stands after 1.
        more: what stands after any other number; by default the same with an ``s``.

    Example:
        >>> counted(1, "piece"), counted(1200, "piece"), counted(2, "launch was", "launches were")
        ('1 piece', '1,200 pieces', '2 launches were')
    """
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def numbered(numbers: Sequence[int], noun: str, most: int = 6) -> str:
    """Things by their numbers, at most so many of them.

    Example:
        >>> numbered([7], "step"), numbered([3, 8, 9], "step"), numbered(range(100), "step", 2)
        ('step 7', 'steps 3, 8 and 9', 'steps 0, 1 and 98 more')
    """
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    named = [str(number) for number in numbers[:most]]
    last = named.pop() if len(numbers) <= most else f"{len(numbers) - most:,} more"
    return f"{noun}s {', '.join(named)} and {last}"


def shown(value: Any, longest: int = LONGEST) -> str:
    """A value for a message, shortened to so many characters. One that cannot be written is named by its type."""
    try:
        text = repr(value)
    except Exception:  # ints of thousands of digits, and what a class of the user's own may raise
        return f"(of type {type(value).__name__})"
    return text if len(text) <= longest else text[: longest - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names was meant: one that begins so, or that is written nearly so; None where none is near.

    Example:
        >>> nearest("H100", ["H200", "H100-80GB"]), nearest("clals", ["time", "calls"])
        ('H100-80GB', 'calls')
    """
    from difflib import get_close_matches  # which takes its time to import

    lower = {each.lower(): each for each in known}
    if len(name) >= SHORTEST_BEGINNING and (longer := [each for each in lower if each.startswith(name.lower())]):
        return lower[min(longer, key=len)]
    found = get_close_matches(name.lower(), lower, 1, 0.6)
    return lower[found[0]] if found else None

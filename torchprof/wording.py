"""How messages write numbers with their nouns, and values that they name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = ["counted", "meant", "nearest", "numbered", "shortened", "shown", "written_so"]

LONGEST: Final = 80
SHORTEST_BEGINNING: Final = 3
"""Letters by which a longer name is recognized."""
MODEL: Final = re.compile(r"[A-Za-z0-9]*\d[A-Za-z0-9]*")
"""A word with a number in it, as the name of a model is."""


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


def shortened(text: str, longest: int = LONGEST) -> str:
    """The first so many characters of a text, whole words, in one line.

    Example:
        >>> shortened("tp 2 does not divide num_attention_heads 3", 30)
        'tp 2 does not divide...'
    """
    words = " ".join(text.split())
    if len(words) <= longest:
        return words
    whole = words[: longest - 2].rpartition(" ")[0]
    return (whole or words[: longest - 3]) + "..."


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


def written_so(name: str, known: Iterable[str]) -> str | None:
    """The known name that is this one but for upper and lower case, spaces, dashes and underscores; None where none is.

    Example:
        >>> written_so("rtx4090", ["RTX 4090", "H200"]), written_so("H20", ["RTX 4090", "H200"])
        ('RTX 4090', None)
    """
    return {_bare(each): each for each in known}.get(_bare(name))


def meant(name: str, known: Iterable[str]) -> str:
    """``": did you mean 'A100-40GB' or 'A100-80GB'?"``: the names of which this is a part, or whose model it names; empty where
    there are none. What is only spelled nearly so is another model.

    Example:
        >>> meant("NVIDIA H100 PCIe", ["H100-80GB", "H200"]), meant("A10G", ["A10"])
        (": did you mean 'H100-80GB'?", '')
    """
    listed, bare, models = list(known), _bare(name), {word.lower() for word in MODEL.findall(name)}
    found = [repr(each) for each in listed if len(bare) > 1 and bare in _bare(each)]
    found = found or [repr(each) for each in listed if models.intersection(MODEL.findall(each.lower())[:1])]
    if not found:
        return ""
    *others, last = found
    return f": did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()

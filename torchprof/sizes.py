"""Sizes of memory, as people write them: ``40GiB``, ``64 MB``."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["bytes_of"]

UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
LONGEST: Final = 100
"""Digits, of which floats can be made."""
AMOUNT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def bytes_of(text: str, plain: int | None = 1) -> int | None:
    """How many bytes a size is; None where it is none.

    Args:
        plain: bytes of the unit where none is written; None: one must be.

    Example:
        >>> bytes_of("40GiB"), bytes_of("1.5 kB"), bytes_of("64", plain=2**20), bytes_of("64 blocks")
        (42949672960, 1500, 67108864, None)
    """
    found = AMOUNT.fullmatch(text.strip())
    if not found or len(found[1]) >= LONGEST:
        return None
    factor = UNITS.get(found[2].lower()) if found[2] else plain
    return int(float(found[1]) * factor) if factor else None

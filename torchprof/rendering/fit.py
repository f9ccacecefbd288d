"""What of a table is shown where it is wider than there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["GAP", "SHORTEST", "WIDEST_NAME", "Fit", "fit"]

GAP: Final = 2
"""Between two columns."""
WIDEST_NAME: Final = 64
"""However much room there is."""
NO_LIMIT: Final = 1 << 30
SHORTEST: Final = 24
"""Texts are cut to this before a column is left out; further, where none is left to leave out."""
LEAST: Final = 8
"""Texts are not cut further than this as long as there is any column."""


class Fit(NamedTuple):
    """What is shown.

    Attributes:
        columns: those that are left, by position.
        longest: the columns of a terminal that a text or a note may take; a name, at most ``WIDEST_NAME`` of them.
    """

    columns: list[int]
    longest: int


def fit(width: int | None, names: int, sizes: Sequence[int], left: Sequence[bool], ranks: Sequence[int], notes: int) -> Fit:
    """Choose the columns that fit and how much is shown of texts. In this order, until it fits:

    1. names, texts and notes are cut, the longest first, as long as 24 characters are left of each;
    2. columns are left out, those of the smallest rank first and, of the same rank, the rightmost first;
    3. beside a last column, names, texts and notes are cut further.

    Args:
        width: that there is room for; None: no limit.
        names, notes: the widest of these; 0 where there are no notes.
        sizes, left, ranks: of every column: its width, whether its texts may be cut, its rank.
    """
    kept = list(range(len(sizes)))
    if width is None:
        return Fit(kept, NO_LIMIT)
    leaving = sorted(kept, key=lambda at: (ranks[at], -at))
    while True:
        texts = [min(names, WIDEST_NAME), *(sizes[at] for at in kept if left[at]), *([notes] if notes else [])]
        gaps = GAP * (len(kept) + bool(notes))
        longest = _longest(texts, width - gaps - sum(sizes[at] for at in kept if not left[at]))
        least = SHORTEST if len(kept) > 1 else LEAST
        if longest >= min(least, max(texts)) or not kept:
            return Fit(kept, max(longest, 1))
        kept.remove(leaving.pop(0))


def _longest(sizes: Sequence[int], room: int) -> int:
    """How long texts of these sizes may be, so that all of them have room."""
    rest = len(sizes)
    for size in sorted(sizes):
        if size * rest > room:
            return room // rest
        room -= size
        rest -= 1
    return NO_LIMIT

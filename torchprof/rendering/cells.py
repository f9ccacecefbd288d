"""How many columns of a terminal a text takes: CJK characters and emoji take two, combining characters none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["aligned", "cells_of", "joined", "width_of", "widths_of"]

ODD: Final = re.compile("[^ -~\u00a1-\u00ac\u00ae-\u02ff\u2500-\u259f…→]")
"""What may take another number of columns than one."""


def width_of(text: str) -> int:
    """The columns that a text takes."""
    return _odd_width(text) if ODD.search(text) else len(text)


def widths_of(texts: Sequence[str]) -> list[int]:
    """The columns that each of the texts takes."""
    if not ODD.search("".join(texts)):
        return list(map(len, texts))
    return list(map(width_of, texts))


def aligned(texts: Sequence[str], size: int, *, left: bool) -> list[str]:
    """The texts, filled with spaces to the same width."""
    if not ODD.search("".join(texts)):
        return [text.ljust(size) for text in texts] if left else [text.rjust(size) for text in texts]
    spaces = [" " * (size - width_of(text)) for text in texts]
    return [text + space if left else space + text for text, space in zip(texts, spaces, strict=True)]


def cells_of(text: str) -> Sequence[str]:
    """The text, a string for each column: an empty one follows a wide character, and combining characters join theirs."""
    if not ODD.search(text):
        return text
    cells: list[str] = []
    for char in text:
        taken = _odd_width(char)
        if taken:
            cells += [char] + [""] * (taken - 1)
        elif cells:
            at = len(cells) - 1
            while not cells[at]:
                at -= 1
            cells[at] += char
        else:
            cells.append(f" {char}")
    return cells


def joined(cells: Sequence[str]) -> str:
    """The text of a part of ``cells_of``; where the part ends inside a wide character, a space stands for its half."""
    if isinstance(cells, str):
        return cells
    parts = list(cells)
    if parts and not parts[0]:
        parts[0] = " "
    if parts and _odd_width(parts[-1]) > 1:
        parts[-1] = " "
    return "".join(parts)


def _odd_width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)

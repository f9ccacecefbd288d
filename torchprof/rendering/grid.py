"""A table as texts, before it is laid out: for a terminal by `text.py`, for a notebook by `html.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Entry", "Grid", "GridColumn", "Kind", "Part", "Parts", "Verbatim"]

Kind = Literal["root", "row", "dim", "failed"]
"""How a row looks: the root of a tree, one like others, one that has little to say, or the one that raised an exception."""


class GridColumn(NamedTuple):
    """A column beside the names.

    Attributes:
        header: stands above it.
        texts: of every row.
        left: whether they are aligned to the left; these are cut where there is no room.
        meaning: what a reader should know of it.
        rank: where there is no room, columns of the smallest rank are left out first and, of the same rank, the rightmost.
    """

    header: str
    texts: Sequence[str]
    left: bool = False
    meaning: str = ""
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as texts.

    Attributes:
        title: header of the names.
        names: of every row.
        columns: the others.
        kinds, notes: of every row; a note stands behind the last column.
        footer: lines below.
        depths: of every row of a tree; None where it is no tree.
        details: further lines below every row, each a text and a note; or None.
    """

    title: str
    names: Sequence[str]
    columns: Sequence[GridColumn]
    kinds: Sequence[Kind]
    notes: Sequence[str]
    footer: Sequence[str] = ()
    depths: Sequence[int] | None = None
    details: Sequence[Sequence[tuple[str, str]]] | None = None


class Verbatim(NamedTuple):
    """Text that is shown to the character."""

    text: str


class Entry(NamedTuple):
    """One of a numbered list.

    Attributes:
        number: in the list, from 1.
        title: one line.
        facts: what is said below, each with the word that it begins with; of a detail, this is empty. What is nothing but the
            address of a page is a link.
    """

    number: int
    title: str
    facts: Sequence[tuple[str, str]]


Part = Grid | Verbatim | Entry | str
"""What is printed is made of tables, of text to the character, of entries of lists, and of lines."""

Parts = Iterator[Part]

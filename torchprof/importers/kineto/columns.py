"""Events as columns of numbers: compact while the file is read, and numpy arrays afterwards.

Names, and the arguments of ops, are kept once each: a column has the row of their list. Times are nanoseconds as in the file.
All columns of one kind of event are in the order of the file.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from torchprof.importers.kineto.freed import give_back

__all__ = ["Columns", "Ints", "Numbered", "at", "field", "small"]

Ints = npt.NDArray[Any]
"""Whole numbers, of whatever size."""
T = TypeVar("T", bound=Hashable)

BLOCK: Final = 2**16
"""Rows of a block, at least."""
_CODES: Final = {"i8": "q", "i4": "i", "u1": "B"}


class Numbered(Generic[T]):
    """A list of different things, and the row of each."""

    def __init__(self) -> None:
        self.rows: dict[T, int] = {}

    def row(self, thing: T) -> int:
        """Its row; added if it is new."""
        found = self.rows.get(thing)
        if found is None:
            found = self.rows[thing] = len(self.rows)
        return found

    def list(self) -> list[T]:
        """The things, in order of their rows."""
        return list(self.rows)


class Columns:
    """Columns of equal length, which grow row by row.

    They grow in blocks, because what is moved again and again as it grows leaves holes in the memory of the process.
    """

    def __init__(self, **kinds: str) -> None:
        """
        Args:
            kinds: the dtype of every column: ``"i8"``, ``"i4"`` or ``"u1"``.
        """
        self._kinds = dict(kinds)
        self._names = tuple(kinds)
        self._blocks: list[list[array[int]]] = []
        self._in_blocks = 0
        self._begin()

    def _begin(self) -> None:
        self._columns = [array(_CODES[kind]) for kind in self._kinds.values()]
        self._appends = [column.append for column in self._columns]

    def append(self, *values: int) -> None:
        """Add a row, with a value for each column."""
        for append, value in zip(self._appends, values):  # noqa: B905  as many, and a check of it costs time
            append(value)

    def extend(self, rows: dict[str, npt.NDArray[Any]]) -> None:
        """Add rows, as arrays by name."""
        for name, column in zip(self._names, self._columns, strict=True):
            column.frombytes(np.ascontiguousarray(rows[name], dtype=self._kinds[name]).data.cast("B"))
        self.close_block()

    def close_block(self) -> None:
        """Begin another block if this one is full."""
        if len(self._columns[0]) >= BLOCK:
            self._blocks.append(self._columns)
            self._in_blocks += len(self._columns[0])
            self._begin()

    def __len__(self) -> int:
        return self._in_blocks + len(self._columns[0])

    def copy(self, name: str, first: int = 0) -> npt.NDArray[Any]:
        """A column from this row on."""
        at, found, before = self._names.index(name), [], 0
        for block in (*self._blocks, self._columns):
            if before + len(block[at]) > first:
                found.append(np.array(block[at][max(0, first - before) :], dtype=self._kinds[name]))
            before += len(block[at])
        return np.concatenate(found) if found else np.zeros(0, self._kinds[name])

    def take(self) -> dict[str, npt.NDArray[Any]]:
        """The columns by name as arrays. They are empty afterwards."""
        blocks, count = [*self._blocks, self._columns], len(self)
        self._blocks, self._in_blocks = [], 0
        self._begin()
        taken = {}
        for at, name in enumerate(self._names):
            column = taken[name] = np.empty(count, dtype=self._kinds[name])
            first = 0
            for block in blocks:
                last = first + len(block[at])
                column[first:last] = block[at]
                block[at] = array("b")  # its memory is free for the next column
                first = last
            if len(blocks) > 1:
                give_back()
        return taken


def at(column: Ints, rows: Ints, otherwise: int = -1) -> Ints:
    """The values in these rows; the other one for a row of -1."""
    if not len(column):
        return np.full(len(rows), otherwise, dtype=np.int64)
    kind = np.dtype(np.int64) if column.dtype.kind == "u" and otherwise < 0 else column.dtype
    found: Ints = np.where(rows >= 0, column[rows], kind.type(otherwise))
    return found


def field(kinds: Sequence[tuple[Any, ...]], layout: Sequence[str], name: str) -> Ints:
    """One value of every kind."""
    at = layout.index(name)
    width = np.shape(kinds[0][at]) if kinds else ()
    return np.array([kind[at] for kind in kinds], dtype=np.int64).reshape(len(kinds), *width)


def small(values: Ints) -> Ints:
    """The same numbers in 32 bits, if they fit."""
    return values.astype(np.int32) if np.abs(values).max(initial=0) < 2**31 else values

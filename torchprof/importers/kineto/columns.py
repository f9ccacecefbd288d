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

__all__ = ["Columns", "Ints", "Numbered", "field", "small"]

Ints = npt.NDArray[Any]
"""Whole numbers, of whatever size."""
T = TypeVar("T", bound=Hashable)

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
    """Columns of equal length, which grow row by row."""

    def __init__(self, **kinds: str) -> None:
        """
        Args:
            kinds: the dtype of every column: ``"i8"``, ``"i4"`` or ``"u1"``.
        """
        self._names = tuple(kinds)
        self._columns = [array(_CODES[kind]) for kind in kinds.values()]
        self._kinds = dict(kinds)
        self._appends = [column.append for column in self._columns]

    def append(self, *values: int) -> None:
        """Add a row, with a value for each column."""
        for append, value in zip(self._appends, values):  # noqa: B905  as many, and a check of it costs time
            append(value)

    def __len__(self) -> int:
        return len(self._columns[0])

    def extend(self, rows: dict[str, npt.NDArray[Any]]) -> None:
        """Add rows, as arrays by name."""
        for name, column in zip(self._names, self._columns, strict=True):
            column.frombytes(np.ascontiguousarray(rows[name], dtype=self._kinds[name]).data.cast("B"))

    def copy(self, name: str, first: int = 0) -> npt.NDArray[Any]:
        """A column from this row on."""
        return np.array(self._columns[self._names.index(name)][first:], dtype=self._kinds[name])

    def take(self) -> dict[str, npt.NDArray[Any]]:
        """The columns by name as arrays, which take their memory over."""
        found = {
            name: np.frombuffer(column, dtype=self._kinds[name]) if len(column) else np.zeros(0, self._kinds[name])
            for name, column in zip(self._names, self._columns, strict=True)
        }
        self._columns, self._appends = [array("q") for _ in self._names], []
        return found


def field(kinds: Sequence[tuple[Any, ...]], layout: Sequence[str], name: str) -> Ints:
    """One value of every kind."""
    at = layout.index(name)
    width = np.shape(kinds[0][at]) if kinds else ()
    return np.array([kind[at] for kind in kinds], dtype=np.int64).reshape(len(kinds), *width)


def small(values: Ints) -> Ints:
    """The same numbers in 32 bits, if they fit."""
    return values.astype(np.int32) if np.abs(values).max(initial=0) < 2**31 else values

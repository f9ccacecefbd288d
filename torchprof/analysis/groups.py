"""Rows that agree in several columns, as groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Groups"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows grouped by what they have in common, in the order of the values of the first column, then of the second, ...

    Attributes:
        first: of each group, its first row.
        of: of each row, its group.
        count: of each group, its number of rows.
    """

    first: Ints
    of: Ints
    count: Ints

    @classmethod
    def by(cls, columns: Sequence[npt.NDArray[np.integer]]) -> Groups:
        """Group rows by integer columns of equal length."""
        key = np.zeros(len(columns[0]), dtype=np.int64)
        size = 1
        for column in columns:
            if not len(column):
                break
            least = int(column.min())
            values = int(column.max()) - least + 1
            if size * values > 2**62:  # numbers of the groups so far take less room
                key = np.unique(key, return_inverse=True)[1].astype(np.int64)
                size = int(key.max()) + 1
            key = key * values + (column.astype(np.int64) - least)
            size *= values
        _, first, of, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        return cls(first, of, count)

    def sums(self, values: npt.ArrayLike) -> Ints:
        """Of each group, the sum of its values; exact below 2**53."""
        sums = np.bincount(self.of, weights=np.asarray(values, dtype=np.float64), minlength=len(self.first))
        return sums.astype(np.int64)

    def least(self, values: Ints) -> Ints:
        """Of each group, the least of its values."""
        least = np.full(len(self.first), np.iinfo(np.int64).max)
        np.minimum.at(least, self.of, values)
        return least

    def most(self, values: Ints) -> Ints:
        """Of each group, the greatest of its values, at least 0."""
        most = np.zeros(len(self.first), dtype=np.int64)
        np.maximum.at(most, self.of, values)
        return most

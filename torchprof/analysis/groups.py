"""Rows grouped by several columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Groups"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of rows that have equal values in all the given columns. Groups are sorted by these values.

    Attributes:
        first: the first row of each group.
        of: the group of each row.
        count: the number of rows in each group.
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
            smallest = int(column.min())
            values = int(column.max()) - smallest + 1
            if size * values > 2**62:  # too large for an int64: number the groups found so far
                key = np.unique(key, return_inverse=True)[1].astype(np.int64)
                size = int(key.max()) + 1
            key = key * values + (column.astype(np.int64) - smallest)
            size *= values
        _, first, of, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        return cls(first, of, count)

    def sums(self, values: npt.ArrayLike) -> Ints:
        """The sum of the values of each group; exact below 2**53."""
        sums = np.bincount(self.of, weights=np.asarray(values, dtype=np.float64), minlength=len(self.first))
        return sums.astype(np.int64)

    def minimum(self, values: Ints) -> Ints:
        """The smallest value of each group."""
        minimum = np.full(len(self.first), np.iinfo(np.int64).max)
        np.minimum.at(minimum, self.of, values)
        return minimum

    def maximum(self, values: Ints) -> Ints:
        """The largest value of each group, at least 0."""
        maximum = np.zeros(len(self.first), dtype=np.int64)
        np.maximum.at(maximum, self.of, values)
        return maximum

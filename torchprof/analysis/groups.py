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
        key, size = np.zeros(len(columns[0]), dtype=np.int64), 1
        for column in columns:
            if not len(column):
                break
            smallest = int(column.min())
            values = int(column.max()) - smallest + 1
            code = column.astype(np.int64) - smallest
            if values > _most(key):
                code, values = _numbered(code, values)
            if size * values > _most(key):
                key, size = _numbered(key, size)
            key = key * values + code if size > 1 else code
            size *= values
        of, groups = _numbered(key, size)
        first = np.empty(groups, dtype=np.int64)
        first[of[::-1]] = np.arange(len(of))[::-1]  # of each group, the last one that is written: its first row
        return cls(first, of, np.bincount(of, minlength=groups))

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


def _most(key: Ints) -> int:
    """Up to how many values are cheaper to look up than to sort."""
    return 2 * len(key) + 1024


def _numbered(key: Ints, size: int) -> tuple[Ints, int]:
    """The values of the key, which are below ``size``, numbered in their order, and how many there are."""
    if size > _most(key):
        found, number = np.unique(key, return_inverse=True)
        return number.astype(np.int64, copy=False), len(found)
    is_there = np.zeros(size, dtype=np.bool_)
    is_there[key] = True
    numbers = np.cumsum(is_there)
    return numbers[key] - 1, int(numbers[-1]) if len(numbers) else 0

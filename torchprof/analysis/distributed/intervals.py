"""Sets of moments, as intervals that are in order and do not overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Intervals"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Times in nanoseconds: from every start up to its end.

    Example:
        >>> Intervals.of(np.array([0, 5, 20]), np.array([10, 12, 30])).length
        22
    """

    start: Ints
    end: Ints

    @classmethod
    def of(cls, start: Ints, end: Ints) -> Intervals:
        """All moments that any of these spans has. They may overlap and come in any order."""
        known = end > start
        start, end = start[known].astype(np.int64), end[known].astype(np.int64)
        order = np.argsort(start, kind="stable")
        start, end = start[order], np.maximum.accumulate(end[order])
        begins = np.concatenate([[True], start[1:] > end[:-1]])[: len(start)]
        return cls(start[begins], end[np.append(begins[1:], True)[: len(end)]])

    @property
    def length(self) -> int:
        """Nanoseconds altogether."""
        return int((self.end - self.start).sum())

    def __and__(self, other: Intervals) -> Intervals:
        """What both have."""
        times = np.concatenate([self.start, other.start, self.end, other.end])
        starts = len(self.start) + len(other.start)
        change = np.where(np.arange(len(times)) < starts, 1, -1)
        order = np.argsort(times, kind="stable")
        both = np.cumsum(change[order])[:-1] == 2
        times = times[order]
        return Intervals.of(times[:-1][both], times[1:][both])

    def without(self, other: Intervals) -> int:
        """Nanoseconds that this has, and the other has not."""
        return self.length - (self & other).length

    def before(self, times: Ints) -> Ints:
        """For each of these times, nanoseconds that this has before it.

        Example:
            >>> Intervals.of(np.array([0, 20]), np.array([10, 30])).before(np.array([5, 15, 40])).tolist()
            [5, 10, 20]
        """
        whole = np.concatenate([[0], np.cumsum(self.end - self.start)])
        at = np.searchsorted(self.start, times, side="right")
        begun = np.append(self.end, 0)[at - 1]
        over = np.where(at > 0, np.maximum(begun - times, 0), 0)
        found: Ints = whole[at] - over
        return found

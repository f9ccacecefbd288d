"""Ranges of Python functions, as they are read: there may be millions, and few of them ran an op."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import numpy as np

from torchprof.importers.kineto.columns import Columns, Ints, Numbered

__all__ = ["Frames"]

AT_ONCE: Final = 2**17
"""Ranges that are looked at together."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


class Frames:
    """Ranges of Python functions. From time to time those are dropped in which no op began.

    A range is dropped when the file has gone past it: what torch.profiler writes has all ops before it, and what is in order of
    time those inside it.

    Attributes:
        count: how many ranges there were.
        functions: their names.
        late: ops that came when a range around them may have been dropped.
    """

    def __init__(self, ops_since: Callable[[int], tuple[Ints, Ints]]) -> None:
        """
        Args:
            ops_since: gives the starts and threads of the ops that were read from this row on.
        """
        self.count = self.late = 0
        self.functions = Numbered[str]()
        self._ops_since = ops_since
        self._kept, self._new = self._columns(), self._columns()
        self._limit = AT_ONCE
        self._seen = 0  # ops when ranges were dropped
        self._starts: dict[int, Ints] = {}  # of these ops, by thread
        self._dropped_until: dict[int, int] = {}

    def add(self, start: int, end: int, name: str, thread: int) -> None:
        """Keep a range."""
        self.count += 1
        self._new.append(start, end, self.functions.row(_name(name)), thread)
        if len(self._new) >= self._limit:
            self._drop()
            self._limit = AT_ONCE + len(self._new)

    def take(self) -> dict[str, Ints]:
        """The ranges in which ops began, and their functions and threads. Ends the reading."""
        self._look_at_ops()
        found = self._new.take()
        holds = self._holds_op(found)
        kept = self._kept.take()
        self._starts.clear()
        return {name: np.concatenate([kept[name], values[holds]]) for name, values in found.items()}

    @staticmethod
    def _columns() -> Columns:
        return Columns(start="i8", end="i8", function="i4", thread="i4")

    def _drop(self) -> None:
        self._look_at_ops()
        found = self._new.take()
        last = {thread: int(starts[-1]) for thread, starts in self._starts.items()}
        holds, thread = self._holds_op(found), found["thread"]
        read_until = np.array([last.get(row, -(2**62)) for row in range(int(thread.max()) + 1)])[thread]
        past = found["end"] <= read_until
        self._kept.extend({name: values[holds] for name, values in found.items()})
        self._new.extend({name: values[~holds & ~past] for name, values in found.items()})
        dropped = ~holds & past
        for row in np.unique(thread[dropped]).tolist():
            until = int(found["end"][dropped & (thread == row)].max())
            self._dropped_until[row] = max(until, self._dropped_until.get(row, until))

    def _look_at_ops(self) -> None:
        """Put the ops in order that came since the last time."""
        start, thread = self._ops_since(self._seen)
        self._seen += len(start)
        for row in np.unique(thread).tolist():
            mine = start[thread == row]
            if row in self._dropped_until:
                self.late += int((mine < self._dropped_until[row]).sum())
            self._starts[row] = np.sort(np.append(self._starts.get(row, mine[:0]), mine))

    def _holds_op(self, found: dict[str, Ints]) -> Ints:
        """Of every range, whether an op began in it."""
        holds = np.zeros(len(found["start"]), dtype=np.bool_)
        for row in np.unique(found["thread"]).tolist():
            mine = np.flatnonzero(found["thread"] == row)
            starts = self._starts.get(row, np.zeros(0, dtype=np.int64))
            first = np.searchsorted(starts, found["start"][mine], side="left")
            holds[mine] = np.searchsorted(starts, found["end"][mine], side="right") > first
        return holds


def _name(name: str) -> str:
    """The name of a function; of a method of an object without the address, which is another for every object."""
    return _ADDRESS.sub("", name) if name[:1] == "<" else name

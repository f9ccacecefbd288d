"""What was held at the moments when the most was: memory over time, told with few of its many changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.allocator_totals import AllocatorTotals
from torchprof.analysis.memory.categories import CATEGORIES, UNTRACKED
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.memory.modules import NO_MODULE
from torchprof.trace.schema import Rows

__all__ = ["Alive", "Moments", "moments"]

Ints = npt.NDArray[np.int64]

MOST_SUMS: Final = 2**24
"""Groups times moments that are looked at, at most."""


class Alive(NamedTuple):
    """What one place held of one category at a moment.

    A place is the path of a module, empty for the root and ``"(no module)"`` for none; of a snapshot, a line.
    """

    place: str
    category: str
    bytes: int


class Moments(NamedTuple):
    """What was held at some moments, in their order.

    Attributes:
        times: in nanoseconds, ``[n]``; of a snapshot, entries of its history.
        held: bytes by category, ``[n, categories]``: they add up to what was held at that very moment.
        alive: of every moment, what held the most.
        changes: how many allocations and frees every moment stands for, at most: it is the one of the most held among them.
    """

    times: Ints
    held: Ints
    alive: list[list[Alive]]
    changes: int


def moments(
    allocations: Rows,
    names: list[tuple[str, str]],
    group: Ints,
    changes: Changes,
    totals: AllocatorTotals | None,
    points: int,
    named: int,
    categories: Sequence[str] = CATEGORIES,
) -> Moments:
    """See `MemoryAccount.moments`.

    Args:
        names: place and category of every group of allocations.
        group: the group of each.
    """

    def untracked_at(times: Ints) -> Ints:
        return totals.untracked_at(times) if totals is not None else np.zeros(len(times), dtype=np.int64)

    points = min(points, max(2, MOST_SUMS // max(len(names), 1)))
    at, each = _moments_of_most(changes.held + untracked_at(changes.times), points)
    times = np.append(0, changes.times[at]) if len(changes) else np.zeros(1, dtype=np.int64)
    untracked = untracked_at(times)
    before = allocations["start"] < 0
    held = np.zeros(len(names))
    held += np.bincount(group[before], weights=allocations["bytes"][before], minlength=len(names))
    of_category = np.array([categories.index(name) for _, name in names], dtype=np.int64)
    by_category = np.zeros((len(times), len(categories)), dtype=np.int64)
    alive: list[list[Alive]] = []
    done = 0
    for row, until in enumerate([0, *(at + 1).tolist()]):
        part = slice(done, until)
        held += np.bincount(group[changes.rows[part]], weights=changes.bytes[part], minlength=len(names))
        done = until
        by_category[row] = np.bincount(of_category, weights=held, minlength=len(categories))
        most = np.argsort(-held, kind="stable") if len(held) <= named else np.argpartition(-held, named)[:named]
        found = [Alive(names[which][0], names[which][1], int(held[which])) for which in most.tolist() if held[which] > 0]
        if untracked[row] > 0:
            found.append(Alive(NO_MODULE, UNTRACKED, int(untracked[row])))
        alive.append(sorted(found, key=lambda each: -each.bytes)[:named])
    if untracked.any():
        by_category[:, categories.index(UNTRACKED)] += untracked
    return Moments(times, by_category, alive, each)


def _moments_of_most(held: Ints, points: int) -> tuple[Ints, int]:
    """The changes after which the most was held, each of an equal number of changes, and the last one; and that number."""
    count = len(held)
    if not count:
        return np.zeros(0, dtype=np.int64), 1
    first = np.unique(np.linspace(0, count, min(points, count), endpoint=False).astype(np.int64))
    lengths = np.diff(np.append(first, count))
    part = np.repeat(np.arange(len(first)), lengths)
    hits = np.flatnonzero(held == np.maximum.reduceat(held, first)[part])
    _, firsts = np.unique(part[hits], return_index=True)
    return np.unique(np.append(hits[firsts], count - 1)), int(lengths.max())

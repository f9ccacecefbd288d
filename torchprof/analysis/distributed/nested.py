"""Which of nested spans is the innermost at every moment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Rows

__all__ = ["innermost", "innermost_at"]

Ints = npt.NDArray[np.int64]


def innermost(spans: Rows, ends: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """From every time on, the row of the span that is innermost; -1: none is open.

    Args:
        spans: ``ops`` or ``module_calls``: rows with a start and a parent, which has a lower row.
        ends: of all spans.
        rows: those of one thread.

    Returns:
        Times, in order, and rows.
    """
    rows = rows[ends[rows] > spans["start"][rows]]
    times = np.concatenate([ends[rows], spans["start"][rows]])
    owner = np.concatenate([spans["parent"][rows].astype(np.int64), rows])
    # At one time, what ends comes before what begins, and the inner before the outer, or the outer before the inner.
    order = np.lexsort((np.concatenate([-rows, rows]), np.repeat([0, 1], len(rows)), times))
    times, owner = times[order], owner[order]
    last = np.append(times[1:] > times[:-1], True)[: len(times)]
    return times[last], owner[last]


def innermost_at(times: Ints, found: tuple[Ints, Ints]) -> Ints:
    """The row that is innermost from each of these times on, of what `innermost` found."""
    at = np.searchsorted(found[0], times, side="right") - 1
    return np.where(at >= 0, np.append(found[1], -1)[at], -1)

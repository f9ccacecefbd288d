"""What two stacks of Python have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.groups import Groups
from torchprof.trace.trace import Trace

__all__ = ["common_stacks", "depths"]

Ints = npt.NDArray[np.int64]


def common_stacks(trace: Trace, before: Ints, after: Ints) -> tuple[Ints, Ints]:
    """The innermost function that is in both of two stacks, called by the same lines: its row in either; -1: there is none.

    The two rows differ by the line that was running.
    """
    pairs = Groups.by([before, after])
    parent, function = (np.append(trace.stacks[name].astype(np.int64), -1) for name in ("parent", "function"))
    activation = Groups.by([parent, function]).of  # rows that differ by line alone are the same
    depth = depths(trace)
    a, b = before[pairs.first], after[pairs.first]
    while True:
        differ = (a >= 0) & (b >= 0) & (activation[a] != activation[b])
        if not differ.any():
            break
        up_a, up_b = differ & (depth[a] >= depth[b]), differ & (depth[b] >= depth[a])
        a, b = np.where(up_a, parent[a], a), np.where(up_b, parent[b], b)
    none = (a < 0) | (b < 0)
    return np.where(none, -1, a)[pairs.of], np.where(none, -1, b)[pairs.of]


def depths(trace: Trace) -> Ints:
    """How many rows of ``trace.stacks`` are around each; one more value, -1, of none."""
    found: list[int] = []
    for above in trace.stacks["parent"].tolist():
        found.append(found[above] + 1 if above >= 0 else 0)
    return np.array([*found, -1], dtype=np.int64)

"""Leaks: memory that a step allocated and that was still held when the step after it had ended."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.categories import CATEGORIES, MEANT_TO_STAY
from torchprof.analysis.memory.modules import AllocationModules
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["Leak", "find_leaks"]


@dataclass(frozen=True, slots=True)
class Leak:
    """Allocations of one op in one module that were still held when the step after theirs had ended.

    Attributes:
        op, module, category: what allocated them, and what they are.
        count, bytes: their number, and the sum of their bytes.
        steps: the number of steps in which it happened.
    """

    op: str
    module: str
    category: str
    count: int
    bytes: int
    steps: int


def find_leaks(trace: Trace, allocations: Rows, category: npt.NDArray[np.int64], modules: AllocationModules) -> list[Leak]:
    """The leaks among these rows of ``trace.allocations``, most bytes first.

    Parameters, buffers, gradients and the state of optimizers are meant to stay, and are not listed.
    """
    steps = trace.steps
    if len(steps) < 2:
        return []
    step = np.searchsorted(steps["start"], allocations["start"], side="right") - 1
    has_next_step = (allocations["start"] >= 0) & (step >= 0) & (step < len(steps) - 1)
    end_of_next = steps["end"][np.minimum(step + 1, len(steps) - 1)]
    held = (allocations["end"] < 0) | (allocations["end"] > end_of_next)
    meant_to_stay = np.isin(category, [CATEGORIES.index(name) for name in MEANT_TO_STAY])
    names = trace.op_names
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for row in np.flatnonzero(has_next_step & held & ~meant_to_stay).tolist():
        op = int(allocations["op"][row])
        name = trace.strings[int(names[op])] if op >= 0 else ""
        groups[name, modules.path(row), CATEGORIES[category[row]]].append(row)
    leaks = [
        Leak(*key, len(rows), int(allocations["bytes"][rows].sum()), len(set(step[rows].tolist())))
        for key, rows in groups.items()
    ]
    return sorted(leaks, key=lambda leak: -leak.bytes)

"""What holds more and more from step to step.

A leak is growth. A *place* is an op in a module; it holds the blocks that it allocated while recording and that are not freed.
The steps are divided into three thirds, in order. A place leaks if what it holds

    has grown by the end of every third: more than nothing at the end of the first, more than that at the end of the second, and
    so on;
    has grown within the last third: more at the end of its last step than at the end of its first;
    does not fall back: it is at the end of no step of a third less than it was on average in the third before.

Of the steps, the first ones are left out in which a place held nothing (an average that is kept from its second step on), as
long as four remain. Where fewer remain, and it held more in each of them, there are too few steps to tell.

What is merely held longer than a step does not grow: a batch that is loaded ahead, an average that is replaced, a mask that is
made once. What is emptied less often than once in every third of the recorded steps cannot be told from a leak. Bytes that vary
at random (a batch of another length that is loaded ahead) pass by chance in 1 of 25 cases where there are four steps, in 1 of
300 where there are nine, and in none where there are many.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.modules import NO_MODULE, AllocationModules
from torchprof.analysis.memory.ops import outermost_op_names
from torchprof.analysis.memory.steps import held_at_ends
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["FEWEST_STEPS", "Leak", "find_leaks", "keeps_growing", "may_grow", "too_few_steps", "why_unknown"]

Ints = npt.NDArray[np.int64]

FEWEST_STEPS: Final = 4
"""With fewer steps there is no telling what keeps growing: the last third must have two."""

MOST_NAMED: Final = 3

NEEDED: Final = ("allocations", "ops", "module_calls")
"""Tables without all of whose rows no place can be said to leak."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A place, an op in a module, that held more and more at the ends of steps.

    Attributes:
        op: the outermost op that allocated it, such as ``aten::clone``; empty for none.
        module: path of the module: empty for the root, ``"(no module)"`` for none.
        category: what most of the bytes are.
        count, bytes: the blocks that it held at the end of the last step.
        steps: the number of steps at whose end it held more than at the end of the step before.
        growth: bytes per step, from the end of the first step at whose end it held any to the end of the last.
    """

    op: str
    module: str
    category: str
    count: int
    bytes: int
    steps: int
    growth: float


def why_unknown(trace: Trace) -> str | None:
    """Why it cannot be told what leaks; None where it can."""
    if lost := [table.replace("_", " ") for table in NEEDED if trace.losses.get(table)]:
        return f"rows of {', '.join(lost)} were lost, and what was freed may be among them"
    if len(trace.steps) < FEWEST_STEPS:
        return f"too few steps to tell: {FEWEST_STEPS} are needed, and {len(trace.steps)} were recorded"
    return None


def keeps_growing(held: Ints) -> bool:
    """Whether bytes held at the ends of steps, at least `FEWEST_STEPS`, grow in every third of the steps: see above."""
    since = _since_held(held)
    held = since if len(since) >= FEWEST_STEPS else held
    count = len(held)
    thirds = held[: count // 3], held[count // 3 : 2 * count // 3], held[2 * count // 3 :]
    at_ends = [0, *(int(third[-1]) for third in thirds)]
    grown = all(before < after for before, after in pairwise(at_ends))
    falls_back = any(before.mean() > after.min() for before, after in pairwise(thirds))
    return grown and not falls_back and bool(thirds[-1][-1] > thirds[-1][0])


def may_grow(held: Ints) -> bool:
    """Whether bytes held at the ends of steps began so late, and grew in every step since, that there is no telling."""
    since = _since_held(held)
    return 1 < len(since) < FEWEST_STEPS and bool((np.diff(since) > 0).all())


def _since_held(held: Ints) -> Ints:
    """Without the first steps, at whose ends nothing was held."""
    return np.trim_zeros(held, "f")


def too_few_steps(leaks: list[Leak]) -> str | None:
    """Why it cannot be told whether these leak that `may_grow`; None for none."""
    if not leaks:
        return None
    named = ", ".join(_named(leak) for leak in leaks[:MOST_NAMED])
    more = f" and {len(leaks) - MOST_NAMED} more" if len(leaks) > MOST_NAMED else ""
    held = f"{named}{more} held nothing at first, and more in each step since"
    return f"too few steps to tell: {held}, of which {FEWEST_STEPS} are needed"


def _named(leak: Leak) -> str:
    return (leak.op or "(no op)") + (f" in {leak.module}" if leak.module not in ("", NO_MODULE) else "")


def find_leaks(trace: Trace, allocations: Rows, category: Ints, modules: AllocationModules) -> tuple[list[Leak], list[Leak]]:
    """The leaks among these rows of ``trace.allocations``, and what `may_grow`, the most growth first.

    Both are empty where it cannot be told: see `why_unknown`.
    """
    if why_unknown(trace) is not None:
        return [], []
    count = len(trace.steps)
    first, last = held_at_ends(trace.steps, allocations)
    at_end = np.flatnonzero((first < count) & (last == count))  # a place that holds nothing at the end does not grow
    held_rows = np.flatnonzero(first < last)
    places = _Places(trace, allocations, held_rows, modules)
    growing = {places.place(row) for row in at_end[first[at_end] > 2 * count // 3].tolist()}
    rows_of: dict[tuple[str, str], list[int]] = {place: [] for place in sorted(growing)}
    for row in held_rows.tolist() if rows_of else ():
        if (place := places.place(row)) in rows_of:
            rows_of[place].append(row)
    found: list[Leak] = []
    unclear: list[Leak] = []
    for (op, module), of_place in rows_of.items():
        rows = np.array(of_place)
        size = allocations["bytes"][rows]
        change = np.bincount(first[rows], weights=size, minlength=count + 1)
        held = np.cumsum(change - np.bincount(last[rows], weights=size, minlength=count + 1))[:count].astype(np.int64)
        if (grows := keeps_growing(held)) or may_grow(held):
            since = _since_held(held)
            still = last[rows] == count
            by_category = np.bincount(category[rows][still], weights=size[still], minlength=len(CATEGORIES))
            growth = float(since[-1] - since[0]) / (len(since) - 1)
            rises = int((np.diff(held, prepend=0) > 0).sum())
            kind = CATEGORIES[int(by_category.argmax())]
            leak = Leak(op, module, kind, int(still.sum()), int(held[-1]), rises, growth)
            (found if grows else unclear).append(leak)
    found.sort(key=lambda leak: -leak.growth)
    unclear.sort(key=lambda leak: -leak.growth)
    return found, unclear


class _Places:
    """The op and the module that each of these allocations belongs to."""

    def __init__(self, trace: Trace, allocations: Rows, rows: Ints, modules: AllocationModules) -> None:
        self._op, self._modules = allocations["op"], modules
        ops = np.unique(self._op[rows])
        self._names = dict(zip(ops.tolist(), outermost_op_names(trace, ops), strict=True))

    def place(self, row: int) -> tuple[str, str]:
        return self._names[int(self._op[row])], self._modules.path(row)

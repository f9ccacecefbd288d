"""What holds more and more from step to step.

A leak is growth. A *place* is an op in a module and, where it is known, in a line of the program; it holds the blocks that it
allocated while recording and that are not freed.
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

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.modules import NO_MODULE, AllocationModules
from torchprof.analysis.memory.ops import outermost_op_names
from torchprof.analysis.memory.steps import held_at_ends
from torchprof.analysis.steps import how_to_mark_steps
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = [
    "FEWEST_STEPS",
    "GrownPlace",
    "Leak",
    "find_leaks",
    "grown_places",
    "keeps_growing",
    "may_grow",
    "not_enough",
    "too_few_steps",
    "why_unknown",
]

Ints = npt.NDArray[np.int64]
Place = TypeVar("Place", tuple[str, str, str], int)

FEWEST_STEPS: Final = 4
"""With fewer steps there is no telling what keeps growing: the last third must have two."""

MOST_NAMED: Final = 3

NEEDED: Final = ("allocations", "ops", "module_calls")
"""Tables without all of whose rows no place can be said to leak."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A place, an op in a module and a line, that held more and more at the ends of steps.

    Attributes:
        op: the outermost op that allocated it, such as ``aten::clone``; empty for none.
        module: path of the module: empty for the root, ``"(no module)"`` for none.
        category: what most of the bytes are.
        count, bytes: the blocks that it held at the end of the last step.
        steps: the number of steps at whose end it held more than at the end of the step before.
        growth: bytes per step, from the end of the first step at whose end it held any to the end of the last.
        line: of the program, that made these blocks, as ``train.py:31``; empty where it is not known.
    """

    op: str
    module: str
    category: str
    count: int
    bytes: int
    steps: int
    growth: float
    line: str = ""


def why_unknown(trace: Trace) -> str | None:
    """Why it cannot be told what leaks; None where it can."""
    if lost := [table.replace("_", " ") for table in NEEDED if trace.losses.get(table)]:
        return f"rows of {', '.join(lost)} were lost, and what was freed may be among them"
    if len(trace.steps) < FEWEST_STEPS:
        how = f": {how_to_mark_steps(trace)}" if not len(trace.steps) and "source" in trace.facts else ""
        return f"too few steps to tell: {FEWEST_STEPS} are needed, and {counted(len(trace.steps), 'was', 'were')} recorded{how}"
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
    return not_enough([_named(leak) for leak in leaks])


def not_enough(names: list[str]) -> str | None:
    """Why it cannot be told whether these places leak that `may_grow`; None for none."""
    if not names:
        return None
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    held = f"{', '.join(names[:MOST_NAMED])}{more} held nothing at first, and more in each step since"
    return f"too few steps to tell: {held}, of which {FEWEST_STEPS} are needed"


def _named(leak: Leak) -> str:
    return (leak.op or "(no op)") + (f" in {leak.module}" if leak.module not in ("", NO_MODULE) else "")


def find_leaks(
    trace: Trace, allocations: Rows, category: Ints, modules: AllocationModules, lines_of: Callable[[Ints], list[str]]
) -> tuple[list[Leak], list[Leak]]:
    """The leaks among these rows of ``trace.allocations``, and what `may_grow`, the most growth first.

    Args:
        lines_of: gives the line of the program that made each of some of these rows.

    Both are empty where it cannot be told: see `why_unknown`.
    """
    if why_unknown(trace) is not None:
        return [], []
    first, last = held_at_ends(trace.steps, allocations)
    places = _Places(trace, allocations, np.flatnonzero(first < last), modules, lines_of)
    found: list[Leak] = []
    unclear: list[Leak] = []
    for grown in grown_places(first, last, allocations["bytes"], len(trace.steps), places.place):
        size = allocations["bytes"][grown.still_held]
        by_category = np.bincount(category[grown.still_held], weights=size, minlength=len(CATEGORIES))
        kind, count = CATEGORIES[int(by_category.argmax())], len(grown.still_held)
        op, module, line = grown.place
        leak = Leak(op, module, kind, count, grown.bytes, grown.steps, grown.growth, line)
        (found if grown.keeps_growing else unclear).append(leak)
    return found, unclear


class GrownPlace(NamedTuple, Generic[Place]):
    """A place that held more and more at the ends of steps.

    Attributes:
        place: which.
        keeps_growing: whether it leaks; otherwise it may, see `may_grow`.
        still_held: the rows of the blocks that it held at the end of the last step.
        bytes: of these.
        steps, growth: as `Leak` has them.
    """

    place: Place
    keeps_growing: bool
    still_held: Ints
    bytes: int
    steps: int
    growth: float


def grown_places(first: Ints, last: Ints, sizes: Ints, count: int, place_of: Callable[[int], Place]) -> list[GrownPlace[Place]]:
    """The places whose blocks `keeps_growing` or `may_grow`, the most growth first.

    Args:
        first, last: of each block, the steps at whose ends it was held: from the first to before the second.
        sizes: its bytes.
        count: the number of steps, at least `FEWEST_STEPS`.
        place_of: the place of the block in a row.
    """
    at_end = np.flatnonzero((first < count) & (last == count))  # a place that holds nothing at the end does not grow
    growing = {place_of(row) for row in at_end[first[at_end] > 2 * count // 3].tolist()}
    rows_of: dict[Place, list[int]] = {place: [] for place in sorted(growing)}
    for row in np.flatnonzero(first < last).tolist() if rows_of else ():
        if (place := place_of(row)) in rows_of:
            rows_of[place].append(row)
    found: list[GrownPlace[Place]] = []
    for place, of_place in rows_of.items():
        rows = np.array(of_place)
        change = np.bincount(first[rows], weights=sizes[rows], minlength=count + 1)
        held = np.cumsum(change - np.bincount(last[rows], weights=sizes[rows], minlength=count + 1))[:count].astype(np.int64)
        if (grows := keeps_growing(held)) or may_grow(held):
            since = _since_held(held)
            growth = float(since[-1] - since[0]) / (len(since) - 1)
            rises = int((np.diff(held, prepend=0) > 0).sum())
            found.append(GrownPlace(place, grows, rows[last[rows] == count], int(held[-1]), rises, growth))
    return sorted(found, key=lambda grown: -grown.growth)


class _Places:
    """The op, the module and the line that each of these allocations belongs to."""

    def __init__(
        self, trace: Trace, allocations: Rows, rows: Ints, modules: AllocationModules, lines_of: Callable[[Ints], list[str]]
    ) -> None:
        self._op, self._modules = allocations["op"], modules
        ops = np.unique(self._op[rows])
        self._names = dict(zip(ops.tolist(), outermost_op_names(trace, ops), strict=True))
        self._lines = dict(zip(rows.tolist(), lines_of(rows), strict=True))

    def place(self, row: int) -> tuple[str, str, str]:
        return self._names[int(self._op[row])], self._modules.path(row), self._lines[row]

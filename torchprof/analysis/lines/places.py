"""Places: the lines, or the functions, that stacks belong to."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.stack_costs import StackCosts, weighted
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.trace.trace import Trace

__all__ = ["Place", "Places", "places_of"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Place(NamedTuple):
    """A line or a function.

    Attributes:
        function: its name, with the classes and functions that it is defined in; empty where nothing is known.
        file: None: not known, as of functions written in C.
        line: None: of a function it is not known which, or the place is the function.
        first_line: where the definition of the function begins; None: not known.
    """

    function: str
    file: str | None
    line: int | None
    first_line: int | None


UNKNOWN: Final = Place("", None, None, None)


class Places:
    """The places of `StackCosts`.

    Attributes:
        list: the places.
        of: of every row of the costs, the place whose figures they are.
        called: of every row, the place that called the backward pass; -1: none.
    """

    def __init__(self, places: list[Place], of: Ints, called: list[int], around: _Around) -> None:
        self.list, self.of, self.called = places, of, called
        self._around = around

    def own(self, values: Floats) -> Floats:
        """The values of every row of the costs, summed by place: each counts once."""
        return weighted(self.of, values, len(self.list))

    def inclusive(self, values: Floats) -> Floats:
        """The same, each also for all places whose functions had called it: once for a place, however often it is around."""
        by_stack = weighted(self._around.chain, values)
        row, place = self._around.pairs
        more_row, more_place = self._around.more
        count = len(self.list)
        return weighted(place, by_stack[row], count) + weighted(more_place, values[more_row], count)

    def around(self, row: int) -> frozenset[int]:
        """The place of this row of the costs, and those whose functions had called it."""
        return self._around.of(row)


class _Around:
    """The places around rows of costs. Those of a stack are listed once, and for a row what else the call of backward adds.

    Attributes:
        chain: of every row, a number for its stack.
        pairs, more: numbers and places, and rows and further places.
    """

    def __init__(self, keys: list[tuple[int, int]], chains: list[frozenset[int]], passes: list[frozenset[int]]) -> None:
        numbers: dict[tuple[int, int], int] = {}
        self.chain = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
        of_chain = dict(zip(self.chain.tolist(), chains, strict=True))
        self.pairs = _listed(of_chain)
        self.more = _listed(
            {row: calls - chain for row, (chain, calls) in enumerate(zip(chains, passes, strict=True)) if calls}
        )
        self._chains, self._passes = chains, passes

    def of(self, row: int) -> frozenset[int]:
        return self._chains[row] | self._passes[row]


def _listed(sets: dict[int, frozenset[int]]) -> tuple[Ints, Ints]:
    key = np.repeat(np.array(list(sets), dtype=np.int64), [len(places) for places in sets.values()])
    return key, np.array([place for places in sets.values() for place in places], dtype=np.int64)


def places_of(trace: Trace, costs: StackCosts, *, libraries: bool, functions: bool) -> Places:
    """The places of these costs.

    What a library does is of the line that called it, unless ``libraries``, or where no line of another called it.

    Args:
        functions: whether places are functions; else they are lines, and functions where no line is known.
    """
    index = _Index(trace, functions)
    counted = [*counted_rows(trace, libraries).tolist(), -1]
    parents = trace.stacks["parent"].tolist()
    stacks, called, known = (getattr(costs, name).tolist() for name in ("stack", "called", "line_known"))
    shown = [counted[stack] if counted[stack] >= 0 else stack for stack in stacks]
    known = [line or row != stack for line, row, stack in zip(known, shown, stacks, strict=True)]
    of = [index.of(row, line) for row, line in zip(shown, known, strict=True)]
    sets: dict[int, frozenset[int]] = {-1: frozenset()}

    def above(stack: int) -> frozenset[int]:
        """The places of the rows that count, from this one outward."""
        way = []
        at = counted[stack]
        while at not in sets:
            way.append(at)
            at = counted[parents[at]]
        found = sets[at]
        for at in reversed(way):
            place = index.of(at, True)
            found = found if place in found else found | {place}
            sets[at] = found
        return found

    chains = {}
    keys = list(zip(stacks, known, strict=True))
    for at, (stack, line) in enumerate(keys):
        if (stack, line) not in chains:  # where no line is known: of the function, and of what is around it
            chains[stack, line] = above(stack if line else parents[stack]) | {of[at]}
    passes = {stack: above(stack) for stack in set(called)}
    at_call = [index.of(counted[stack], True) if counted[stack] >= 0 else -1 for stack in called]
    around = _Around(keys, [chains[key] for key in keys], [passes[stack] for stack in called])
    return Places(index.places(), np.array(of, dtype=np.int64), at_call, around)


class _Index:
    """Numbers of places, as they are met."""

    def __init__(self, trace: Trace, functions: bool) -> None:
        self._trace = trace
        groups = Groups.by([trace.functions[name] for name in ("file", "first_line", "name")])
        self._example = groups.first.tolist()
        function, line = trace.stacks["function"], trace.stacks["line"].astype(np.int64)
        file = trace.functions["file"].astype(np.int64)[function]
        known = (line >= 0) & (file >= 0) & (not functions)
        self._file, self._line = np.where(known, file, -1).tolist(), line.tolist()
        self._function = groups.of[function].tolist()
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._of_rows: dict[tuple[int, bool], int] = {}

    def of(self, row: int, line_known: bool) -> int:
        """The number of the place of this row of ``trace.stacks``, or of its function; of -1, of what is unknown."""
        found = self._of_rows.get((row, line_known))
        if found is None:
            if row < 0:
                key = -1, -1, -1
            elif line_known and self._file[row] >= 0:
                key = self._file[row], self._line[row], -1
            else:
                key = -1, -1, self._function[row]
            found = self._of_rows[row, line_known] = self._numbers.setdefault(key, len(self._numbers))
        return found

    def places(self) -> list[Place]:
        """All that were met."""
        examples: dict[int, int] = {}
        for (row, _), number in self._of_rows.items():
            examples.setdefault(number, row)
        return [self._place(examples[number], line) for (_, line, _), number in self._numbers.items()]

    def _place(self, row: int, line: int) -> Place:
        if row < 0:
            return UNKNOWN
        name, file, first_line = self._trace.functions[self._example[self._function[row]]].tolist()
        strings = self._trace.strings
        return Place(
            strings[name],
            strings[file] if file >= 0 else None,
            line if line >= 0 else None,
            first_line if first_line >= 0 else None,
        )

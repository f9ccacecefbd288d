"""What the rows of a trace refer to is there, so that whatever follows them comes to an end.

It is checked once, when a file is read: for whole columns at a time, in a small part of the time that reading takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import (
    NO_ARGUMENTS,
    NO_NAME,
    NO_THREAD,
    PHASE_SHIFT,
    RAGGED,
    TENSOR_OBJECT,
    Activity,
    Direction,
    Phase,
    Rows,
    RuntimeCallKind,
)

__all__ = ["Damage", "Right", "find_damage"]

Tables = Mapping[str, Rows]
Check = Callable[[Rows, int], None]
"""Of a part of a table: its rows, and the number of the first."""
Right = tuple[Rows, tuple[Check, ...]]
"""A table, and the checks that found nothing wrong with it."""

LATEST: Final = 2**55
"""Nanoseconds: a year. Sums of times stay far from what their columns hold."""
MOST_BYTES: Final = 2**60
MOST_COUNTED: Final = 2**62


class Damage(Exception):
    """What is wrong: the table, the row, and why."""


class Reference(NamedTuple):
    """A column that holds row numbers of another table, or -1 where ``optional``, or ``none`` for no row."""

    table: str
    column: str
    to: str
    optional: bool = False
    none: int | None = None


class Span(NamedTuple):
    """``first`` and the rows after it, ``how_many`` in all, are rows of another table."""

    table: str
    first: str
    how_many: str
    to: str


REFERENCES: Final = (
    Reference("ops", "signature", "signatures"),
    Reference("ops", "module_call", "module_calls", optional=True),
    Reference("ops", "thread", "threads"),
    Reference("operands", "", "tensors"),
    Reference("tensors", "shape", "shapes"),
    Reference("signatures", "name", "strings"),
    Reference("signatures", "arguments", "strings", none=NO_ARGUMENTS),
    Reference("signatures", "results", "strings", none=NO_ARGUMENTS),
    Reference("module_calls", "module", "modules"),
    Reference("module_calls", "op", "ops", optional=True),
    Reference("module_calls", "thread", "threads"),
    Reference("modules", "type", "strings"),
    Reference("allocations", "op", "ops", optional=True),
    Reference("allocations", "free_op", "ops", optional=True),
    Reference("allocations", "module_call", "module_calls", optional=True),
    Reference("allocations", "module", "modules", optional=True),
    Reference("kernels", "name", "strings"),
    Reference("kernels", "runtime_call", "runtime_calls", optional=True),
    Reference("kernels", "op", "ops", optional=True),
    Reference("kernels", "module_call", "module_calls", optional=True),
    Reference("runtime_calls", "name", "strings"),
    Reference("runtime_calls", "op", "ops", optional=True),
    Reference("runtime_calls", "module_call", "module_calls", optional=True),
    Reference("runtime_calls", "thread", "threads", none=NO_THREAD),
    Reference("marks", "name", "strings"),
    Reference("op_totals", "signature", "signatures"),
    Reference("op_totals", "module", "modules", optional=True),
    Reference("call_totals", "module", "modules"),
    Reference("call_totals", "caller", "modules", optional=True),
    Reference("kernel_totals", "name", "strings"),
    Reference("kernel_totals", "op", "strings", none=NO_NAME),
    Reference("kernel_totals", "module", "modules", optional=True),
    Reference("functions", "name", "strings"),
    Reference("functions", "file", "strings", optional=True),
    Reference("stacks", "function", "functions"),
    Reference("op_stacks", "", "stacks", optional=True),
    Reference("call_stacks", "", "stacks", optional=True),
    Reference("allocation_stacks", "", "stacks", optional=True),
    Reference("op_totals", "stack", "stacks", optional=True),
    Reference("call_totals", "stack", "stacks", optional=True),
)

SPANS: Final = (
    Span("ops", "inputs", "n_inputs", "operands"),
    Span("ops", "outputs", "n_outputs", "operands"),
    Span("module_calls", "inputs", "n_inputs", "operands"),
    Span("module_calls", "outputs", "n_outputs", "operands"),
    Span("signatures", "inputs", "n_inputs", "operands"),
    Span("signatures", "outputs", "n_outputs", "operands"),
    Span("shapes", "first", "ndim", "dims"),
)

NESTED: Final = ("ops", "module_calls", "stacks")
"""Tables whose rows lie inside others that come before them: ``parent``."""

ORDERED: Final = ("ops", "module_calls")
"""Tables in order of thread and start."""

AT_ONCE: Final = 2**13

_TIMES = (-1, LATEST)
_BYTES = (-1, MOST_BYTES)
_COUNTS = (0, MOST_COUNTED)

BOUNDS: Final[Mapping[str, Mapping[str, tuple[int, int]]]] = {
    "ops": {"start": (0, LATEST), "end": _TIMES, "parent": (-1, 2**31), "flags": (0, (max(Phase) + 1 << PHASE_SHIFT) - 1)},
    "tensors": {"storage_bytes": _BYTES, "bytes": _BYTES},
    "dims": {"": (RAGGED, MOST_COUNTED)},
    "module_calls": {"start": (0, LATEST), "end": _TIMES, "parent": (-1, 2**31)},
    "allocations": {"start": _TIMES, "end": _TIMES, "bytes": (0, MOST_BYTES)},
    "allocator_totals": {
        "time": (0, LATEST),
        "allocated": _BYTES,
        "reserved": _BYTES,
        "unreported": (-MOST_BYTES, MOST_BYTES),
    },
    "kernels": {
        "start": (-LATEST, LATEST),
        "end": (-LATEST, LATEST),
        "bytes": _BYTES,
        "kind": (0, max(Activity)),
        "direction": (0, max(Direction)),
        "phase": (0, max(Phase)),
    },
    "runtime_calls": {
        "start": (-LATEST, LATEST),
        "end": (-LATEST, LATEST),
        "kind": (0, max(RuntimeCallKind)),
        "phase": (0, max(Phase)),
    },
    "marks": {"time": (0, LATEST)},
    "steps": {
        "start": (0, LATEST),
        "end": (0, LATEST),
        "number": (0, 2**31),
        **dict.fromkeys(("allocated", "peak", "held"), (0, MOST_BYTES)),
        **dict.fromkeys(("busy", "forward", "recompute", "backward", "optimizer", "data"), (0, LATEST)),
    },
    "op_totals": {
        **dict.fromkeys(("time", "self_time", "min", "max", "device_time", "device_self"), (-LATEST, LATEST)),
        **dict.fromkeys(("count", "kernels"), _COUNTS),
        "allocated": _BYTES,
        "flops": (-2, MOST_COUNTED),
        "phase": (0, max(Phase)),
    },
    "call_totals": {
        **dict.fromkeys(("time", "self_time", "min", "max"), (-LATEST, LATEST)),
        "count": _COUNTS,
        "phase": (0, max(Phase)),
    },
    "kernel_totals": {
        **dict.fromkeys(("time", "min", "max"), (-LATEST, LATEST)),
        "count": _COUNTS,
        "bytes": _BYTES,
        "kind": (0, max(Activity)),
        "direction": (0, max(Direction)),
        "phase": (0, max(Phase)),
    },
    "functions": {"first_line": (-1, 2**31)},
    "stacks": {"line": (-1, 2**31), "parent": (-1, 2**31)},
    "signature_flops": {"": (-2, MOST_COUNTED)},
}
"""The least and the largest number of columns; "" is a table without columns."""


def find_damage(tables: Tables, strings: int, signature_flops: Rows, right: MutableMapping[str, Right] | None = None) -> None:
    """Check the tables of a trace.

    Args:
        strings: how many there are.
        signature_flops: FLOPs of every signature.
        right: what was found right before, by the name of a table: it is not looked through again for another trace that shares
            it, and is replaced by what is found now.

    Raises:
        Damage: names the table and the row of what is wrong first.
    """
    counts = {**{name: len(rows) for name, rows in tables.items()}, "strings": strings}
    for name, rows in {**tables, "signature_flops": signature_flops}.items():
        checks = _checks(name, tuple(counts[to] for to in _REFERRED.get(name, ())))
        before = right.get(name) if right is not None else None
        if before is not None and before[0] is rows and before[1] is checks:
            continue
        for first in range(0, len(rows), AT_ONCE):  # so few that they stay in the cache from one check to the next
            part = rows[max(0, first - 1) : first + AT_ONCE]  # with the row above
            for check in checks:
                check(part, max(0, first - 1))
        if right is not None:
            right[name] = rows, checks


@lru_cache(maxsize=256)
def _checks(table: str, counts: tuple[int, ...]) -> tuple[Check, ...]:
    """The checks of a table.

    Args:
        counts: how many rows the tables have that it refers to: those of ``_REFERRED``.
    """
    bounds = _bounds(table, dict(zip(_REFERRED.get(table, ()), counts, strict=True)))
    return (*bounds, *(check for check in ORDERS if check.table == table))


@dataclass(frozen=True, slots=True)
class Bounds:
    """A column, or the sum of two, is within bounds. ``none`` is another number that it may be."""

    table: str
    column: str
    plus: str
    least: int
    most: int
    why: str
    none: int | None = None

    def __call__(self, rows: Rows, first: int) -> None:
        numbers = rows[self.column] if self.column else rows
        if self.plus:
            numbers = np.add(numbers, rows[self.plus], dtype=np.int64)
        if self.none is not None:
            numbers = np.where(numbers == self.none, self.least, numbers.astype(np.int64))
        is_low = (self.least > 0 or numbers.dtype.kind == "i") and int(numbers.min()) < self.least
        if is_low or int(numbers.max()) > self.most:
            row = int(np.flatnonzero((numbers < self.least) | (numbers > self.most))[0])
            raise Damage(f"{self.column or 'the number'} {int(numbers[row])} in row {first + row} of {self.table} {self.why}")


@dataclass(frozen=True, slots=True)
class Order:
    """Rows fit those before them. ``is_wrong`` tells of every row, of which the first has been looked at before."""

    table: str
    is_wrong: Callable[[Rows, int], npt.NDArray[np.bool_]]
    why: str

    def __call__(self, rows: Rows, first: int) -> None:
        wrong = self.is_wrong(rows, first)
        if wrong.any():
            raise Damage(f"row {first + int(np.flatnonzero(wrong)[0])} of {self.table} {self.why}")


def _is_not_inside(rows: Rows, first: int) -> npt.NDArray[np.bool_]:
    wrong: npt.NDArray[np.bool_] = rows["parent"] >= np.arange(first, first + len(rows))
    return wrong


def _is_before(rows: Rows, first: int) -> npt.NDArray[np.bool_]:
    start, thread = rows["start"], rows["thread"]
    wrong = start[1:] < start[:-1]
    if wrong.any() or thread[0] != thread[-1]:
        wrong = (thread[1:] < thread[:-1]) | ((thread[1:] == thread[:-1]) & wrong)
    return np.append(False, wrong)


def _is_an_earlier_step(rows: Rows, first: int) -> npt.NDArray[np.bool_]:
    return np.append(False, rows["start"][1:] < rows["start"][:-1])


def _ends_early(rows: Rows, first: int) -> npt.NDArray[np.bool_]:
    wrong: npt.NDArray[np.bool_] = rows["end"] < rows["start"]
    return wrong & (rows["end"] != -1) if wrong.any() else wrong


ORDERS: Final = (
    *(Order(table, _is_not_inside, "is not inside another that comes before it") for table in NESTED),
    *(Order(table, _is_before, "began before the row above it, on the same thread") for table in ORDERED),
    Order("steps", _is_an_earlier_step, "began before the row above it"),
    *(Order(table, _ends_early, "ends before it begins") for table in ("ops", "module_calls", "allocations", "steps")),
)


_REFERRED: Final[Mapping[str, tuple[str, ...]]] = {
    table: tuple(dict.fromkeys([*(each.to for each in (*REFERENCES, *SPANS) if each.table == table), "strings"]))
    for table in {each.table for each in (*REFERENCES, *SPANS)}
}
"""Of what a table has rows of others."""


def _bounds(table: str, counts: Mapping[str, int]) -> Iterator[Check]:
    """The checks of columns of a table, whose bounds are the lengths of others."""
    for of, column, to, optional, none in REFERENCES:
        if of == table:
            least = -1 if optional else 0
            yield Bounds(table, column, "", least, counts[to] - 1, f"names {to} that are not there", none)
    for of, column, count, to in SPANS:
        if of == table:
            yield Bounds(table, column, count, 0, counts[to], f"names {to} that are not there")
    for column, (least, most) in BOUNDS.get(table, {}).items():
        yield Bounds(table, column, "", least, most, f"is not between {least} and {most}")
    if table == "tensors":
        yield Order(table, partial(_is_unnamed, strings=counts["strings"]), "names a string that is not there")


def _is_unnamed(rows: Rows, first: int, strings: int) -> npt.NDArray[np.bool_]:
    wrong: npt.NDArray[np.bool_] = rows["flags"] & TENSOR_OBJECT != 0
    return wrong & (rows["storage"] >= strings) if wrong.any() else wrong

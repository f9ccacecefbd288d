"""What threads of gloo may hold beyond what the program does: a bound, as it is a matter of time.

A thread of gloo tells the program that a collective has ended, and lets go of its tensors when it runs again: once the
system gives it a processor, and where Python has to know that a tensor is gone, once it gets the interpreter's lock. The program
goes on meanwhile. Each process group has two threads, so two of its collectives at most are held so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.distributed.collective_names import kind_of
from torchprof.analysis.memory.changes import Changes
from torchprof.estimation.sharding.works import Began, is_held
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["held_late"]

THREADS: Final = 2
"""Of each process group of gloo: the default of ``ProcessGroupGloo::Options``."""

Ints = npt.NDArray[np.int64]


def held_late(trace: Trace, allocations: Rows, began: Sequence[Began]) -> int:
    """By how many bytes the peak is higher if gloo lets go of each collective only once the next two of its group have begun.

    Args:
        trace: of the estimate.
        allocations: those of its account.
        began: the collectives of the trace, in order.
    """
    names = [trace.strings[name] for name in trace.op_names.tolist()]
    ops = [row for row, name in enumerate(names) if is_held(name)]
    if not ops or len(ops) != len(began):
        return 0
    late = allocations.copy()
    blocks = _Blocks(allocations)
    never = int(max(trace.ops["end"].max(), allocations["end"].max(initial=0))) + 1
    for place, (op, collective) in enumerate(zip(ops, began, strict=True)):
        following = [
            later for later, other in zip(ops[place + 1 :], began[place + 1 :], strict=True) if _same(other, collective)
        ]
        until = [int(trace.ops["end"][later]) for later in following[:THREADS]]
        until += [never] * (THREADS - len(until))
        copies = blocks.made_in(op)
        held = [] if kind_of(names[op]) == "reduce-scatter" else [*blocks.of_operands(trace, op)]
        if not held or collective.goes_on:  # then what it needs while it runs, it may need at any time until it is awaited
            held += copies
        for block in held:
            if 0 <= late["end"][block] < until[-1]:
                late["end"][block] = until[-1]
    return max(0, _peak(late) - _peak(allocations))


def _same(other: Began, collective: Began) -> bool:
    return other.group == collective.group


def _peak(allocations: Rows) -> int:
    changes = Changes(allocations)
    return int(changes.held.max(initial=changes.held_before))


class _Blocks:
    """The rows of allocations, by where they are and by what made them."""

    def __init__(self, allocations: Rows) -> None:
        self._allocations = allocations
        self._by_address: dict[int, list[int]] = {}
        self._by_op: dict[int, list[int]] = {}
        for row, (address, op) in enumerate(zip(allocations["address"].tolist(), allocations["op"].tolist(), strict=True)):
            self._by_address.setdefault(address, []).append(row)
            self._by_op.setdefault(op, []).append(row)

    def made_in(self, op: int) -> list[int]:
        return self._by_op.get(op, [])

    def of_operands(self, trace: Trace, op: int) -> Iterator[int]:
        """The blocks of what an op is given and returns."""
        row = trace.ops[op]
        for first, count in ((row["inputs"], row["n_inputs"]), (row["outputs"], row["n_outputs"])):
            for storage in trace.tensors["storage"][trace.operands[first : first + count]].tolist():
                for block in self._by_address.get(storage, ()):
                    begin, end = self._allocations["start"][block], self._allocations["end"][block]
                    if begin <= row["end"] and (end < 0 or end >= row["start"]):
                        yield block

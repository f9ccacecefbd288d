"""What threads of gloo may hold beyond what the program does: a bound, as it is a matter of time.

A thread of gloo tells the program that a collective has ended, and lets go of its tensors when it runs again: once the
system gives it a processor, and where Python has a name for a tensor, once it gets the interpreter's lock. The program goes
on meanwhile. Each process group has two threads, each of which can hold one collective so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from torchprof.analysis.distributed.collective_names import kind_of
from torchprof.analysis.memory.changes import Changes
from torchprof.estimation.sharding.works import Began
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["held_late"]

THREADS: Final = 2
"""Of each process group of gloo: the default of ``ProcessGroupGloo::Options``."""
NEVER: Final = np.iinfo(np.int64).max


def held_late(trace: Trace, allocations: Rows, began: Sequence[Began]) -> int | None:
    """By how many bytes the peak is higher if gloo lets go of each collective only once the next two of its group have begun.
    A thread that gets no processor for longer than that holds it longer.

    Args:
        trace: of the estimate.
        allocations: those of its account.
        began: the collectives of the trace, in order.

    Returns:
        Bytes; None where the recording has lost some of the collectives, and it is not known.
    """
    ops = _rows_of(trace, began)
    if ops is None:
        return None
    late = allocations.copy()
    blocks = _Blocks(allocations)
    next_two: dict[str, list[int]] = {}
    for op, collective in zip(reversed(ops), reversed(began), strict=True):
        following = next_two.setdefault(collective.group, [NEVER] * THREADS)
        copies = blocks.made_in(op)
        held = [] if kind_of(collective.op) == "reduce-scatter" else [*blocks.of_operands(trace, op)]
        if not held or collective.goes_on:  # then what it needs while it runs, it may need at any time until it is awaited
            held += copies
        ends = late["end"][held]
        late["end"][held] = np.where(ends < 0, ends, np.maximum(ends, following[-1]))
        next_two[collective.group] = [int(trace.ops["end"][op]), *following[:-1]]
    return max(0, _peak(late) - _peak(allocations))


def _rows_of(trace: Trace, began: Sequence[Began]) -> list[int] | None:
    """The row of each collective among the ops; None where some are missing. Around them are others of like names."""
    expected = iter([*(collective.op for collective in began), None])
    name, rows = next(expected), []
    for row, met in enumerate(trace.op_names.tolist()):
        if trace.strings[met] == name:
            rows.append(row)
            name = next(expected)
    return rows if name is None else None


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

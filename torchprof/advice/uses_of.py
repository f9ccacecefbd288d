"""Which ops read or write the memory of some tensors, in order of time: what tells whether a copy of it was needed.

Memory is told apart by its address. A block that was freed gives its address to others: what writes there is a use as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.registry import NotTold
from torchprof.flops.views import moves_nothing
from torchprof.trace.schema import SCOPE_FUNCTION
from torchprof.trace.trace import Trace

__all__ = ["Uses", "check_addresses", "storages_of", "uses_of"]

Ints = npt.NDArray[np.int64]
Addresses = npt.NDArray[np.uint64]

AT_ONCE: Final = ("_foreach_", "_fused_")
"""In the names of ops that write to their inputs and return nothing."""
MAKES: Final = ("aten::empty", "aten::new_empty")
"""Ops that move no bytes, and yet begin a new block."""


def check_addresses(trace: Trace) -> None:
    """
    Raises:
        NotTold: the trace does not tell tensors apart.
    """
    if trace.facts.get("addresses") is False or trace.facts.get("outputs") is False:
        raise NotTold("the file does not have the addresses of tensors, nor what ops return")
    if trace.facts.get("shapes") is False or (len(trace.ops) and not len(trace.operands)):
        raise NotTold("no tensors of ops were recorded: record with shapes=True")


def storages_of(trace: Trace, tensors: Ints) -> Addresses:
    """The address of the memory of each of these rows of ``trace.tensors``; 0: not known."""
    return np.append(trace.tensors["storage"], np.uint64(0))[tensors]


@dataclass(frozen=True, slots=True)
class Uses:
    """Uses of memory by ops that are no views, in order of address and time.

    Attributes:
        storage, start, op: the address, when the op began, and its row.
        writes: whether the op returned it, or may have written to it without: one for many tensors, or of another library.
    """

    storage: Addresses
    start: Ints
    op: Ints
    writes: npt.NDArray[np.bool_]

    def between(self, storage: Addresses, after: Ints, before: Ints, *, writes: bool = False) -> Ints:
        """For each address, how many uses, or writes, began after one time and before another."""
        count = len(self.op)
        counts = np.append(0, np.cumsum(self.writes if writes else np.ones(count, dtype=np.int64)))
        address = np.unique(np.concatenate([self.storage, storage]), return_inverse=True)[1]
        times = np.unique(np.concatenate([self.start, after, before]), return_inverse=True)[1]
        keys = address[:count] * len(times) + times[:count]  # in order, as the uses are
        first, last = (
            np.searchsorted(keys, address[count:] * len(times) + at)
            for at in (times[count : count + len(after)], times[count + len(after) :])
        )
        found: Ints = np.where(last > first, counts[last] - counts[first], 0)
        return found


def uses_of(trace: Trace, storages: Addresses) -> Uses:
    """The uses of memory with these addresses, in all of the recording."""
    ops = trace.ops
    wanted = np.append(np.isin(trace.tensors["storage"], storages[storages != 0]), False)
    is_wanted = wanted[trace.operands]
    before = np.append(0, np.cumsum(is_wanted))
    writers = np.array([_may_write(name) for name in trace.strings], dtype=np.bool_)
    kept = np.flatnonzero((ops["scope"] == SCOPE_FUNCTION) & ~_views(trace)[trace.op_names])
    parts = []
    for which in ("inputs", "outputs"):
        first, count = ops[which][kept].astype(np.int64), ops[f"n_{which}"][kept].astype(np.int64)
        touches = np.flatnonzero(before[first + count] > before[first])
        rows, first, count = kept[touches], first[touches], count[touches]
        op = np.repeat(rows, count)
        operand = np.repeat(first - np.append(0, np.cumsum(count)[:-1]), count) + np.arange(len(op))
        mine = is_wanted[operand]
        op, storage = op[mine], trace.tensors["storage"][trace.operands[operand[mine]]]
        parts.append((op, storage, writers[trace.op_names[op]] | (which == "outputs")))
    op, storage, writes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    start = ops["start"][op]
    order = np.lexsort((start, storage))
    return Uses(storage[order], start[order], op[order], writes[order])


def _views(trace: Trace) -> npt.NDArray[np.bool_]:
    """Which rows of ``trace.strings`` are names of ops that move nothing, and make nothing."""
    return np.array([_is_view(name) for name in trace.strings], dtype=np.bool_)


@cache
def _may_write(name: str) -> bool:
    return not name.startswith("aten::") or any(part in name for part in AT_ONCE)


@cache
def _is_view(name: str) -> bool:
    return moves_nothing(name) and not name.startswith(MAKES)

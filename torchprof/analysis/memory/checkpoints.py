"""What activation checkpointing of a module would drop, of the activations that are held at the peak.

``torch.utils.checkpoint`` of a call keeps what the call was given and what it returned, and computes again what lies between.
So of the blocks that were allocated in it, and in the calls inside, all are dropped but those that it returned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.spans import sum_by
from torchprof.trace.trace import Trace

__all__ = ["Drops", "drops", "peak_without", "step_of_peak"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Drops:
    """Which blocks a checkpoint of which call would drop: pairs, as one block lies in all calls around it.

    Attributes:
        rows: of ``account.allocations``.
        calls: rows of ``trace.module_calls``.
    """

    rows: Ints
    calls: Ints

    def bytes_by_call(self, account: MemoryAccount, rows: Flags) -> Ints:
        """For every call, the bytes that it drops of these rows."""
        own = rows[self.rows]
        return sum_by(self.calls[own], account.allocations["bytes"][self.rows[own]], len(account.trace.module_calls))


def drops(account: MemoryAccount) -> Drops:
    """What checkpoints would drop of the activations that were made in the step of the peak."""
    calls = account.trace.module_calls
    begin, end = step_of_peak(account)
    allocations = account.allocations
    call = allocations["module_call"].astype(np.int64)
    rows = np.flatnonzero(
        (account.category == CATEGORIES.index("activations"))
        & (allocations["start"] >= begin)
        & (allocations["start"] < end)
        & (call >= 0)
        & (call < len(calls))
    )
    returned, parent = _returned(account.trace), np.append(calls["parent"].astype(np.int64), -1)
    around, found = call[rows], [(rows[:0], call[:0])]
    while len(rows):
        goes = ~returned.has(around, allocations["address"][rows])
        found.append((rows[goes], around[goes]))
        around = parent[around]
        rows, around = rows[around >= 0], around[around >= 0]
    of_blocks, of_calls = zip(*found, strict=True)
    return Drops(np.concatenate(of_blocks), np.concatenate(of_calls))


def peak_without(account: MemoryAccount, rows: Ints) -> int:
    """The most that would be held in the step of the peak, were it not for these rows of ``account.allocations``."""
    begin, end = step_of_peak(account)
    changes = Changes(account.allocations)
    left = np.ones(len(account.allocations), dtype=np.int64)
    left[rows] = 0
    held = changes.held_before + np.cumsum(changes.bytes * left[changes.rows])
    inside = held[(changes.times >= begin) & (changes.times < end)]
    return int(inside.max(initial=0)) + account.untracked


def step_of_peak(account: MemoryAccount) -> tuple[int, int]:
    """From when to when it lasted; all of time where the peak is in no step."""
    steps, time = account.trace.steps, account.peak.time
    around = np.flatnonzero((steps["start"] <= time) & (time < steps["end"]))
    if not len(around):
        return 0, int(np.iinfo(np.int64).max)
    return int(steps["start"][around[0]]), int(steps["end"][around[0]])


class _Returned:
    """Which storages every call returned."""

    def __init__(self, call: Ints, storage: npt.NDArray[np.uint64]) -> None:
        self._storages, number = np.unique(storage, return_inverse=True)
        self._keys = np.unique(call * max(1, len(self._storages)) + number)

    def has(self, call: Ints, address: npt.NDArray[np.uint64]) -> Flags:
        """Whether each of these calls returned the storage at the address beside it."""
        if not len(self._storages):
            return np.zeros(len(call), dtype=np.bool_)
        number = np.minimum(np.searchsorted(self._storages, address), len(self._storages) - 1)
        found: Flags = (self._storages[number] == address) & np.isin(call * len(self._storages) + number, self._keys)
        return found


def _returned(trace: Trace) -> _Returned:
    calls = trace.module_calls
    count = calls["n_outputs"].astype(np.int64)
    call = np.repeat(np.arange(len(calls)), count)
    first = np.repeat(calls["outputs"].astype(np.int64) - np.append(0, np.cumsum(count)[:-1]), count)
    return _Returned(call, trace.tensors["storage"][trace.operands[first + np.arange(len(call))]])

"""The memory account of one device: what held every byte, when the most was held, and what was never freed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lines.where import lines_of_allocations
from torchprof.analysis.memory.allocator_totals import AllocatorTotals
from torchprof.analysis.memory.categories import CATEGORIES, UNTRACKED
from torchprof.analysis.memory.changes import Changes
from torchprof.analysis.memory.devices import resolve_device
from torchprof.analysis.memory.leaks import Leak, find_leaks, too_few_steps, why_unknown
from torchprof.analysis.memory.modules import NO_MODULE, AllocationModules
from torchprof.analysis.memory.moments import Moments, moments
from torchprof.analysis.memory.on_device import allocations_on, categories_on, changes_on, modules_on, rows_on, totals_on
from torchprof.analysis.memory.peak import Peak, peak_after, peak_change
from torchprof.analysis.memory.steps import StepMemory, not_recorded, step_memory
from torchprof.analysis.memory.timeline import held_over_time
from torchprof.analysis.remembered import remembered
from torchprof.errors import ArgumentError
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["MemoryAccount"]


@dataclass(frozen=True)
class MemoryAccount:
    """What held every byte of one device. Made by `MemoryAccount.of`.

    Attributes:
        trace, device: the trace, and the device that this is the account of: ``"cpu"``, ``"cuda:0"``, ``"meta"``, ...
        allocations: the rows of ``trace.allocations`` on that device.
        category: the category of each, as an index of ``CATEGORIES``.
        totals: the rows of ``trace.allocator_totals`` of that device; empty where its allocator reports no totals (the CPU).
    """

    trace: Trace
    device: str
    allocations: Rows
    category: npt.NDArray[np.int64]
    totals: Rows

    @classmethod
    def of(cls, trace: Trace, device: str | None = None) -> Self:
        """Account for the memory of a trace.

        Args:
            trace: recorded with ``memory=True`` and, for categories and modules, with ops, shapes and the model.
            device: such as ``"cpu"``, ``"cuda:1"`` or ``"meta"`` (what meta tensors stand for), or ``"cuda"`` where there is
                only one; by default the one that holds parameters, or else the one with the most allocated bytes.

        Raises:
            ArgumentError: nothing was recorded on that device, there are several of that type, the trace holds sums only, or it
                was recorded with ``memory=False``.
        """
        if why := trace.facts.get("memory_missing"):
            raise ArgumentError(f"trace is of a file that has no allocations: {why}")
        if trace.facts.get("memory") is False:
            raise ArgumentError("trace was recorded with memory=False, which leaves allocations out: record with memory=True")
        if trace.facts.get("aggregate"):
            raise ArgumentError(
                "trace was recorded with aggregate=True, which keeps no single allocations: trace.steps has the peak of each "
                "step and what it held; record without aggregate for the account"
            )
        device = resolve_device(trace, device)
        return cls(trace, device, allocations_on(trace, device), categories_on(trace, device), totals_on(trace, device))

    @cached_property
    def peak(self) -> Peak:
        """When the most was held."""
        found = peak_after(self.trace, self.allocations, self._modules, self._changes, self._allocator, self._peak_change)
        if self._peak_change < 0:
            return found
        return replace(found, line=self.lines_of(self._changes.rows[[self._peak_change]])[0])

    @cached_property
    def held_at_peak(self) -> npt.NDArray[np.bool_]:
        """Which of ``allocations`` were held at the peak. Their bytes and the untracked ones add up to it."""
        return self._changes.alive_after(self._peak_change)

    @property
    def untracked(self) -> int:
        """Bytes that the allocator reported as allocated at the peak, beyond all recorded blocks.

        Negative where recorded blocks had been freed on threads that are not recorded.
        """
        return int(self._allocator.untracked_at(np.array([self.peak.time]))[0])

    @property
    def untracked_at_start(self) -> int:
        """The same at the start of the recording. It differs where threads that are not recorded allocate or free meanwhile."""
        return int(self._allocator.untracked_at(np.array([0]))[0])

    @property
    def reserved(self) -> int | None:
        """Bytes that the allocator had reserved from the device at the peak; None where it does not report it (the CPU)."""
        return self._allocator.reserved_at(self.peak.time)

    @property
    def max_reserved(self) -> int | None:
        """The most that the allocator had reserved from the device at any time; None where it does not report it."""
        return self._allocator.max_reserved

    @property
    def fragmentation(self) -> int | None:
        """Bytes that were reserved at the peak but in no allocated block; None where the allocator does not report it."""
        return self.reserved - self.peak.bytes if self.reserved is not None else None

    @cached_property
    def by_category(self) -> dict[str, int]:
        """Bytes held at the peak, by category; they add up to it."""
        mask = self.held_at_peak
        sums = np.bincount(self.category[mask], weights=self.allocations["bytes"][mask], minlength=len(CATEGORIES))
        return {**{name: int(total) for name, total in zip(CATEGORIES, sums, strict=True)}, UNTRACKED: self.untracked}

    @cached_property
    def by_module(self) -> dict[str, dict[str, int]]:
        """Bytes held at the peak, by path of the module and category.

        The path of the root of the model is empty; what belongs to no module is under ``"(no module)"``.
        """
        sums = self._modules.sums(self.category, self.allocations["bytes"], self.held_at_peak)
        if self.untracked:
            sums.setdefault(NO_MODULE, {})[UNTRACKED] = self.untracked
        return sums

    def module_path(self, allocation: int) -> str:
        """The path of the module of this row of ``allocations``: empty for the root, ``"(no module)"`` for none."""
        return self._modules.path(allocation)

    def lines_of(self, allocations: npt.NDArray[np.int64]) -> list[str]:
        """The line of the program that made each of these rows of ``allocations``, as ``train.py:31``; empty where unknown."""
        return lines_of_allocations(self.trace, rows_on(self.trace, self.device)[allocations])

    @cached_property
    def saved(self) -> npt.NDArray[np.bool_]:
        """Which of ``allocations`` were activations held at the moment when the most bytes of activations were held."""
        rows = np.flatnonzero(self.category == CATEGORIES.index("activations"))
        changes = Changes(self.allocations[rows])
        mask = np.zeros(len(self.allocations), dtype=np.bool_)
        if len(changes):
            mask[rows[changes.alive_after(int(np.argmax(changes.held)))]] = True
        return mask

    @cached_property
    def saved_by_module(self) -> dict[str, int]:
        """Bytes of activations kept for backward, by path of the module that allocated them, when the most were kept.

        Empty where it is unknown: see ``saved_unknown``.
        """
        if self.saved_unknown is not None:
            return {}
        sums = self._modules.sums(self.category, self.allocations["bytes"], self.saved)
        return {path: sum(held.values()) for path, held in sums.items()}

    @property
    def saved_unknown(self) -> str | None:
        """Why it is not known what was kept for backward: ops, shapes or addresses were not recorded. None where it is."""
        missing = not_recorded(self.trace)
        if not missing:
            return None
        return f"{missing[0]} {'of tensors ' if missing[0] == 'addresses' else ''}were not recorded"

    def timeline(self, points: int = 1000) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Bytes by category over time.

        Args:
            points: the largest number of times to return. Each stands for an equal number of allocations and frees, and shows
                the most that was held during these.

        Returns:
            Times in nanoseconds, ``[n]``, and bytes, ``[n, len(CATEGORIES)]``.
        """
        return held_over_time(self.allocations, self.category, self._changes, self._allocator, points)

    def moments(self, points: int = 500, named: int = 5) -> Moments:
        """What was held at some moments, by category, and what held the most of it.

        The first is the start of the recording. Each further one stands for an equal number of allocations and frees, and is
        that after which the most was held, so that the peak is among them.

        Args:
            points: the largest number of these.
            named: how much of what held the most is listed.
        """
        names, group = self._modules.groups(self.category)
        return moments(self.allocations, names, group, self._changes, self._allocator, points, named)

    @cached_property
    def leaks(self) -> list[Leak]:
        """The ops in modules that hold more and more at the ends of steps, the most growth first.

        It may not have all where that cannot be told: see ``leaks_unknown``.
        """
        return list(self._growing[0])

    @property
    def leaks_unknown(self) -> str | None:
        """Why it cannot be told what leaks, or what leaks beside ``leaks``. None where it can.

        Rows were lost, or there are too few steps: of the recording, or since an op first held anything that grew since.
        """
        return why_unknown(self.trace) or too_few_steps(self._growing[1])

    @cached_property
    def steps(self) -> StepMemory:
        """What was allocated in every step, the most held during it and what was held at its end, in bytes, ``[steps]``."""
        return step_memory(self.trace.steps, self._changes, self._allocator)

    @cached_property
    def _growing(self) -> tuple[list[Leak], list[Leak]]:
        return _growing_on(self.trace, self.device)

    @cached_property
    def _changes(self) -> Changes:
        return changes_on(self.trace, self.device)

    @cached_property
    def _allocator(self) -> AllocatorTotals:
        return AllocatorTotals(self.totals, self._changes.held_before)

    @cached_property
    def _modules(self) -> AllocationModules:
        return modules_on(self.trace, self.device)

    @cached_property
    def _peak_change(self) -> int:
        return peak_change(self._changes, self._allocator)


@remembered
def _growing_on(trace: Trace, device: str) -> tuple[list[Leak], list[Leak]]:
    """What grows, which every account of a device says: see `find_leaks`."""
    tables = allocations_on(trace, device), categories_on(trace, device), totals_on(trace, device)
    account = MemoryAccount(trace, device, *tables)  # the device is known: of a trace in which nothing ran it cannot be found
    return find_leaks(trace, account.allocations, account.category, account._modules, account.lines_of)
